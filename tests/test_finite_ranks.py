"""NaN on one rank: all find it at the same step, none applies the update, and the rank and its samples are named."""

from __future__ import annotations

import socket

import pytest
import runs
import spoiling
import torch


def both(folder, steps: int, at: int, policy: dict) -> list[dict]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = [runs.start(spoiling.rank, number, port, str(folder), steps, at, policy) for number in (0, 1)]
    statuses = [runs.end(rank) for rank in ranks]
    assert policy["type"] == "stop" or statuses == [0, 0]  # a rank that stops ends the other one
    files = [folder / f"rank{number}.pt" for number in (0, 1)]
    return [torch.load(file) for file in files if file.exists()]


@pytest.mark.parametrize("policy", ["skip", *(pytest.param(p, marks=pytest.mark.slow) for p in ("stop", "roll_back"))])
def test_one_rank_speaks_for_all(tmp_path, policy):
    ends = both(tmp_path, 4, 2, {"type": policy})
    told = [end["told"] or " ".join(end["dropped"]) for end in ends]
    assert len(set(told)) == 1 and (policy == "stop" or len(told) == 2)
    assert "The loss of" in told[0] and "is not finite on rank 1 at step 2" in told[0] and "train-" in told[0]
    assert all(bool(end["told"]) == (policy == "stop") for end in ends)
    first, second = ends[0]["weights"], ends[-1]["weights"]
    assert all(torch.equal(first[name], second[name]) and first[name].isfinite().all() for name in first)
