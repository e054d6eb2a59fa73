"""Layer norms by name."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from anyformer.errors import unknown


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


NORMS = {"layer": lambda dim, eps: nn.LayerNorm(dim, eps=eps), "rms": RMSNorm}


def make_norm(kind: str, dim: int, eps: float) -> nn.Module:
    """ "layer" (arXiv:1607.06450) or "rms"."""
    if kind not in NORMS:
        raise unknown("norm", kind, NORMS)
    return NORMS[kind](dim, eps)
