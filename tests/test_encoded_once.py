"""What is encoded so that its length is known is not encoded again, and nothing of the batches changes by it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import runs
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from toys import Letters, Words

import anyformer as af
from anyformer.training import measured
from anyformer.training.measured import Measured
from anyformer.training.mixture import Reference

pytestmark = pytest.mark.usefixtures("toys")

MASKED = {"type": "words", "objective": {"type": "masked", "masked": 0.0, "random": 1.0, "rate": 0.5}}
TASKS = {"words": {}, "guessed": MASKED, "quadrants": {}}


@pytest.fixture
def slow(monkeypatch):
    """Letters whose length is only known by encoding them; how often each text was encoded."""
    found: Counter[str] = Counter()
    plain = Letters.encode

    def encode(self, raw):
        found[raw] += 1
        return plain(self, raw)

    monkeypatch.setattr(Letters, "encode", encode)
    monkeypatch.setattr(Letters, "measures_by_encoding", True)
    return found


def ready(**more) -> af.Mixture:
    mixture = runs.mixture(tasks=TASKS, **more)
    mixture.setup()
    return mixture


def batches(count: int, **more) -> list[af.Batch]:
    return list(islice(ready(**more).train_dataloader(), count))


def assert_same(ones: list[af.Batch], others: list[af.Batch]) -> None:
    for one, other in zip(ones, others, strict=True):
        assert (one.keys, one.tasks, one.counts) == (other.keys, other.tasks, other.counts)
        assert torch.equal(one.positions, other.positions)
        pairs = [(one.streams, other.streams), *((one.targets[task], other.targets[task]) for task in one.targets)]
        for mine, theirs in pairs:
            assert mine.keys() == theirs.keys()
            for name, stream in mine.items():
                assert all(torch.equal(getattr(stream, p), getattr(theirs[name], p)) for p in vars(stream))


def test_planning_encodes_for_the_batch(slow):
    """In the first pass, whatever chance does behind it; a text that stands in both tasks is encoded for each."""
    mixture = ready()
    slow.clear()
    loader = iter(mixture.train_dataloader())
    made = [next(loader) for _ in range(3)]
    texts = {(t, s.id): s.values["text"] for t in ("words", "guessed") for s in mixture.tasks[t].examples("train")}
    prepared = Counter(
        texts[task, key] for b in made for task, key in zip(b.tasks, b.keys, strict=True) if (task, key) in texts
    )
    assert prepared and all(slow[text] == times for text, times in prepared.items())


@settings(max_examples=8, deadline=None)
@given(seed=some.integers(0, 99), most=some.sampled_from([0, 100, 2**25]))
def test_batches_are_those_that_are_made_without(seed, most):
    """Through three passes, however little is held of it."""
    made = {}
    for by_encoding in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(measured, "MOST_MEASURED", most)
            patch.setattr(Letters, "measures_by_encoding", by_encoding)
            made[by_encoding] = batches(25, seed=seed)
    assert_same(made[False], made[True])


def test_what_varies_is_encoded_as_it_is_this_time(slow, monkeypatch):
    """Augmentation makes another value of it: what was measured is not that."""

    def varied(self, sample, rng):
        turned = "".join(rng.permutation([*sample.values["text"]]))
        return replace(sample, values={"text": turned}) if rng.random() < 0.5 else sample

    monkeypatch.setattr(Words, "varied", varied)
    assert_same(batches(10), made_without(monkeypatch, 10))


def made_without(monkeypatch, count: int) -> list[af.Batch]:
    monkeypatch.setattr(Letters, "measures_by_encoding", False)
    return batches(count)


def test_little_is_held(monkeypatch):
    """The oldest goes first, so that planning far ahead fills no memory and what was measured last is there."""
    monkeypatch.setattr(measured, "MOST_MEASURED", 100)
    held = Measured()
    for index in range(10):
        held.put(("words", index), {"text": af.Tokens.of("letters", torch.arange(5))})  # 40 bytes
    assert [index for index in range(10) if held.take(("words", index))] == [8, 9]
    held.put(("words", 3), {"text": af.Tokens.of("letters", torch.arange(20))})
    assert not held.take(("words", 3))
    held.put(("words", 4), {"text": af.Tokens.of("letters", torch.arange(5))})
    assert held.take(("words", 4))["text"].length == 5
    assert not held.take(("words", 4))


def test_a_request_carries_what_was_measured():
    """As it was, with every stream, into another process's hands, and it is not kept twice."""
    here, there = Measured(), Measured()
    positions = torch.from_numpy(np.arange(8).reshape(4, 2))
    rows = af.Stream(torch.randn(8, 3), torch.tensor([0, 0, 1, 3]), torch.tensor([[5, 3], [3, 1]]))
    here.put(("words", 1), {"a": af.Tokens({"rows": rows}, 4, positions), "b": af.Tokens.of("b", torch.arange(3))})
    here.put(("words", 2), {"a": af.Tokens.of("a", torch.arange(2))})
    there.accept(here.handed([("words", 1), ("words", 7)]))
    assert here.take(("words", 2)) and not here.take(("words", 1))
    found = there.take(("words", 1))
    assert list(found) == ["a", "b"] and torch.equal(found["a"].positions, positions)
    assert all(torch.equal(getattr(found["a"].streams["rows"], part), tensor) for part, tensor in vars(rows).items())


def test_held_out_samples_are_encoded_once(slow):
    mixture = ready()
    slow.clear()
    seen = [key for batch in mixture.val_dataloader() for key in batch.keys]
    assert len(seen) == 90
    texts = Counter(
        s.values["text"] for task in ("words", "guessed") for s in mixture.tasks[task].examples("validation")
    )
    assert slow == texts


def test_a_preparation_travels_without_it(slow):
    """A worker begins with nothing of it: what a plan needs, it hands over."""
    preparation = ready()._preparation("train")
    preparation.length("words", 3)
    assert preparation._measured.take(("words", 3))
    preparation.length("words", 3)
    assert "_measured" not in preparation.__getstate__()
    slow.clear()
    preparation.batch([Reference("words", 3, 0)])
    assert not slow
