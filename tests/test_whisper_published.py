"""A published Whisper writes here what it writes in its own library: frames, vocabulary, weights and rules together."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import anyformer as af
from anyformer.contracts import Sample, prepare
from anyformer.errors import ConfigError
from anyformer.model import Sampling
from anyformer.model.transcribing import Transcribing
from anyformer.transcript import SILENCE, START, UNTIMED, moment
from anyformer_tasks.sound import Transcription
from anyformer_tokenizers.audio import AudioTokenizer
from anyformer_tokenizers.transcript import TranscriptTokenizer

SECONDS, MELS, NEW = 2.0, 16, 16
TASKS = ["<|translate|>", "<|transcribe|>"]
MARKS = ["<|endoftext|>", START, "<|en|>", "<|de|>", *TASKS, "<|startofprev|>", SILENCE, UNTIMED]
NAMES = [*MARKS, *map(moment, range(101))]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A directory as it is published: bytes as a vocabulary, the marks behind them, a tiny model of random weights."""
    transformers, library = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("whisper")
    size = 256 + len(NAMES)
    torch.manual_seed(0)
    config = transformers.WhisperConfig(
        vocab_size=size, num_mel_bins=MELS, d_model=32, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, max_source_positions=100,
        max_target_positions=64, init_std=0.4, pad_token_id=256, bos_token_id=256, eos_token_id=256,
        decoder_start_token_id=257, suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    model = transformers.WhisperForConditionalGeneration(config).eval()
    model.save_pretrained(folder)
    alphabet = library.pre_tokenizers.ByteLevel.alphabet()
    pieces = library.Tokenizer(library.models.BPE({letter: i for i, letter in enumerate(sorted(alphabet))}, []))
    pieces.model.save(str(folder))
    (folder / "added_tokens.json").write_text(json.dumps({name: 256 + i for i, name in enumerate(NAMES)}))
    (folder / "special_tokens_map.json").write_text(
        json.dumps({"eos_token": NAMES[0], "additional_special_tokens": MARKS})
    )
    return folder, model


@pytest.fixture(scope="module")
def ours(published):
    scaling = {"type": "whisper", "pad": True, "seconds": SECONDS}
    audio = AudioTokenizer(mels=MELS, subsampling=2, layers=0, scaling=scaling)
    text = {"type": "pretrained_text", "directory": str(published[0]), "special_in_text": True}
    told = TranscriptTokenizer(name="text", text=text, languages=["en", "de"], longest=SECONDS)
    assert told.streams[0].width == 256 + len(NAMES)
    return af.from_pretrained(published[0], tokenizers={"audio": audio, "text": told})


def sound(seed: int, seconds: float) -> tuple[np.ndarray, int]:
    rng = np.random.default_rng(seed)
    size = int(seconds * 16_000)
    tone = np.sin(2 * np.pi * rng.uniform(200, 3000) * np.arange(size) / 16_000)
    return (0.3 * tone * (rng.random(size) < 0.9)).astype(np.float32)[None], 16_000


@pytest.mark.parametrize("timed", [True, False])
def test_it_says_what_it_says_elsewhere(published, ours, timed):
    """Value by value, by transformers' own processors on its own features; whatever sounds it hears."""
    process = pytest.importorskip("transformers.generation.logits_process").WhisperTimeStampLogitsProcessor
    extraction = pytest.importorskip("transformers.models.whisper.feature_extraction_whisper")
    _, theirs = published
    features = extraction.WhisperFeatureExtractor(feature_size=MELS, chunk_length=int(SECONDS))
    config = type("Config", (), {"eos_token_id": 256, "bos_token_id": 256, "max_initial_timestamp_index": 50})()
    config.no_timestamps_token_id = 256 + NAMES.index(UNTIMED)
    opening = [257, 256 + NAMES.index("<|de|>"), 256 + NAMES.index("<|transcribe|>")]
    opening += [] if timed else [config.no_timestamps_token_id]
    banned = [256 + i for i in range(1, len(NAMES)) if i < len(MARKS) or not timed]
    task = Transcription(language="de", transcript="text", timed=timed, windows={"seconds": SECONDS})
    rule = Transcribing(ours.tokenizers["text"].streams[0], "de", timed=timed, silence=1.0)
    found = set()
    for seed in range(4):
        wave, rate = sound(seed, 1.0 + 0.4 * seed)
        given = features(wave[0], sampling_rate=rate, return_tensors="pt")["input_features"]
        wanted = list(opening)
        while wanted[-1] != 256 and len(wanted) < len(opening) + NEW:
            with torch.no_grad():
                logits = theirs(input_features=given, decoder_input_ids=torch.tensor([wanted])).logits[:, -1]
            logits[:, banned] = -torch.inf
            if timed:
                logits = process(config, begin_index=3)(torch.tensor([wanted]), logits)
            wanted.append(int(logits.argmax()))
        prompt = prepare("it", task, ours.tokenizers, Sample("it", {"audio": (wave, rate)}), np.random.default_rng(0))
        most = len(wanted) - 1
        (said,) = ours.generate([prompt], "text", most, Sampling(temperature=0, rules=(rule,)))
        assert said.streams["text"].values.tolist() == wanted[1:]
        found.add(tuple(wanted))
    assert len(found) > 1, "it says the same of everything"


def test_it_writes_down_recordings_of_any_length(ours):
    """With times that lie in them and never go back."""
    windows = {"seconds": SECONDS, "most": 12, "temperatures": [0.0, 0.5], "silence": 1.0, "previous": 8}
    task = Transcription(transcript="text", windows=windows)
    for seconds in (0.5, 4.7):
        told = task.transcribed(ours, Sample("it", {"audio": sound(0, seconds)}))
        times = [time for segment in told.segments for time in (segment.start, segment.end)]
        assert times == sorted(times) and all(0 <= time <= seconds for time in times)


def test_frames_are_read_as_the_weights_were_learned(published, ours):
    """By the published convolutions, and not by a tokenizer's own embedder; another number of slots is refused."""
    assert type(ours.embedders["audio"]).__name__ == "ConvolutionEmbedding"
    audio = AudioTokenizer(mels=MELS, subsampling=4, layers=0, scaling={"type": "whisper"})
    with pytest.raises(ConfigError, match="subsampling"):
        af.from_pretrained(published[0], tokenizers={"audio": audio})
