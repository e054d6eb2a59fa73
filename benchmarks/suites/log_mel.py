"""Sound to log-mel frames."""

from __future__ import annotations

from anyformer.bench import Bar, Contender, Settings, Suite, Work

RATE = 16_000


def clip(s: Settings):
    import numpy as np

    return np.random.default_rng(0).normal(size=int(s.seconds * RATE)).astype(np.float32) * 0.1


def ours(s: Settings) -> Work:
    from anyformer.registry import tokenizers

    tokenizer, sound = tokenizers.create("audio", {"name": "audio"}), clip(s)
    tokenizer.fit([(sound, RATE)])

    def run() -> float:
        tokenizer.encode((sound, RATE))
        return s.seconds

    return Work(run)


def torchaudio(s: Settings) -> Work:
    import torch
    from torchaudio.transforms import MelSpectrogram

    mel, sound = MelSpectrogram(RATE, n_fft=400, hop_length=160, n_mels=80), torch.from_numpy(clip(s))

    def run() -> float:
        with torch.inference_mode():
            mel(sound).clamp(min=1e-6).log()
        return s.seconds

    return Work(run)


def transformers(s: Settings) -> Work:
    from transformers import WhisperFeatureExtractor

    extractor, sound = WhisperFeatureExtractor(chunk_length=int(max(1, s.seconds))), clip(s)

    def run() -> float:
        extractor(sound, sampling_rate=RATE, return_tensors="np")
        return s.seconds

    return Work(run)


SUITE = Suite(
    title="Log-mel frames of a clip of 25 seconds, 80 bands, every 10 ms.",
    unit="seconds of sound",
    contenders=[
        Contender("anyformer", ours),
        Contender("torchaudio", torchaudio, ("torchaudio",)),
        Contender("transformers", transformers, ("transformers",)),
    ],
    cases={"25 s": {}},
    full={"seconds": 25.0},
    toy={"seconds": 1.0},
    bars=[Bar("25 s", at_least=0.9, beside="torchaudio")],
    notes="Ours checks each clip and standardises each band, which the others do not.",
)
