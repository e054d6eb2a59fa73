"""NaN on one rank: all find it at the same step, none applies the update, and the rank and its samples are named."""

from __future__ import annotations

import pytest
import spoiling
import torch


@pytest.mark.parametrize("policy", ["skip", *(pytest.param(p, marks=pytest.mark.slow) for p in ("stop", "roll_back"))])
def test_one_rank_speaks_for_all(tmp_path, policy):
    ends = spoiling.both(tmp_path / "run", "ddp", {"type": policy}, steps=4, at=2)
    told = [end["told"] or " ".join(end["dropped"]) for end in ends]
    assert len(set(told)) == 1 and (policy == "stop" or len(told) == 2)
    assert "The loss of" in told[0] and "is not finite on rank 1 at step 2" in told[0] and "train-" in told[0]
    assert all(bool(end["told"]) == (policy == "stop") for end in ends)
    first, second = ends[0]["weights"], ends[-1]["weights"]
    assert all(torch.equal(first[name], second[name]) and first[name].isfinite().all() for name in first)
