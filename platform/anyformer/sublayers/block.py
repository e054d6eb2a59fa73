"""A block: an ordered list of residual sublayers, each with a norm placed before or after it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn

from anyformer.architecture import BackboneConfig
from anyformer.errors import unknown
from anyformer.sublayers.attention import Attention, CrossAttention
from anyformer.sublayers.context import Context
from anyformer.sublayers.convolution import ConvolutionModule
from anyformer.sublayers.feed_forward import make_feed_forward
from anyformer.sublayers.normalisation import make_norm

SUBLAYERS: dict[str, Callable[[BackboneConfig, int], nn.Module]] = {
    "attention": Attention,
    "cross_attention": CrossAttention,
    "feed_forward": make_feed_forward,
    "convolution": lambda config, layer: ConvolutionModule(config),
}
"""Every sublayer is made from the settings and the layer's index, and called as `sublayer(x, context)`."""


class Residual(nn.Module):
    """x + step · f(norm(x)) (pre-norm, arXiv:2002.04745), or norm(x + step · f(x)) (post-norm, arXiv:1706.03762)."""

    def __init__(self, entry: str, config: BackboneConfig, layer: int) -> None:
        super().__init__()
        kind = entry.removeprefix("half ")
        if kind not in SUBLAYERS:
            raise unknown("sublayer", kind, SUBLAYERS)
        self.step = 1.0 if kind == entry else 0.5
        self.pre = config.norm_placement == "pre"
        self.norm = make_norm(config.norm, config.dim, config.norm_eps)
        self.sublayer = SUBLAYERS[kind](config, layer)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Float[Tensor, "tokens dim"], context: Context) -> Float[Tensor, "tokens dim"]:
        change = self.sublayer(self.norm(x) if self.pre else x, context)
        change = self.dropout(change) if self.training else change
        x = x + (change if self.step == 1 else self.step * change)
        return x if self.pre else self.norm(x)


class Block(nn.Module):
    """Residual sublayers by recipe, each under its own name: `attention`, `feed_forward`, `feed_forward_2`, …"""

    def __init__(self, config: BackboneConfig, layer: int = 0) -> None:
        super().__init__()
        self.names: list[str] = []
        counted: Counter[str] = Counter()
        for entry in config.recipe:
            kind = entry.removeprefix("half ")
            counted[kind] += 1
            self.names.append(kind if counted[kind] == 1 else f"{kind}_{counted[kind]}")
            self.add_module(self.names[-1], Residual(entry, config, layer))
        self.end_norm = make_norm(config.norm, config.dim, config.norm_eps) if config.end_norm else None

    def forward(self, x: Float[Tensor, "tokens dim"], context: Context) -> Float[Tensor, "tokens dim"]:
        for name in self.names:
            x = getattr(self, name)(x, context)
        return x if self.end_norm is None else self.end_norm(x)
