"""Pairs over ranks, for the processes that a test starts."""

from __future__ import annotations

from pathlib import Path

import torch

from anyformer.objectives import ContrastivePairs
from anyformer.tokens import Stream

SHARES = (3, 0, 4)
"""Pairs of each rank: as many as it has, or none."""


class Pass:
    """Hidden states that are given."""

    def __init__(self, hidden: torch.Tensor) -> None:
        self.hidden, self.model = hidden, torch.nn.Identity().train()


def states(rank: int) -> torch.Tensor:
    """Two sequences of one slot for each pair."""
    return torch.randn(2 * SHARES[rank], 5, generator=torch.Generator().manual_seed(rank))


def targets(pairs: int, first: int) -> dict[str, Stream]:
    """Of pairs numbered from `first` on, of which every third has the same text."""
    texts = [-1 if number % 3 == 0 else number for number in range(first, first + pairs)]
    contents = torch.tensor([*range(100 + first, 100 + first + pairs), *texts])
    items = torch.ones(2 * pairs, 2, dtype=torch.int64)
    return {"image": Stream(contents, torch.arange(2 * pairs), items)} if pairs else {}


def objective() -> ContrastivePairs:
    made = ContrastivePairs(temperature=0.5)
    made.beside(None, {}, None)
    return made


def rank(number: int, folder: str) -> None:
    """A process's whole life: its loss and gradient into a file."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=number, world_size=len(SHARES))
    hidden = states(number).requires_grad_()
    loss = objective().loss(Pass(hidden), targets(SHARES[number], sum(SHARES[:number])))
    loss.sum.backward()
    torch.save({"sum": loss.sum.detach(), "count": loss.count, "grad": hidden.grad}, Path(folder) / f"{number}.pt")
    torch.distributed.destroy_process_group()
