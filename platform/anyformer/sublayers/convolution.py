"""Convolutions over packed items: neighbours in a batch never leak into each other."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from anyformer.architecture import BackboneConfig
from anyformer.errors import ConfigError, MaskError
from anyformer.sublayers.context import Context
from anyformer.sublayers.feed_forward import activation_named
from anyformer.sublayers.normalisation import make_item_norm

Lengths = tuple[int, ...]


class PackedConv1d(nn.Module):
    """A 1-D convolution over time within each item, zero-padded at both of its ends.

    padding: zeros before and behind an item; (kernel - 1) / 2 on both sides by default, which makes ceil(L / stride)
    of L values. Items are laid on one time axis with enough zeros between them to be each other's padding, so one
    dense convolution serves the whole batch.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        bias: bool = True,
        padding: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        if padding is None and kernel % 2 == 0:
            raise ConfigError(f"A packed convolution needs an odd kernel; got kernel={kernel}. Or give its padding.")
        self.conv = nn.Conv1d(in_dim, out_dim, kernel, stride=stride, groups=groups, bias=bias)
        self.kernel, self.stride = kernel, stride
        self.before, self.behind = padding or (kernel // 2, kernel // 2)

    def shorter(self, length: int) -> int:
        """Values made of an item of `length` values."""
        return max(0, (length + self.before + self.behind - self.kernel) // self.stride + 1)

    def forward(
        self, values: Float[Tensor, "values in_dim"], lengths: Lengths
    ) -> tuple[Float[Tensor, "shorter out_dim"], Lengths]:
        starts, total = self._layout(lengths)
        padded = values.new_zeros(total, values.shape[1])
        inside = [start + self.before for start in starts]
        padded = padded.index_copy(0, _spread(inside, lengths, values.device), values)
        out = self.conv(padded.T[None])[0].T
        shorter = tuple(map(self.shorter, lengths))
        return out[_spread([start // self.stride for start in starts], shorter, out.device)], shorter

    def _layout(self, lengths: Lengths) -> tuple[list[int], int]:
        """Where each item's first window starts on the shared axis, and the axis' length."""
        starts, at = [], 0
        for length in lengths:
            starts.append(at)
            at += length + self.before + self.behind
            at = -(-at // self.stride) * self.stride  # windows must start on a stride's multiple
        return starts, at + self.kernel


def _spread(starts: list[int], lengths: Lengths, device: torch.device) -> Tensor:
    """The indices start, start + 1, …, start + length - 1 of every item, end to end."""
    sizes = torch.tensor(lengths, dtype=torch.int64)
    first = torch.tensor(starts, dtype=torch.int64) - (sizes.cumsum(0) - sizes)
    return (torch.arange(int(sizes.sum())) + first.repeat_interleave(sizes)).to(device)


class ConvolutionModule(nn.Module):
    """The conformer's convolution: pointwise, gate, depthwise, norm, activation, pointwise
    (arXiv:2005.08100 §2.2 and figure 2).

    The paper's norm is "batch", whose statistics let a clip depend on its neighbours while training; "layer" does not.
    """

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        dim, kernel, bias = config.dim, config.kernel, config.convolution_bias
        self.expand = nn.Linear(dim, 2 * dim, bias=bias)
        self.causal = config.causal_convolution
        padding = (kernel - 1, 0) if self.causal else None
        self.depthwise = PackedConv1d(dim, dim, kernel, groups=dim, bias=bias, padding=padding)
        self.norm = make_item_norm(config.convolution_norm, dim)
        self.activation = activation_named(config.activation)
        self.project = nn.Linear(dim, dim, bias=bias)

    def forward(self, x: Float[Tensor, "tokens dim"], context: Context) -> Float[Tensor, "tokens dim"]:
        """Neighbours in time are mixed, never across a document's edge."""
        if context.cache is not None:
            raise ConfigError("A convolution needs its whole item at once; it cannot run from a KV cache.")
        if context.mask.hides_later_keys and not self.causal:
            raise MaskError(
                "A convolution sees later slots too; expected a bidirectional mask, got one that hides some."
            )
        lengths = context.mask.queries
        x = F.glu(self.expand(x), dim=-1)
        x, _ = self.depthwise(x, lengths)
        return self.project(self.activation(self.norm(x, lengths)))
