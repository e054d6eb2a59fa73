"""Pairs over several ranks: the loss and its gradient are those of one batch with everybody's pairs."""

from __future__ import annotations

import pairs
import runs
import torch


def test_ranks_with_unequal_pairs_act_as_one_batch(tmp_path):
    """One of them has none at all, and meets the others all the same."""
    ranks = range(len(pairs.SHARES))
    processes = [runs.start(pairs.rank, number, str(tmp_path)) for number in ranks]
    assert [runs.end(process) for process in processes] == [0 for _ in ranks]
    found = [torch.load(tmp_path / f"{number}.pt") for number in ranks]
    first, second = zip(*[pairs.states(number).split(pairs.SHARES[number]) for number in (0, 2)], strict=True)
    hidden = torch.cat([*first, *second]).requires_grad_()
    whole = pairs.objective().loss(pairs.Pass(hidden), pairs.targets(sum(pairs.SHARES), 0))
    whole.sum.backward()
    assert sum(each["count"] for each in found) == whole.count
    assert torch.allclose(sum(each["sum"] for each in found), whole.sum, atol=1e-4)
    ones, others = hidden.grad.split(sum(pairs.SHARES))
    wanted = {0: torch.cat((ones[:3], others[:3])), 2: torch.cat((ones[3:], others[3:]))}
    for number, grad in wanted.items():
        assert torch.allclose(found[number]["grad"], grad, atol=1e-5)
