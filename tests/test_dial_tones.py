"""The dial-tone task: signals that the standard describes, a baseline that decodes them, and honest edit counts."""

from __future__ import annotations

import json
import string

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyformer.contracts import SPLITS
from anyformer.errors import ConfigError
from anyformer_tasks.dial_tones import CER, RATE, DialTones, audio, dial, edits, error_rate, keys_of
from anyformer_tasks.goertzel import HIGH, KEYS, LOW, Goertzel, goertzel

texts = st.text(alphabet="12#*AB", max_size=8)


@pytest.fixture(scope="module")
def task() -> DialTones:
    return DialTones(clips=60, held_out=30)


class Scribe:
    """A model that answers with what it was given."""

    def __init__(self, answers: list[str]) -> None:
        self.answers = answers

    def complete(self, name, task, samples, field, max_new):
        assert (name, field) == ("dial_tones", "keys")
        return self.answers[: len(samples)]


def test_the_keypad_is_that_of_the_standard():
    """ITU-T Q.23: 1 is 697 + 1209 Hz, 5 is 770 + 1336 Hz, # is 941 + 1477 Hz, D is 941 + 1633 Hz."""
    for key, pair in {"1": (697, 1209), "5": (770, 1336), "#": (941, 1477), "D": (941, 1633)}.items():
        row, column = divmod(KEYS.index(key), 4)
        assert (LOW[row], HIGH[column]) == pair
    assert sorted(KEYS) == sorted(string.digits + "ABCD*#")


@pytest.mark.parametrize("key", KEYS)
def test_a_key_sounds_at_its_two_frequencies(key):
    """The spectrum's two highest peaks, found without the task's own filters."""
    sound = dial(key, 40, np.random.default_rng(3))
    spectrum = np.abs(np.fft.rfft(sound, n=2 * RATE))  # half a Hertz a bin
    row, column = divmod(KEYS.index(key), 4)
    low, high = spectrum[1200:2100].argmax() / 2 + 600, spectrum[2300:3500].argmax() / 2 + 1150
    assert abs(low - LOW[row]) < 6 and abs(high - HIGH[column]) < 6


def test_noise_has_the_stated_power():
    """At 0 dB the noise is as strong as the loudest tone may be: a sum of two unit sines."""
    rng = np.random.default_rng(0)
    quiet, loud = (np.concatenate([dial("5", snr, rng)[:160] for _ in range(400)]) for snr in (20, 0))
    ratio = np.square(loud).mean() / np.square(quiet).mean()  # the first 20 ms hold noise alone
    assert 60 < ratio < 160


def test_recordings_are_a_function_of_seed_split_and_index(task):
    """They are made when asked for, on any worker, in any order."""
    twin = DialTones(**json.loads(json.dumps(task.config())))
    for split in SPLITS:
        one, two = task.examples(split)[7], twin.examples(split)[7]
        assert one.id == two.id and one.values["keys"] == two.values["keys"]
        assert np.array_equal(audio(one), audio(two))
    first = [task.examples(split)[0] for split in SPLITS]
    assert len({s.id for s in first}) == len({audio(s)[:9].tobytes() for s in first}) == 3
    assert not np.array_equal(audio(DialTones(seed=1).examples("train")[0])[:9], audio(first[0])[:9])


def test_recordings_are_a_sequence(task):
    recordings = task.examples("train")
    assert len(recordings) == 60 and recordings[-1].id == recordings[59].id
    assert [s.id for s in recordings[5:8]] == [recordings[i].id for i in (5, 6, 7)]
    assert len(list(recordings)) == 60
    with pytest.raises(IndexError):
        recordings[60]


def test_recordings_keep_to_the_settings(task):
    for sample in task.examples("train"):
        pressed = keys_of(sample.values["keys"])
        sound, rate = sample.values["audio"]
        assert task.least_keys <= len(pressed) <= task.most_keys and set(pressed) <= set(KEYS)
        assert rate == RATE and sound.dtype == np.float32 and np.abs(sound).max() <= 1
        assert 0.02 + 0.1 * len(pressed) <= sound.shape[1] / RATE <= 0.06 + 0.2 * len(pressed)


@given(texts, texts, texts)
def test_edits_are_a_distance(a, b, c):
    assert edits(a, b) == edits(b, a) and (edits(a, b) == 0) == (a == b)
    assert edits(a, c) <= edits(a, b) + edits(b, c)
    assert abs(len(a) - len(b)) <= edits(a, b) <= max(len(a), len(b))


@given(texts, st.data())
def test_a_single_change_is_a_single_edit(text, data):
    place = data.draw(st.integers(0, len(text)))
    assert edits(text[:place] + "D" + text[place:], text) == 1


def test_the_error_rate_is_edits_over_pressed_keys(task):
    """Long recordings weigh more: the report's mean is that of a corpus, not of its recordings."""
    samples = task.examples("test")[:3]
    pressed = [keys_of(s.values["keys"]) for s in samples]
    answers = [samples[0].values["keys"], samples[1].values["keys"][:-1], ""]
    scores = list(task.score(Scribe(answers), samples))
    assert [round(s.value * s.weight) for s in scores] == [0, 1, len(pressed[2])]
    assert [s.weight for s in scores] == [len(keys) for keys in pressed] and scores[0].metric == CER
    assert scores[1].shown["prediction"] == answers[1]


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 99))
def test_goertzel_power_is_that_of_the_recursion(seed):
    """Goertzel's own recursion, step by step, against the closed form that the decoder uses."""
    windows, tones = np.random.default_rng(seed).normal(size=(3, 200)), np.array(LOW + HIGH)
    turn = 2 * np.cos(2 * np.pi * tones / RATE)
    last = before = np.zeros((3, 8))
    for sample in windows.T:
        last, before = sample[:, None] + turn * last - before, last
    recursive = last**2 + before**2 - turn * last * before
    assert np.allclose(goertzel(windows, tones, RATE), recursive)


def test_goertzel_decodes_clean_recordings():
    """Without noise nothing is left to err about: every key, repeated ones too."""
    clean = DialTones(clips=40, snr=(40, 40)).examples("train")
    recordings = [(audio(s), keys_of(s.values["keys"])) for s in clean]
    assert error_rate(Goertzel(RATE, share=0.3), recordings) < 0.01
    assert Goertzel(RATE, share=0.3)(dial("555", 40, np.random.default_rng(0))) == "555"


def test_goertzel_hears_nothing_in_silence_and_noise():
    noise = np.random.default_rng(0).normal(size=RATE)
    assert Goertzel(RATE, share=0.3)(noise) == Goertzel(RATE)(np.zeros(10)) == Goertzel(RATE)(np.zeros(RATE)) == ""


def test_the_baseline_is_strong_but_not_perfect():
    """A weak baseline would flatter the model; a perfect one would mean that the noise asks nothing."""
    rate = DialTones(held_out=200).baselines()[CER]["Goertzel"]
    assert 0.001 < rate < 0.06


@pytest.mark.parametrize("wrong", [{"least_keys": 0}, {"least_keys": 7}, {"clips": 0}, {"snr": (5, 0)}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match="expected"):
        DialTones(**wrong)
