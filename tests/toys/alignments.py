"""What connectionist temporal classification sums over, one alignment after the other."""

from __future__ import annotations

import itertools
import math

import torch


def paths_to(chances: torch.Tensor, blank: int) -> dict[tuple[int, ...], float]:
    """p of every text: the sum over all paths that spell it, one by one."""
    found: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(chances.shape[1]), repeat=len(chances)):
        said = tuple(value for value, _ in itertools.groupby(path) if value != blank)
        p = math.exp(sum(float(chances[slot, value]) for slot, value in enumerate(path)))
        found[said] = found.get(said, 0.0) + p
    return found
