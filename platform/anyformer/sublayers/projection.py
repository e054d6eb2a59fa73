"""Linear maps of one input, side by side in one matrix."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Projection(nn.Module):
    """Parts by name and size, computed in one call; only those in `biased` have a bias (Whisper's keys have none)."""

    def __init__(self, dim: int, sizes: dict[str, int], biased: Collection[str]) -> None:
        super().__init__()
        self.sizes, self.bias_sizes = sizes, {name: size for name, size in sizes.items() if name in biased}
        self.weight = nn.Parameter(torch.empty(sum(sizes.values()), dim))
        self.bias = nn.Parameter(torch.zeros(sum(self.bias_sizes.values()))) if self.bias_sizes else None
        self.biased: Tensor | None  # the rows that have a bias, where only some do
        rows = list(_rows(sizes, biased))
        some = 0 < len(rows) < len(self.weight)
        self.register_buffer("biased", torch.tensor(rows) if some else None, persistent=False)
        nn.init.normal_(self.weight, std=dim**-0.5)

    def forward(self, x: Float[Tensor, "tokens dim"], rows: slice | None = None) -> Float[Tensor, "tokens rows"]:
        """rows: only these outputs."""
        weight, bias = self.weight, self.bias
        if bias is not None and self.biased is not None:
            bias = bias.new_zeros(len(weight)).index_copy(0, self.biased, bias)
        if rows is not None:  # else no slice: its backward would copy the whole gradient
            weight, bias = weight[rows], None if bias is None else bias[rows]
        return F.linear(x, weight, bias)


def _rows(sizes: dict[str, int], biased: Collection[str]) -> Iterator[int]:
    start = 0
    for name, size in sizes.items():
        yield from range(start, start + size if name in biased else start)
        start += size
