"""Prepared shards stand for raw data: the same samples in the same order, whole or not at all."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import runs
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anyformer.contracts import Sample
from anyformer.errors import ConfigError, ShardError
from anyformer.tokens import Stream, Tokens
from anyformer.training.mixture import keyed
from anyformer.training.shards import writing
from anyformer.training.shards.content import Shard, packed
from anyformer.training.shards.directory import TOGETHER, Order, Prepared, read_manifest

pytestmark = pytest.mark.usefixtures("toys")

SIZE = 4  # samples of a shard


def prepare(out: Path, **more) -> Path:
    mixture = runs.mixture()
    mixture.setup()
    writing.write(mixture.tasks, mixture.tokenizers, out, size=SIZE, **more)
    return out


@pytest.fixture(scope="module")
def prepared(toys, tmp_path_factory) -> Path:
    return prepare(tmp_path_factory.mktemp("shards") / "all")


# What a shard holds


def tokens(rng: np.random.Generator) -> Tokens:
    """Streams of any kind: several items, more values than slots, one that is not there, positions with two axes."""
    length = int(rng.integers(0, 6))
    streams = {"plain": Stream.whole(torch.tensor(rng.integers(0, 70_000, length)))}
    if rng.random() < 0.5:
        streams["rl.rows"] = Stream(
            torch.tensor(rng.normal(size=(2 * length, 3)), dtype=torch.float32), torch.arange(length).flip(0),
            torch.tensor([[2, 1]] * length, dtype=torch.int64).reshape(-1, 2),
        )  # fmt: skip
    positions = torch.tensor(rng.integers(0, 9, (length, 2)))
    return Tokens(streams, length, positions)


def assert_same(ours: Tokens, theirs: Tokens) -> None:
    assert (ours.length, ours.streams.keys()) == (theirs.length, theirs.streams.keys())
    assert torch.equal(ours.positions, theirs.positions)
    for name, stream in theirs.streams.items():
        for kind in ("values", "slots", "items"):
            one, other = getattr(ours.streams[name], kind), getattr(stream, kind)
            assert one.dtype == other.dtype
            assert torch.equal(one, other), (name, kind)


@given(seed=st.integers(0, 2**32), count=st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_a_shard_gives_back_what_it_was_given(tmp_path_factory, seed, count):
    """A field may be missing, a stream absent, an id be in any script."""
    rng = np.random.default_rng(seed)
    samples = [
        Sample(f"{i}-ж", {f: tokens(rng) for f in ("one", "two") if rng.random() < 0.7}, "c" * int(rng.integers(3)))
        for i in range(count)
    ]
    file = tmp_path_factory.mktemp("shard") / "one.safetensors"
    file.write_bytes(packed(samples))
    shard = Shard(file)
    assert len(shard) == count
    for index, sample in enumerate(samples):
        found = shard.sample(index)
        assert (found.id, found.cluster, found.values.keys()) == (sample.id, sample.cluster, sample.values.keys())
        for field, raw in sample.values.items():
            assert_same(found.values[field], raw)


def test_text_takes_two_bytes_a_token(tmp_path):
    """What follows from the rest is not written."""
    samples = [Sample("", {"text": Tokens.of("text", torch.arange(5000) + 60_000)})]
    assert len(packed(samples)) < 2 * 5000 + 1500


# In which order


@given(sizes=st.lists(st.integers(1, 3), min_size=1, max_size=3 * TOGETHER), epoch=st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_a_pass_takes_each_sample_once_and_one_group_of_shards_after_the_other(sizes, epoch):
    ends = [0, *np.cumsum(sizes).tolist()]
    order = Order(ends, lambda *keys: keyed(0, "pass", "words", epoch, *keys))
    passed = list(order)
    assert sorted(passed) == list(range(sum(sizes)))
    assert passed == [order[place] for place in range(len(order))]
    shards = [int(np.searchsorted(ends, index, side="right")) - 1 for index in passed]
    last = {shard: place for place, shard in enumerate(shards)}
    most = max(len({s for s in shards[:place] if last[s] >= place}) for place in range(0, len(shards), 7))
    assert most <= TOGETHER
    if len(sizes) <= TOGETHER:
        assert passed == keyed(0, "pass", "words", epoch).permutation(sum(sizes)).tolist()


def batches(shards: Path | None, step: int, rank: int, ranks: int, workers: int, number: int) -> list:
    mixture = runs.mixture(shards=None if shards is None else str(shards), workers=workers)
    mixture.setup()
    cpu = SimpleNamespace(root_device=torch.device("cpu"))
    mixture.trainer = SimpleNamespace(
        world_size=ranks, global_rank=rank, accumulate_grad_batches=1, global_step=step, strategy=cpu
    )
    found = list(islice(mixture.train_dataloader(), number))
    return [(batch.keys, {name: stream.values.tolist() for name, stream in batch.streams.items()}) for batch in found]


@pytest.mark.parametrize("step", [0, 12], ids=["from the start", "resumed in the second pass"])
def test_ranks_read_together_what_raw_data_gives(prepared, step):
    raw = batches(None, step, 0, 1, 0, 6)
    assert batches(prepared, step, 0, 1, 0, 6) == raw
    both = [batches(prepared, step // 2, rank, 2, 0, 3) for rank in (0, 1)]
    assert [one for pair in zip(*both, strict=True) for one in pair] == raw


@pytest.mark.parametrize("workers", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_any_number_of_workers_reads_what_raw_data_gives(prepared, workers):
    assert batches(prepared, 12, 1, 2, workers, 6) == batches(None, 12, 1, 2, 0, 6)


def test_a_fit_and_its_held_out_losses_are_those_of_raw_data(prepared, tmp_path):
    raw = runs.measured(tmp_path / "raw", 4, False, {})
    assert runs.measured(tmp_path / "shards", 4, False, {"shards": str(prepared)}) == raw
    rest = runs.measured(tmp_path / "raw", 6, True, {})
    assert runs.measured(tmp_path / "shards", 6, True, {"shards": str(prepared)}) == rest


# Whole or not at all


def killed(out: str, at: int) -> None:
    """A process's whole life: it prepares, and dies when a shard is half-written."""
    replace, count = Path.replace, Counter()

    def dying(self: Path, target: Path) -> Path:
        count["all"] += target.suffix == ".safetensors"
        if count["all"] == at:
            os.truncate(self, self.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(self, target)

    Path.replace = dying  # ty: ignore[invalid-assignment]
    with runs.registered():
        prepare(Path(out))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_a_kill_while_writing_leaves_nothing_that_is_read_and_resuming_gives_the_same_bytes(prepared, tmp_path):
    out = tmp_path / "killed"
    assert runs.end(runs.start(killed, str(out), 6)) == -signal.SIGKILL
    assert any(file.name.startswith(writing.HALF) for file in out.rglob("*"))
    with pytest.raises(ShardError, match=r"expected manifest.json, got none: it is not finished. Run `anyformer prep"):
        runs.mixture(shards=str(out))
    told: list[tuple[int, int]] = []
    prepare(out, tell=lambda done, of: told.append((done, of)))
    assert told[0] == (5, 32)  # what was whole was kept
    assert contents(out) == contents(prepared)


@pytest.mark.parametrize("harm", ["flip", "cut", "lose"])
def test_damage_is_one_error_with_its_cure_and_preparing_again_mends_it(prepared, tmp_path, harm):
    out = prepare(tmp_path / "damaged")
    file = out / "words" / "train-00003.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    {"flip": lambda: file.write_bytes(data), "cut": lambda: file.write_bytes(data[:-9]), "lose": file.unlink}[harm]()
    with pytest.raises(ShardError, match=r"words/train-00003.safetensors: expected .*, got .*Run `anyformer prepare`"):
        batches(out, 0, 0, 1, 0, 8)
    prepare(out)
    assert contents(out) == contents(prepared)


def test_a_damaged_manifest_is_refused(prepared, tmp_path):
    manifest = read_manifest(prepared)
    for spoil in (lambda m: m["tasks"]["words"]["splits"]["train"]["shards"].pop(), lambda m: m.update(format=2)):
        spoilt = json.loads(json.dumps(manifest))
        spoil(spoilt)
        (tmp_path / "manifest.json").write_text(json.dumps(spoilt))
        with pytest.raises(ShardError, match="damaged"):
            Prepared(tmp_path)


# Made of something else


def test_shards_of_another_task_or_tokenizer_are_refused(prepared, tmp_path):
    with pytest.raises(ShardError, match="another task 'words': size was 30 and is 31"):
        runs.mixture(shards=str(prepared), tasks={"words": {"size": 31}, "quadrants": {}})
    with pytest.raises(ShardError, match="holds no task 'more'"):
        runs.mixture(shards=str(prepared), tasks={"more": {"type": "words"}})
    with pytest.raises(ConfigError, match="no such folder"):
        runs.mixture(shards=str(tmp_path / "nowhere"))
    other = runs.mixture(tokenizers={"letters": {"lower": True}, "dots": {}, "colour": {}})
    other.setup()
    with pytest.raises(ConfigError, match="shards of other tokenizers"):
        writing.write(other.tasks, other.tokenizers, prepared, size=SIZE)


def test_what_chance_varies_is_not_prepared(tmp_path):
    """An augmented sample differs at every pass; a split that is only judged does not."""
    mixture = runs.mixture()
    mixture.setup()
    kind = type(mixture.tasks["words"])
    varying = type("Varying", (kind,), {"varied": lambda self, sample, rng: sample})()
    with pytest.raises(ConfigError, match="varies its training samples"):
        writing.write({"words": varying}, mixture.tokenizers, tmp_path, size=SIZE)
    writing.write({"words": varying}, mixture.tokenizers, tmp_path, splits=("validation",), size=SIZE)
