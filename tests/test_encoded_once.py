"""What is encoded so that its length is known is not encoded again, and nothing of the batches changes by it."""

from __future__ import annotations

import pickle
from collections import Counter, deque
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import pytest
import runs
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from toys import Letters, Words

import anyformer as af
from anyformer.errors import SampleError
from anyformer.training import measured
from anyformer.training.measured import Held, packed, unpacked
from anyformer.training.mixture import Reference
from anyformer.training.preparation import Windows

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
    mixture = runs.mixture(**{"tasks": TASKS, **more})
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
    held = Held()
    for index in range(10):
        held.put(("words", index), index, 40)
    assert [index for index in range(10) if held.take(("words", index)) is not None] == [8, 9]
    held.put(("words", 3), "much", 101)
    assert held.take(("words", 3)) is None
    held.put(("words", 4), "once", 90)
    held.put(("words", 4), "twice", 90)
    assert (held.get(("words", 4)), held.take(("words", 4)), held.take(("words", 4))) == ("twice", "twice", None)


ROWS = af.Stream(torch.randn(8, 3), torch.tensor([0, 0, 1, 3]), torch.tensor([[5, 3], [3, 1]]))
PLACES = torch.arange(8).reshape(4, 2)
MOVED = torch.arange(1, 6)[:, None]
SENT = {
    "text": af.Tokens.of("t", torch.arange(5)),
    "long text": af.Tokens.of("t", torch.arange(2000)),
    "nothing": af.Tokens({}, 0, torch.zeros(0, 1, dtype=torch.int64)),
    "rows": af.Tokens({"rows": ROWS}, 4, PLACES),
    "two streams": af.Tokens({n: af.Stream.whole(torch.arange(5)) for n in ("t", "u")}, 5, MOVED - 1),
    "positions of its own": af.Tokens({"t": af.Stream.whole(torch.arange(5))}, 5, MOVED),
    "words": replace(
        af.Tokens.of("t", torch.arange(5)),
        streams={"t": replace(af.Stream.whole(torch.arange(5)), items=torch.tensor([[2, 2], [3, 3]]))},
    ),
}


@pytest.mark.parametrize("tokens", SENT.values(), ids=SENT.keys())
def test_tokens_travel_whole(tokens):
    """Whatever of them is left out on the way; and what arrives may be written into."""
    found = unpacked(packed({"field": tokens}))["field"]
    assert found.length == tokens.length and torch.equal(found.positions, tokens.positions)
    assert found.streams.keys() == tokens.streams.keys()
    for name, stream in found.streams.items():
        assert all(torch.equal(getattr(stream, part), tensor) for part, tensor in vars(tokens.streams[name]).items())
        stream.values.zero_()


def asked(
    requests: int, found: Counter[str], workers: int = 2, start: int = 0, **more
) -> tuple[list[af.Batch], list[int], int]:
    """A loader's batches by a worker that is played in this process, how much each request asked ahead, and how many
    texts the plan encoded itself, by what was `found`. start: the optimiser step at which the run goes on."""
    mixture = ready(workers=workers, **more)
    mixture.trainer = SimpleNamespace(
        global_step=start, accumulate_grad_batches=1, world_size=1, global_rank=0,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )  # fmt: skip
    loader = mixture.train_dataloader()
    worker, ahead, sampler = Windows(pickle.loads(pickle.dumps(loader.dataset.preparation))), loader.ahead, None
    waiting, made, sizes, own = deque(), [], [], 0
    while len(made) < requests:
        sampler = sampler or iter(loader.sampler)
        while len(waiting) < 2 * workers:
            before = found.total()
            waiting.append(ahead.asked(next(sampler)))
            own += found.total() - before
            sizes.append(len(waiting[-1][2].ahead))
        made.append(ahead.answered(pickle.loads(pickle.dumps(worker[waiting.popleft()]))))
    return made, sizes, own


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("start", [0, 7])
def test_workers_that_measure_change_nothing(slow, workers, start):
    """The batches of a run with any number of them, from its start or resumed, are those of one without."""
    made, sizes, _ = asked(20, slow, workers, start)
    assert any(sizes)
    assert_same(batches(start + 20)[start:], made)


@pytest.mark.parametrize("start", [0, 40])
def test_the_plan_hardly_encodes(slow, start):
    """But what lies before a resumed run's first step, and at the start, while the first answers are on their way.
    Workers encode once what they were asked ahead; no request asks for much."""
    tasks = {"words": {"size": 1000}, "guessed": {**MASKED, "size": 1000}}
    slow.clear()
    before = sum(len(batch) for batch in batches(start, tasks=tasks))
    slow.clear()
    made, sizes, own = asked(100, slow, start=start, tasks=tasks)
    drawn, most = sum(len(batch) for batch in made), max(len(batch) for batch in made)
    assert own - before < 0.2 * drawn
    assert max(sizes) <= 4 * most
    assert slow.total() - before < 1.4 * drawn


@pytest.mark.parametrize("wrong", ["unreadable", "skipped"])
def test_what_a_worker_cannot_measure_is_the_plans_to_say(slow, monkeypatch, wrong):
    """A sample that is asked ahead and cannot be read fails no batch of others."""
    bad = runs.mixture().tasks["words"].examples("train")[5].values["text"]
    plain = Letters.encode

    def encode(self, raw):
        if raw == bad:
            raise SampleError("a torn page")
        return plain(self, raw)

    monkeypatch.setattr(Letters, "encode", encode)
    if wrong == "unreadable":
        with pytest.raises(SampleError, match=r"Task '(words|guessed)', sample 'train-[0-9]+': a torn page"):
            asked(60, slow)
        return
    skip = {"type": "skip", "share": 0.9}
    with pytest.warns(UserWarning, match="torn page"):
        assert_same(batches(20, unreadable=skip), asked(20, slow, unreadable=skip)[0])


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
