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

    Few rows, as in a step of generation, cost a CPU what reading the weights costs, if they are read well. In float32
    3 to 8 rows go through the weights in blocks, which saves a fifth to a quarter, and nothing at 2 and 16; in bfloat16
    up to 32 are W xᵀ, turned, so that they come column by column, which saves a sixth. One row is read as fast as it
    can be.
    """
    rows = x.shape[0]
    if torch.is_grad_enabled() or rows == 1 or rows > FEW:
        return F.linear(x, weight, bias)
    if not x.is_cpu or x.dim() != 2 or torch.is_autocast_enabled("cpu"):
        return F.linear(x, weight, bias)
    if x.dtype == torch.bfloat16:
        return (torch.mm(weight, x.mT) if bias is None else torch.addmm(bias[:, None], weight, x.mT)).mT
    if 2 < rows <= SOME and x.dtype == torch.float32 and weight.shape[0] % BLOCK == 0:
        return _in_blocks(x, weight, bias)
    return F.linear(x, weight, bias)


FEW, SOME, BLOCK = 32, 8, 64
"""Rows up to which a product of matrices reads weights badly, in bfloat16 and in float32, and outputs of a block:
measured on one core."""


def _in_blocks(x: Tensor, weight: Tensor, bias: Tensor | None) -> Float[Tensor, "rows width"]:
    rows = x.expand(weight.shape[0] // BLOCK, -1, -1)
    blocks = weight.view(-1, BLOCK, weight.shape[1]).mT
    said = torch.bmm(rows, blocks) if bias is None else torch.baddbmm(bias.view(-1, 1, BLOCK), rows, blocks)
    return said.transpose(0, 1).reshape(x.shape[0], -1)


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
        rows = list(_rows(sizes, biased))
        self.biased: Tensor | None  # the rows that have a bias, where only some do
        if 0 < len(rows) < len(self.weight):
            self.register_buffer("biased", torch.tensor(rows), persistent=False)
        else:
            self.biased = None
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
