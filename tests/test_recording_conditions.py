"""What does not say what is said: how loud a recording is, what its pauses sound like, which microphone made it."""

import json

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from anyformer.errors import ConfigError
from anyformer_tasks.sound import SoundClassification
from anyformer_tasks.sound.clip import Clip
from anyformer_tasks.sound.pauses import trimmed
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


@settings(max_examples=25, deadline=None)
@given(before=st.integers(0, 4000), behind=st.integers(0, 4000), factor=st.floats(0.01, 1))
def test_the_silence_around_a_word_is_cut_off(before, behind, factor, tmp_path_factory):
    """Nothing of the word is lost, however loud it is; at most a tenth of a second stays on either side."""
    spoken = factor * 0.3 * np.random.default_rng(before).standard_normal(2400).clip(-3, 3)
    path = tmp_path_factory.mktemp("one") / "it.wav"
    soundfile.write(path, np.concatenate((np.zeros(before), spoken, np.zeros(behind))), RATE)
    clip = trimmed(Clip("it", str(path), {}), below=30)
    assert clip.span is not None
    start, stop = clip.span
    assert max(0, before - RATE // 10) <= start <= before + RATE // 100
    assert before + 2400 - RATE // 50 <= stop <= before + 2400 + RATE // 10
    assert clip.wave()[0].shape[1] == stop - start > 0


@pytest.mark.parametrize("wave", [np.zeros(900), np.zeros(20), np.full(900, 0.1)])
def test_what_has_no_silent_ends_stays(wave, tmp_path):
    """Nor is one cut that is silent throughout, or too short to be measured."""
    soundfile.write(tmp_path / "it.wav", wave, RATE)
    clip = trimmed(Clip("it", str(tmp_path / "it.wav"), {}), below=30)
    assert clip.wave()[0].shape[1] >= len(wave) - RATE // 100


def test_a_task_trims_all_its_clips(tmp_path):
    """What is trained on and what is judged, of which baselines are told the same; without the setting, none."""
    (tmp_path / "recordings").mkdir()
    for take in range(12):
        soundfile.write(tmp_path / f"recordings/3_ann_{take}.wav", word(take)[0], RATE)
    plain, short = (SoundClassification("fsdd", str(tmp_path), trim=trim) for trim in (None, 30.0))
    for split in ("train", "test"):
        for sample, other in zip(short.examples(split), plain.examples(split), strict=True):
            wave, rate = sample.values["audio"]
            assert sample.id == other.id and isinstance(other.values["audio"], str)
            assert rate == RATE and 2000 <= wave.shape[1] < 3000
    with pytest.raises(ConfigError, match="expected more than 0 dB, or none"):
        SoundClassification("fsdd", str(tmp_path), trim=0.0).examples("train")
