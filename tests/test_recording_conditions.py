"""What does not say what is said: how loud a recording is, what its pauses sound like, which microphone made it."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyformer.errors import ConfigError
from anyformer_tasks.sound.variation import Variation
from anyformer_tokenizers.audio import AudioTokenizer

RATE = 8000


def tokenizer(**scaling) -> AudioTokenizer:
    """One scale for all bands."""
    audio = AudioTokenizer(sample_rate=RATE, mels=20, window=200, hop=80, layers=0, scaling=scaling)
    learned = {"mean": [-6.0] * audio.mels, "deviation": [4.0] * audio.mels}
    audio.restore({"statistics.json": json.dumps(learned).encode()})
    return audio


def frames(audio: AudioTokenizer, wave: np.ndarray) -> np.ndarray:
    return audio.encode((wave.astype(np.float32), RATE)).streams["audio"].values.numpy()


def word(seed: int = 0) -> np.ndarray:
    """Noise between two silences."""
    loud = np.zeros((1, RATE // 2))
    loud[:, 1000:3000] = 0.3 * np.random.default_rng(seed).standard_normal((1, 2000))
    return loud


@settings(max_examples=20, deadline=None)
@given(factor=st.floats(0.01, 3), hiss=st.floats(0, 1e-4))
def test_a_range_hears_neither_the_level_nor_what_lies_below_it(factor, hiss):
    """The default hears both."""
    heard, plain = tokenizer(type="standardised", range=40), tokenizer()
    noisy = factor * (word() + hiss * np.random.default_rng(1).standard_normal(word().shape))
    assert np.abs(frames(heard, noisy) - frames(heard, word())).max() < 0.1
    if not 0.5 < factor < 2:
        assert np.abs(frames(plain, noisy) - frames(plain, word())).max() > 0.2


def test_a_range_is_as_wide_as_it_says():
    """From the loudest down, in every clip that has a silence."""
    rows = frames(tokenizer(type="standardised", range=40), word())
    assert np.isclose(rows.max(), 6 / 4)
    assert np.isclose(4 * (rows.max() - rows.min()), 40 * np.log(10) / 10, atol=1e-4)


def test_silence_and_one_sample_have_a_range_too():
    audio = tokenizer(type="standardised", range=40)
    for wave in (np.zeros((1, 500)), np.zeros((1, 1)), np.ones((1, 1))):
        assert np.isfinite(frames(audio, wave)).all()


def test_a_range_is_written_down_and_travels():
    """Not the default, which older checkpoints have not got; what is decoded is heard as it was."""
    audio = tokenizer(type="standardised", range=40)
    assert audio.config()["scaling"] == {"type": "standardised", "range": 40}
    assert "scaling" not in tokenizer().config() and "scaling" not in tokenizer(type="standardised").config()
    tokens = audio.encode((word().astype(np.float32), RATE))
    again = frames(audio, audio.decode(tokens)[0])
    assert np.corrcoef(again.ravel(), tokens.streams["audio"].values.ravel())[0, 1] > 0.95


@pytest.mark.parametrize("wrong", [0, -3, float("inf"), float("nan")])
def test_a_range_that_is_none_is_named(wrong):
    with pytest.raises(ConfigError, match="expected more than 0 dB"):
        tokenizer(type="standardised", range=wrong)


@settings(max_examples=30, deadline=None)
@given(length=st.integers(1, 3000), channels=st.integers(1, 3), seed=st.integers(0, 99))
def test_colour_keeps_what_a_recording_is_and_how_long(length, channels, seed):
    """Each frequency is at most so much louder or softer, in all channels alike, by the generator alone."""
    wave = np.random.default_rng(seed).standard_normal((channels, length)).astype(np.float32)
    heard, again = (Variation(colour=6.0)((wave, RATE), np.random.default_rng(seed))[0] for _ in range(2))
    assert heard.shape == wave.shape and heard.dtype == np.float32 and np.array_equal(heard, again)
    was, now = (np.abs(np.fft.rfft(one)) for one in (wave, heard))
    inner = slice(1, -1 if length % 2 == 0 else None)
    gain = 20 * np.log10(now[:, inner] / was[:, inner])
    assert np.all(np.abs(gain) < 6.01) and np.allclose(gain, gain[:1], atol=0.1)
    assert length < 10 or np.ptp(gain) > 0, "not the same at all frequencies"


def test_colour_is_named_where_it_is_wrong():
    with pytest.raises(ConfigError, match="a gain and a colour of 0 dB or more"):
        Variation(colour=-1)
