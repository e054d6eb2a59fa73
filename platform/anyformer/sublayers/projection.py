"""Linear maps: one, or several of one input side by side in one matrix."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def linear(
    x: Float[Tensor, "rows columns"],
    weight: Float[Tensor, "width columns"],
    bias: Float[Tensor, " width"] | None = None,
) -> Float[Tensor, "rows width"]:
    """x Wᵀ + b.

    A single row, as when one sequence is generated, goes on a CPU as a product of a matrix and a vector: that reads
    the weights as fast as they come from memory, in two thirds of the time that a product of matrices takes for it.
    """
    if x.shape[0] != 1 or x.dim() != 2 or x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return F.linear(x, weight, bias)
    row = x.view(-1)
    return (torch.mv(weight, row) if bias is None else torch.addmv(bias, weight, row)).view(1, -1)


class Linear(nn.Linear):
    """`linear` with weights of its own."""

    def forward(self, input: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows width"]:
        return linear(input, self.weight, self.bias)


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
        return linear(x, weight, bias)


def _rows(sizes: dict[str, int], biased: Collection[str]) -> Iterator[int]:
    start = 0
    for name, size in sizes.items():
        yield from range(start, start + size if name in biased else start)
        start += size
