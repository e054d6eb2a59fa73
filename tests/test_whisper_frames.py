"""Whisper's log-mel frames: those of its published feature extractor; and the default stays what it was."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anyformer.errors import AnyformerError, ConfigError, SampleError
from anyformer.testing import check_tokenizer
from anyformer_tokenizers.audio import AudioTokenizer

WHISPER = {"type": "whisper"}


def noise(samples: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    quiet = np.where(np.arange(samples) % 4000 < 2000, 1.0, 1e-4)  # so that the floor below the loudest is met
    return (0.1 * quiet * rng.standard_normal(samples)).astype(np.float32)


def frames_of(wave: np.ndarray, **more) -> torch.Tensor:
    audio = AudioTokenizer(subsampling=2, layers=0, scaling={**WHISPER, **more.pop("scaling", {})}, **more)
    tokens = audio.encode((wave, 16_000))
    frames = tokens.streams["audio"].values
    assert audio.length((wave, 16_000)) == tokens.length == -(-len(frames) // 2)
    return frames


@pytest.mark.parametrize("mels", [80, 128])
@pytest.mark.parametrize("samples", [201, 1_600, 16_037, 80_000, 30 * 16_000, 31 * 16_000 + 5])
def test_frames_are_whispers(samples, mels):
    """With and without padding, and where a clip is longer than what is padded to; silence, too."""
    extraction = pytest.importorskip("transformers.models.whisper.feature_extraction_whisper")
    theirs = extraction.WhisperFeatureExtractor(feature_size=mels)
    waves = (
        [noise(samples)] if samples < 80_000 else [noise(samples), np.zeros(samples, np.float32)][: 1 + (mels == 80)]
    )
    for wave in waves:
        for ours, padding in (({}, False), ({"pad": True}, "max_length")):
            found = theirs(wave, sampling_rate=16_000, padding=padding, truncation=padding is not False)
            wanted = torch.from_numpy(np.asarray(found["input_features"][0])).T
            got = frames_of(wave, mels=mels, scaling=ours)
            assert got.shape == wanted.shape and (padding is False or len(got) == 3000)
            torch.testing.assert_close(got, wanted, atol=1e-4, rtol=0)


@settings(max_examples=15, deadline=None)
@given(samples=st.integers(1, 5000), pad=st.booleans(), hop=st.integers(40, 200))
def test_length_is_exact_or_refused_alike(samples, pad, hop):
    """`length` plans batches before anything is encoded: it refuses what `encode` refuses, and is else as long."""
    audio = AudioTokenizer(hop=hop, mels=8, layers=0, scaling={**WHISPER, "pad": pad, "seconds": 0.2})
    clip = noise(samples), 16_000
    if samples <= 200 and not pad:
        for door in (audio.encode, audio.length, audio.render):
            with pytest.raises(SampleError, match=rf"{samples} samples.*more than 200.*pad: true"):
                door(clip)
        return
    tokens = audio.encode(clip)
    assert audio.length(clip) == tokens.length
    assert audio.encode(audio.decode(tokens)).streams["audio"].values.shape == tokens.streams["audio"].values.shape


@pytest.mark.parametrize("scaling", [{}, {"pad": True, "seconds": 0.5}])
def test_the_contract_holds(scaling):
    """Nothing is learned, so it works at once; anything that a model says can be decoded."""
    audio = AudioTokenizer(mels=16, layers=0, scaling={**WHISPER, **scaling})
    assert audio.fitted and audio.state() == {}
    audio.fit([])
    check_tokenizer(audio)
    with pytest.raises(AnyformerError):
        audio.restore({"statistics.json": b"{}"})


def test_decoding_sounds_alike():
    """A tone keeps its pitch and level."""
    time = np.arange(8000) / 16_000
    audio = AudioTokenizer(scaling=WHISPER)
    decoded, rate = audio.decode(audio.encode((0.5 * np.sin(2 * np.pi * 1000 * time).astype(np.float32), 16_000)))
    middle = decoded[0, 1600:-1600]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert abs(spectrum.argmax() * rate / len(middle) - 1000) < 25 and 0.25 < np.abs(middle).max() < 1.0


def test_the_default_is_as_it_was():
    """An audio tokenizer of before has the fingerprint it had; another scaling has its own."""
    known = "2142dfde60cef9d1f520204290fcf7c969fd0b92556710a9fbf7b48751a7dde6"
    prints = [AudioTokenizer(scaling=s).fingerprint() for s in ({}, {"type": "standardised"}, WHISPER)]
    assert prints[:2] == [known, known] and prints[2] != known
    assert AudioTokenizer(scaling={**WHISPER, "pad": True}).fingerprint() not in prints


@pytest.mark.parametrize(
    ("scaling", "says"),
    [
        ({"type": "wisper"}, "Did you mean 'whisper'"),
        ({"type": "whisper", "padding": True}, "settings of 'whisper'.*padding"),
        ({"type": "whisper", "seconds": 0}, "seconds=0"),
        ({"pad": True}, "settings of 'standardised'"),
    ],
)
def test_scalings_are_checked(scaling, says):
    with pytest.raises(ConfigError, match=says):
        AudioTokenizer(scaling=scaling)
