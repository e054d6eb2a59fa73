"""DeepSpeed's first two stages, on processors: the losses of one process, checkpoints that are anybody's, and no update
that is not finite."""

from __future__ import annotations

import shutil
from importlib.util import find_spec

import pytest
import spoiling
import torch
from ranks import by_one, by_ranks, one_process, two_ranks

import anyformer as af

pytestmark = [
    pytest.mark.usefixtures("toys"),
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed"),
]


@pytest.mark.parametrize(
    ("stage", "more"),
    [(1, {}), (2, {}), (2, {"precision": "bf16-mixed"}), (2, {"model": {"lora": {"rank": 2}}})],
    ids=["first", "second", "bfloat16", "lora"],
)
def test_two_ranks_train_as_one_process_and_resume_anywhere(tmp_path, stage, more):
    """Each rank sees another modality, so gradients come in another order on each. Losses are those of one process that
    accumulates two batches, and stay so where two ranks, or one, go on from what two have written."""
    strategy = f"deepspeed_stage_{stage}"
    alone = one_process(tmp_path / "one", resume=False, **more)
    (tmp_path / "two").mkdir()
    half = two_ranks(tmp_path / "two", strategy, resume=False, **more)
    assert af.load(tmp_path / "two" / "last").training is False
    shutil.copytree(tmp_path / "two", tmp_path / "again")
    rest = two_ranks(tmp_path / "two", strategy, resume=True, **more)
    one = one_process(tmp_path / "again", resume=True, **more)
    wanted = by_one(alone) + by_one(one_process(tmp_path / "one", resume=True, **more))
    assert len(wanted) == 6 and wanted[0] != wanted[-1]
    for found in (by_ranks(half) + by_ranks(rest), by_ranks(half) + by_one(one)):
        for ours, theirs in zip(found, wanted, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-5)
    for rank in half:
        assert rank["held out"] == pytest.approx(alone["held out"], rel=1e-5)


def test_two_ranks_accumulate_and_go_on_from_one_process(tmp_path):
    """Four batches a step in all, of which each rank has every second one; a checkpoint that knows nothing of ranks is
    divided between them."""
    one_process(tmp_path / "one", resume=False, accumulate_grad_batches=4)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    ranks = two_ranks(tmp_path / "two", "deepspeed_stage_2", resume=True, accumulate_grad_batches=2)
    wanted = one_process(tmp_path / "one", resume=True, accumulate_grad_batches=4)["losses"]
    found = [losses for pair in zip(*(rank["losses"] for rank in ranks), strict=True) for losses in pair]
    assert len(wanted) == 12
    for ours, theirs in zip(found, wanted, strict=True):
        sums, own = ({task: total for task, (total, _) in losses.items()} for losses in (theirs, ours))
        assert own == pytest.approx(sums, rel=1e-5)


@pytest.mark.parametrize("spoil", [spoiling.SpoilLoss, spoiling.SpoilGradient])
@pytest.mark.parametrize("policy", [{"type": "skip"}, {"type": "stop"}, {"type": "roll_back", "every": 2}])
def test_what_is_not_finite_on_one_rank_reaches_no_weight(tmp_path, policy, spoil):
    ends = spoiling.both(tmp_path / "run", "deepspeed_stage_2", policy, spoil)
    told = [end["told"] or " ".join(end["dropped"]) for end in ends]
    stops = policy["type"] == "stop"
    assert len(set(told)) == 1 and (stops or len(told) == 2)
    assert "is not finite" in told[0] and "at step 3" in told[0] and "train-" in told[0]
    assert ("The loss of" in told[0]) == (spoil is spoiling.SpoilLoss)
    assert all(bool(end["told"]) == stops for end in ends)
    first, second = ends[0]["weights"], ends[-1]["weights"]
    assert all(torch.equal(first[name], second[name]) and first[name].isfinite().all() for name in first)


@pytest.mark.parametrize("policy", [{"type": "skip"}, {"type": "roll_back", "every": 2}])
def test_weights_are_those_of_ddp_behind_an_update_that_is_left_out(tmp_path, policy):
    ours, theirs = (spoiling.both(tmp_path / name, name, policy)[0] for name in ("deepspeed_stage_2", "ddp"))
    assert ours["dropped"] == theirs["dropped"] and len(ours["dropped"]) == 1
    for name, weight in theirs["weights"].items():
        assert torch.allclose(ours["weights"][name], weight, rtol=0, atol=1e-5), name
