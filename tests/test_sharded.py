"""Weights that ranks keep in parts: the losses of one process, and a checkpoint that is any process's."""

from __future__ import annotations

import shutil
import socket
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import runs
import torch

import anyformer as af
from anyformer.errors import ConfigError
from anyformer.training.sharded import Sharded, shard

pytestmark = pytest.mark.usefixtures("toys")

TASKS = {"words": {"shortest": 30, "longest": 30}, "quadrants": {"dots": 31}}
DATA = {"token_budget": 32, "tasks": TASKS}  # a sample a batch: each rank sees one modality


def two_ranks(folder: Path, strategy: str, resume: bool) -> list[dict]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [runs.start(runs.apart, r, port, str(folder), strategy, resume, DATA) for r in (0, 1)]
    assert [runs.end(process) for process in processes] == [0, 0]
    return [torch.load(folder / f"rank{r}.pt", weights_only=True) for r in (0, 1)]


def steps(batches: list[list[dict]]) -> list[dict[str, float]]:
    """Mean loss of each task over all that belongs to a step."""
    found = []
    for batch in batches:
        sums, counts = defaultdict(float), defaultdict(float)
        for losses in batch:
            for task, (total, count) in losses.items():
                sums[task] += total
                counts[task] += count
        found.append({task: sums[task] / counts[task] for task in sums})
    return found


def by_ranks(ranks: list[dict]) -> list[dict[str, float]]:
    return steps([list(each) for each in zip(*(rank["losses"] for rank in ranks), strict=True)])


def by_one(seen: dict) -> list[dict[str, float]]:
    return steps([seen["losses"][at : at + 2] for at in range(0, len(seen["losses"]), 2)])


def test_parts_of_weights_train_as_one_process_and_resume_anywhere(tmp_path):
    """Losses are those of one process that accumulates two batches, and stay so where two ranks, or one, go on from
    what two have written. Held-out losses are of the whole split though it has an odd number of batches."""
    alone = runs.measured(tmp_path / "one", 6, False, DATA, accumulate_grad_batches=2)
    (tmp_path / "two").mkdir()
    half = two_ranks(tmp_path / "two", "sharded", resume=False)
    assert af.load(tmp_path / "two" / "last").training is False  # one process reads it
    shutil.copytree(tmp_path / "two", tmp_path / "again")
    rest = two_ranks(tmp_path / "two", "sharded", resume=True)
    one = runs.measured(tmp_path / "again", 6, True, DATA, accumulate_grad_batches=2)
    wanted = by_one(alone) + by_one(runs.measured(tmp_path / "one", 6, True, DATA, accumulate_grad_batches=2))
    assert len(wanted) == 6
    for found in (by_ranks(half) + by_ranks(rest), by_ranks(half) + by_one(one)):
        assert [step.keys() for step in found] == [step.keys() for step in wanted]
        for ours, theirs in zip(found, wanted, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-5)
    assert sum(rank["kept"] for rank in half) == pytest.approx(alone["kept"], rel=0.1)  # whole rows: nearly halves
    for rank in half:
        assert rank["held out"] == pytest.approx(alone["held out"], rel=1e-5)


@pytest.mark.parametrize(
    ("precision", "more"),
    [("16-mixed", {}), ("32-true", {"not_finite": {"type": "roll_back"}}), ("32-true", {"lora": {}})],
)
def test_what_cannot_be_kept_in_parts_is_refused(precision, more):
    """Ranks that gather different weights would wait for ever; so it is said before."""
    learned = af.Learner(backbone={"dim": 16, "heads": 2, "depth": 1}, **more)
    with pytest.raises(ConfigError, match="strategy=sharded cannot be with"):
        shard(learned, SimpleNamespace(strategy=Sharded(), precision=precision))
