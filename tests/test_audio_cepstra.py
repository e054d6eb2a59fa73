"""A frame told as the shape of its spectrum: cepstral coefficients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.fft import dct

from anyformer.errors import ConfigError, TokenizerError
from anyformer.testing import check_tokenizer
from anyformer_tokenizers.audio import AudioTokenizer

RATE, MELS = 8_000, 32
SETTINGS = {"sample_rate": RATE, "mels": MELS, "window": 256, "hop": 80, "layers": 0}


def cepstral(**settings) -> AudioTokenizer:
    return AudioTokenizer(**SETTINGS, scaling={"type": "cepstral", **settings})


def voice(pitch: float, seconds: float = 0.5):
    """Overtones of one pitch, all through the same vowel: two formants, at 700 and 1200 Hz."""
    time = np.arange(int(seconds * RATE)) / RATE
    tones = np.arange(pitch, RATE / 2, pitch)
    loud = sum(1 / (1 + ((tones - formant) / 100) ** 2) for formant in (700, 1200))
    wave = (loud[:, None] * np.sin(2 * np.pi * tones[:, None] * time)).sum(0)
    return (wave / np.abs(wave).max())[None].astype(np.float32), RATE


def glide(seconds: float, start: float = 400, end: float = 1500):
    """A tone that moves from one frequency to another, however long that takes."""
    frequency = np.linspace(start, end, int(seconds * RATE))
    return np.sin(2 * np.pi * np.cumsum(frequency) / RATE)[None].astype(np.float32), RATE


def test_coefficients_are_those_of_the_cosine_transform():
    """As scipy has it, frame by frame, before each is put on a scale of its own."""
    audio, sound = cepstral(range=50), voice(120)
    logarithm = audio.log_mel(audio.wave(sound))
    expected = dct(logarithm.numpy(), norm="ortho", axis=1)[:, :13]
    assert np.abs(audio._scaling.told(logarithm).numpy() - expected).max() < 1e-4


def test_all_coefficients_lose_nothing_and_few_lose_a_voices_pitch():
    """As many as bands can be turned back; the first few differ less between two pitches than between two vowels."""
    everything = cepstral(coefficients=MELS)
    logarithm = everything.log_mel(everything.wave(voice(120)))
    back = everything._scaling.power(everything._scaling.told(logarithm), MELS)
    assert torch.allclose(back.log(), logarithm, atol=1e-4)

    def apart(audio: AudioTokenizer) -> float:
        low, high = (audio._scaling.told(audio.log_mel(audio.wave(voice(p))))[10:30].mean(0) for p in (110, 200))
        return float((low - high)[1:].norm() / low[1:].norm())  # without the first, which is how loud it is

    assert apart(cepstral(coefficients=13, range=50)) < 0.7 * apart(cepstral(coefficients=MELS, range=50))


def test_the_contract_holds_and_the_stream_is_as_wide_as_there_are_coefficients():
    audio = cepstral(coefficients=9, range=50)
    assert audio.streams[0].features == 9
    check_tokenizer(audio)
    assert AudioTokenizer(**audio.config()) == audio


def test_statistics_of_as_many_bands_are_not_those_of_coefficients():
    """A checkpoint's tokenizer is refused where its frames are told otherwise."""
    bands = AudioTokenizer(**SETTINGS)
    bands.fit([voice(120)])
    with pytest.raises(TokenizerError, match="13 finite means"):
        cepstral().restore(bands.state())


@pytest.mark.parametrize(
    "wrong", [{"coefficients": 0}, {"coefficients": MELS + 1}, {"range": -1}, {"last": 3}], ids=str
)
def test_wrong_settings_are_named(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        cepstral(**wrong)


# As many frames for every clip.


def test_a_word_said_slowly_is_told_as_one_said_fast():
    """Stretched to twice its length, without a change of pitch, it has the same frames, about."""
    audio = AudioTokenizer(**SETTINGS, frames=16, scaling={"type": "cepstral", "range": 50})
    fast, slow = (audio._rows(glide(seconds)) for seconds in (0.4, 0.8))
    other = audio._rows(glide(0.4, start=1500, end=400))
    assert len(fast) == len(slow) == 16
    assert (fast - slow).abs().mean() < 0.3 * (fast - other).abs().mean()


@pytest.mark.parametrize("frames", [1, 2, 16])
def test_every_clip_has_as_many_frames_as_are_asked_for(frames):
    """A clip of one sample, and one of a second, with a length that is known before either is read."""
    audio = AudioTokenizer(**SETTINGS, frames=frames)
    audio.fit([voice(120)])
    for seconds in (1 / RATE, 0.02, 1):
        tokens = audio.encode(glide(seconds))
        assert len(tokens.streams["audio"].values) == frames and tokens.length == audio.length(glide(seconds))
    check_tokenizer(AudioTokenizer(**SETTINGS, frames=frames))


def test_frames_are_a_setting_that_older_checkpoints_need_not_have():
    """Without it the settings are what they were; no frames at all are refused."""
    assert not {"frames", "scaling"} & set(AudioTokenizer().config())
    assert AudioTokenizer(frames=16).config()["frames"] == 16
    with pytest.raises(ConfigError, match="frames=0"):
        AudioTokenizer(frames=0)
