"""The digits task: a fixed split, copies only in training, and scores that count right words."""

from __future__ import annotations

import math
from importlib import metadata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyformer.contracts import SPLITS
from anyformer.errors import ConfigError, PluginError
from anyformer_tasks.digits import HELD_OUT, WORDS, Digits, enlarge


@pytest.fixture(scope="module")
def task() -> Digits:
    return Digits(copies=2)


class Parrot:
    """A model that always answers alike."""

    def __init__(self, answer: str) -> None:
        self.answer = answer

    def complete(self, name, task, samples, field, max_new):
        assert (name, field) == ("digits", "answer")
        return [self.answer] * len(samples)


def test_splits_share_no_scan_and_hold_every_one(task):
    """A shifted copy of a test scan in the training data would make the score worthless."""
    scans = {split: {sample.cluster for sample in task.examples(split)} for split in SPLITS}
    assert len(set.union(*scans.values())) == sum(map(len, scans.values())) == 1797
    assert {split: len(scans[split]) for split in HELD_OUT} == HELD_OUT


def test_every_digit_is_in_every_split(task):
    for split in SPLITS:
        assert {sample.values["answer"] for sample in task.examples(split)} == set(WORDS)


def test_only_training_scans_are_copied(task):
    training = task.examples("train")
    assert len(training) == 2 * len({sample.cluster for sample in training})
    assert len({sample.id for sample in training}) == len(training)
    assert all(sample.id.endswith("-0") for sample in task.examples("test"))


def test_copies_differ_from_their_scan_and_from_each_other():
    training = Digits(copies=3).examples("train")
    scans = len(training) // 3
    one, two, three = (training[copy * scans].values["image"] for copy in range(3))
    assert not np.array_equal(one, two) and not np.array_equal(two, three)


def test_examples_are_a_function_of_the_settings(task):
    """Pictures, order and ids: a resumed run must see the same data."""
    first, second = Digits(copies=2).examples("train"), task.examples("train")
    assert [s.id for s in first] == [s.id for s in second]
    assert all(np.array_equal(a.values["image"], b.values["image"]) for a, b in zip(first, second, strict=True))
    other = Digits(copies=2, seed=1).examples("test")
    assert {s.id for s in other} != {s.id for s in task.examples("test")}


def test_pictures_fill_whole_patches(task):
    image = task.examples("test")[0].values["image"]
    assert image.dtype == np.uint8 and image.shape == (32, 32) and image.max() > 200


@settings(max_examples=30, deadline=None)
@given(st.integers(8, 64), st.integers(0, 255))
def test_an_even_picture_stays_even_when_enlarged(size, level):
    """Interpolation neither brightens nor darkens, nor leaves a dark rim."""
    scan = np.full((8, 8), level * 16 / 255)
    assert np.abs(enlarge(scan, size).astype(int) - level).max() <= 1


def test_shifts_go_right_and_down_by_scan_pixels():
    scan = np.zeros((8, 8))
    scan[2, 3] = 16
    shifted = enlarge(scan, 32, shift=(2.0, 1.0))
    row, column = np.unravel_index(shifted.argmax(), shifted.shape)
    assert (row // 4, column // 4) == (3, 5)


def test_a_quarter_turn_is_exact():
    scan = np.arange(64.0).reshape(8, 8) / 4
    turned = enlarge(scan, 8, turn=math.pi / 2).astype(int)
    assert np.abs(turned - np.rot90(enlarge(scan, 8), k=1).astype(int)).max() <= 1


def test_accuracy_counts_exact_words(task):
    samples = task.examples("test")[:50]
    scores = list(task.score(Parrot("seven"), samples))
    right = [sample.values["answer"] == "seven" for sample in samples]
    assert [score.value for score in scores] == list(map(float, right)) and 0 < sum(right) < 50
    assert [score.id for score in scores] == [sample.id for sample in samples]
    assert set(scores[0].shown) == {"image", "answer", "prediction"}
    assert not any(score.value for score in task.score(Parrot("seven seven"), samples))


def test_the_baseline_is_strong(task):
    """Far above chance, or beating it would mean nothing."""
    assert task.baselines()["accuracy"]["logistic regression"] > 0.93


def test_a_missing_library_is_named_with_its_cure(monkeypatch):
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    with pytest.raises(PluginError, match=r"a part of scikit-learn, which is not installed; .*anyformer\[demo\]"):
        Digits().examples("test")


@pytest.mark.parametrize("wrong", [{"size": 4}, {"copies": 0}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match="expected"):
        Digits(**wrong)
