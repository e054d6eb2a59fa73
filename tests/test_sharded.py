"""Weights that ranks keep in parts: the losses of one process, and a checkpoint that is any process's."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest
import spoiling
import torch
from ranks import by_one, by_ranks, one_process, two_ranks

import anyformer as af
from anyformer.errors import ConfigError
from anyformer.training.sharded import Sharded, shard

pytestmark = pytest.mark.usefixtures("toys")


def test_parts_of_weights_train_as_one_process_and_resume_anywhere(tmp_path):
    """Losses are those of one process that accumulates two batches, and stay so where two ranks, or one, go on from
    what two have written. Held-out losses are of the whole split though it has an odd number of batches."""
    alone = one_process(tmp_path / "one", resume=False)
    (tmp_path / "two").mkdir()
    half = two_ranks(tmp_path / "two", "sharded", resume=False)
    assert af.load(tmp_path / "two" / "last").training is False  # one process reads it
    shutil.copytree(tmp_path / "two", tmp_path / "again")
    rest = two_ranks(tmp_path / "two", "sharded", resume=True)
    one = one_process(tmp_path / "again", resume=True)
    wanted = by_one(alone) + by_one(one_process(tmp_path / "one", resume=True))
    assert len(wanted) == 6
    for found in (by_ranks(half) + by_ranks(rest), by_ranks(half) + by_one(one)):
        assert [step.keys() for step in found] == [step.keys() for step in wanted]
        for ours, theirs in zip(found, wanted, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-5)
    assert sum(rank["kept"] for rank in half) == pytest.approx(alone["kept"], rel=0.1)  # whole rows: nearly halves
    for rank in half:
        assert rank["held out"] == pytest.approx(alone["held out"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("policy", [{"type": "skip"}, {"type": "roll_back", "every": 2}])
def test_weights_are_those_of_ddp_behind_an_update_that_is_left_out(tmp_path, policy):
    """One rank's loss is NaN; what ranks keep in parts becomes again what all of them had."""
    ours, theirs = (spoiling.both(tmp_path / name, name, policy)[0] for name in ("sharded", "ddp"))
    assert ours["dropped"] == theirs["dropped"] and len(ours["dropped"]) == 1
    for name, weight in theirs["weights"].items():
        assert torch.allclose(ours["weights"][name], weight, rtol=0, atol=1e-5), name


@pytest.mark.parametrize(
    ("precision", "more"),
    [("16-mixed", {}), ("32-true", {"lora": {}})],
)
def test_what_cannot_be_kept_in_parts_is_refused(precision, more):
    """Ranks that gather different weights would wait for ever; so it is said before."""
    learned = af.Learner(backbone={"dim": 16, "heads": 2, "depth": 1}, **more)
    with pytest.raises(ConfigError, match="strategy=sharded cannot be with"):
        shard(learned, SimpleNamespace(strategy=Sharded(), precision=precision))
