"""Multi-head attention, with grouped queries, over packed documents."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from anyformer.errors import ConfigError
from anyformer.mask import Mask
from anyformer.sublayers.attend import attend
from anyformer.sublayers.cache import Cache
from anyformer.sublayers.positions import Placement


class Attention(nn.Module):
    """Self-attention (arXiv:1706.03762 §3.2.2); `kv_heads < heads` shares keys among query heads.

    window: each token sees at most so many keys up to itself; None sees them all.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        bias: bool = True,
        window: int | None = None,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.kv_heads = heads if kv_heads is None else kv_heads
        self.head_dim = dim // heads if head_dim is None else head_dim
        self.window = window
        if head_dim is None and dim % heads:
            raise ConfigError(f"dim={dim} is not a multiple of heads={heads}; change one, or give head_dim.")
        if self.kv_heads < 1 or heads % self.kv_heads:
            raise ConfigError(f"heads={heads} is not a multiple of kv_heads={self.kv_heads}.")
        self.sizes = (heads + self.kv_heads, self.kv_heads)
        self.qkv = nn.Linear(dim, sum(self.sizes) * self.head_dim, bias=bias)
        self.out = nn.Linear(heads * self.head_dim, dim, bias=bias)

    def forward(
        self,
        x: Float[Tensor, "tokens dim"],
        place: Placement,
        mask: Mask,
        cache: Cache | None = None,
        layer: int = 0,
    ) -> Float[Tensor, "tokens dim"]:
        # queries and keys stay together so that the rotation is one pass over both
        qk, v = self.qkv(x).unflatten(-1, (-1, self.head_dim)).split(self.sizes, dim=1)
        if place.rotate is not None:
            qk = place.rotate(qk)
        q, k = qk.split((self.heads, self.kv_heads), dim=1)
        if cache is not None:
            k, v = cache.extend(layer, k, v, mask)
        mixed = attend(q, k, v, mask.windowed(self.window), bias=place.bias)
        return self.out(mixed.flatten(1))
