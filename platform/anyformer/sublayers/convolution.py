"""Convolutions over packed items: neighbours in a batch never leak into each other."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from anyformer.errors import ConfigError
from anyformer.mask import Mask

Lengths = tuple[int, ...]


class PackedConv1d(nn.Module):
    """A 1-D convolution over time within each item, zero-padded by (kernel - 1) / 2 at both of its ends.

    An item of L values becomes one of ceil(L / stride). Items are laid on one time axis with enough zeros
    between them to be each other's padding, so one dense convolution serves the whole batch.
    """

    def __init__(
        self, in_dim: int, out_dim: int, kernel: int, stride: int = 1, groups: int = 1, bias: bool = True
    ) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ConfigError(f"A packed convolution needs an odd kernel; got kernel={kernel}.")
        self.conv = nn.Conv1d(in_dim, out_dim, kernel, stride=stride, groups=groups, bias=bias)
        self.kernel, self.stride = kernel, stride

    def forward(
        self, values: Float[Tensor, "values in_dim"], lengths: Lengths
    ) -> tuple[Float[Tensor, "shorter out_dim"], Lengths]:
        shorter = tuple(-(-length // self.stride) for length in lengths)
        starts, total = self._layout(lengths)
        padded = values.new_zeros(total, values.shape[1])
        padded = padded.index_copy(0, _spread(starts, lengths, values.device), values)
        out = self.conv(padded.T[None])[0].T
        return out[_spread([start // self.stride for start in self._edges(starts)], shorter, out.device)], shorter

    def _layout(self, lengths: Lengths) -> tuple[list[int], int]:
        """Where each item starts on the shared axis, and the axis' length."""
        half, starts, at = self.kernel // 2, [], 0
        for length in lengths:
            at = -(-at // self.stride) * self.stride  # windows must start on a stride's multiple
            starts.append(at + half)
            at += length + 2 * half
        return starts, max(at, self.kernel) + self.stride

    def _edges(self, starts: list[int]) -> list[int]:
        return [start - self.kernel // 2 for start in starts]


def _spread(starts: list[int], lengths: Lengths, device: torch.device) -> Tensor:
    """The indices start, start + 1, …, start + length - 1 of every item, end to end."""
    sizes = torch.tensor(lengths, dtype=torch.int64)
    first = torch.tensor(starts, dtype=torch.int64) - (sizes.cumsum(0) - sizes)
    return (torch.arange(int(sizes.sum())) + first.repeat_interleave(sizes)).to(device)


class ConvolutionModule(nn.Module):
    """The conformer's convolution: pointwise, gate, depthwise, norm, activation, pointwise
    (arXiv:2005.08100 §2.2 and figure 2).

    The norm is a layer norm: batch statistics would let a clip depend on its neighbours in the batch.
    """

    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__()
        self.expand = nn.Linear(dim, 2 * dim)
        self.depthwise = PackedConv1d(dim, dim, kernel, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.project = nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "tokens dim"], mask: Mask) -> Float[Tensor, "tokens dim"]:
        x = F.glu(self.expand(x), dim=-1)
        x, _ = self.depthwise(x, mask.queries)
        return self.project(F.silu(self.norm(x)))
