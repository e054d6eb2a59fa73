"""Norms by name: of each token, and of the tokens of an item."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from anyformer.errors import unknown


class LayerNorm(nn.LayerNorm):
    """torch's, without the function around it, which costs as much again as a norm of one row."""

    def forward(self, input: Float[Tensor, "*any dim"]) -> Float[Tensor, "*any dim"]:
        return torch.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) · weight, in float32 (arXiv:1910.07467 eq. 4).

    Written out because `F.rms_norm` is not fused on CPU and several times slower there than these three steps.
    """

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Float[Tensor, "tokens dim"]) -> Float[Tensor, "tokens dim"]:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return wide.to(x.dtype) * self.weight


NORMS = {"layer": lambda dim, eps: LayerNorm(dim, eps=eps), "rms": RMSNorm}


def make_norm(kind: str, dim: int, eps: float) -> nn.Module:
    """ "layer" (arXiv:1607.06450) or "rms"."""
    if kind not in NORMS:
        raise unknown("norm", kind, NORMS)
    return NORMS[kind](dim, eps)


class ItemNorm(nn.Module):
    """Base of the norms inside a convolution module; they may look at all tokens of an item."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Float[Tensor, "tokens dim"], lengths: tuple[int, ...]) -> Float[Tensor, "tokens dim"]:
        return self.inner(x)


class WholeItemNorm(ItemNorm):
    """One group norm over each item's tokens and columns together (arXiv:1803.08494 with one group)."""

    def forward(self, x, lengths):
        pieces = [self.inner(item.T[None])[0].T if len(item) else item for item in x.split(lengths)]
        return torch.cat(pieces) if pieces else x


ITEM_NORMS = {
    "layer": lambda dim: ItemNorm(nn.LayerNorm(dim)),
    "batch": lambda dim: ItemNorm(nn.BatchNorm1d(dim)),  # over all tokens of the batch (arXiv:1502.03167)
    "group": lambda dim: WholeItemNorm(nn.GroupNorm(1, dim)),
}


def make_item_norm(kind: str, dim: int) -> nn.Module:
    """ "layer", "batch" or "group", with the usual epsilon of 1e-5."""
    if kind not in ITEM_NORMS:
        raise unknown("convolution norm", kind, ITEM_NORMS)
    return ITEM_NORMS[kind](dim)
