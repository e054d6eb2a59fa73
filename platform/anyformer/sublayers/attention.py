"""Multi-head attention over packed documents: to the own sequence, or to an encoded source."""

from __future__ import annotations

from functools import partial

from jaxtyping import Float
from torch import Tensor, nn

from anyformer.architecture import BackboneConfig
from anyformer.errors import ConfigError
from anyformer.mask import Mask
from anyformer.sublayers.attend import attend, attention_weights
from anyformer.sublayers.cache import packed
from anyformer.sublayers.context import Context
from anyformer.sublayers.positions import Bias, Placement
from anyformer.sublayers.projection import Linear, Projection


class Attention(nn.Module):
    """Self-attention (arXiv:1706.03762 §3.2.2); fewer key heads than heads share keys among query heads
    (arXiv:1911.02150, arXiv:2305.13245)."""

    site = "attention"

    def __init__(self, config: BackboneConfig, layer: int = 0) -> None:
        super().__init__()
        self.heads, self.key_heads, self.head_dim = config.heads, config.key_heads, config.head_width
        self.layer, self.window, self.dropout = layer, config.window_of(layer), config.attention_dropout
        self.chunk = config.chunk
        scale = self.head_dim**-0.5 if config.score_scale is None else config.score_scale
        self.scale = scale / (layer + 1) if config.score_scale_by_depth else scale
        self._make_projections(config)
        self.out = Linear(self.heads * self.head_dim, config.dim, bias="o" in config.attention_bias)

    def _make_projections(self, config: BackboneConfig) -> None:
        q, kv = self.heads * self.head_dim, self.key_heads * self.head_dim
        self.qkv = Projection(config.dim, {"q": q, "k": kv, "v": kv}, config.attention_bias)

    def forward(self, x: Float[Tensor, "tokens dim"], context: Context) -> Float[Tensor, "tokens dim"]:
        q, k, v = self._project(x, context.place)
        if context.cache is not None:
            k, v = context.cache.extend(self.layer, k, v, context.mask)
        bias = None if context.place.bias is None else partial(context.place.bias, self.layer)
        mask = context.mask
        if self.window is not None or self.chunk is not None:
            mask = mask.windowed(self.window).chunked(self.chunk)
        return self._mix(q, k, v, mask, bias, context)

    def _project(self, x: Tensor, place: Placement) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys stay together, so that a rotation is one pass over both."""
        count = self.heads + self.key_heads
        if place.rotate is not None and place.rotates_input:
            turned = place.rotate(x.unflatten(-1, (self.heads, -1))).flatten(1)
            edge = count * self.head_dim
            qk = self.qkv(turned, slice(None, edge)).unflatten(-1, (-1, self.head_dim))
            v = self.qkv(x, slice(edge, None)).unflatten(-1, (-1, self.head_dim))
        else:
            rows = self.qkv(x).contiguous()  # of few, they may come column by column
            parts = rows.view(x.shape[0], count + self.key_heads, self.head_dim)
            if place.rotate is None:
                q, k, v = parts.split_with_sizes((self.heads, self.key_heads, self.key_heads), 1)
                return q, k, v
            qk, v = parts.split_with_sizes((count, self.key_heads), 1)
            qk = place.rotate(qk)
        q, k = qk.split_with_sizes((self.heads, self.key_heads), 1)
        return q, k, v

    def _mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask, bias: Bias | None, context: Context) -> Tensor:
        if context.probe and f"{self.site}.weights" in context.probe:
            keys = packed(k, mask) if k.dim() == 4 else k
            context.see(f"{self.site}.weights", self.layer, attention_weights(q, keys, mask, self.scale, bias))
        dropout = self.dropout if self.training else 0.0
        mixed = attend(q, k, v, mask, scale=self.scale, bias=bias, dropout=dropout)
        if context.probe:
            mixed = context.see(f"{self.site}.heads", self.layer, mixed)
        return self.out(mixed.flatten(1))


class CrossAttention(Attention):
    """Queries from the own sequence, keys and values from its encoded source (arXiv:1706.03762 §3.2.3)."""

    site = "cross_attention"

    def _make_projections(self, config: BackboneConfig) -> None:
        q, kv = self.heads * self.head_dim, self.key_heads * self.head_dim
        self.q = Projection(config.dim, {"q": q}, config.attention_bias)
        self.kv = Projection(config.memory_dim or config.dim, {"k": kv, "v": kv}, config.attention_bias)

    def forward(self, x: Float[Tensor, "tokens dim"], context: Context) -> Float[Tensor, "tokens dim"]:
        memory, cache = context.memory, context.cache
        if memory is None:
            raise ConfigError("Cross-attention has no source to read; give each example a `source`.")
        q = self.q(x).contiguous().unflatten(-1, (-1, self.head_dim))
        if cache is None:
            (k, v), lengths = self._keys_and_values(memory.states), memory.lengths
        else:
            kept = cache.remember(self.layer, memory.lengths, lambda: self._keys_and_values(memory.states))
            (k, v), lengths = (each.transpose(1, 2) for each in kept), cache.source_lengths
        return self._mix(q, k, v, context.mask.across(lengths), None, context)

    def _keys_and_values(self, states: Tensor) -> tuple[Tensor, Tensor]:
        k, v = self.kv(states).unflatten(-1, (-1, self.head_dim)).split(self.key_heads, dim=1)
        return k, v
