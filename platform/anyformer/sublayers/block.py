"""A block: an ordered list of residual sublayers, each with a norm placed before or after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from anyformer.errors import ConfigError, MaskError, unknown
from anyformer.mask import Mask
from anyformer.sublayers.attention import Attention
from anyformer.sublayers.cache import Cache
from anyformer.sublayers.convolution import ConvolutionModule
from anyformer.sublayers.feed_forward import FeedForward
from anyformer.sublayers.normalisation import make_norm
from anyformer.sublayers.positions import Placement


@dataclass(frozen=True)
class BlockConfig:
    """What a block is made of, as plain data.

    recipe: sublayers in order; "half feed_forward" adds half of its output (the conformer's half step).
    `["attention", "feed_forward"]` is GPT, BERT and ViT; `["half feed_forward", "attention", "convolution",
    "half feed_forward"]` with `end_norm` is a conformer.
    norm_placement: "pre", x + f(norm(x)) (arXiv:2002.04745), or "post", norm(x + f(x)) (arXiv:1706.03762).
    hidden: width of the feed-forward, 4·dim by default. dropout acts on each sublayer's output.
    """

    dim: int
    heads: int
    kv_heads: int | None = None
    head_dim: int | None = None
    hidden: int | None = None
    recipe: tuple[str, ...] = ("attention", "feed_forward")
    norm: str = "layer"
    norm_eps: float = 1e-5
    norm_placement: str = "pre"
    end_norm: bool = False
    activation: str = "gelu"
    gated: bool = False
    bias: bool = True
    kernel: int = 31
    window: int | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "recipe", tuple(self.recipe))
        if self.norm_placement not in ("pre", "post"):
            raise unknown("norm placement", self.norm_placement, ("pre", "post"))
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout={self.dropout}; expected a probability in [0, 1).")


class Block(nn.Module):
    """Residual sublayers by recipe. `layer` is the block's index in a KV cache."""

    def __init__(self, config: BlockConfig, layer: int = 0) -> None:
        super().__init__()
        self.pre = config.norm_placement == "pre"
        self.layer = layer
        self.steps = [0.5 if entry.startswith("half ") else 1.0 for entry in config.recipe]
        self.sublayers = nn.ModuleList(make_sublayer(entry, config) for entry in config.recipe)
        self.norms = nn.ModuleList(make_norm(config.norm, config.dim, config.norm_eps) for _ in config.recipe)
        self.end_norm = make_norm(config.norm, config.dim, config.norm_eps) if config.end_norm else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Float[Tensor, "tokens dim"], place: Placement, mask: Mask, cache: Cache | None = None
    ) -> Float[Tensor, "tokens dim"]:
        for step, norm, sublayer in zip(self.steps, self.norms, self.sublayers, strict=True):
            change = self.dropout(sublayer(norm(x) if self.pre else x, place, mask, cache, self.layer))
            x = x + (change if step == 1 else step * change)
            x = x if self.pre else norm(x)
        return self.end_norm(x)


class Pointwise(nn.Module):
    """A sublayer that needs nothing but the vectors."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, place: Placement, mask: Mask, cache: Cache | None, layer: int) -> Tensor:
        return self.inner(x)


class WithinItems(nn.Module):
    """A sublayer that looks at neighbours in time, never across a document's edge."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, place: Placement, mask: Mask, cache: Cache | None, layer: int) -> Tensor:
        if cache is not None:
            raise ConfigError("A convolution needs its whole item at once; it cannot run from a KV cache.")
        if not all(map(mask.is_full, range(len(mask.queries)))):
            raise MaskError(
                "A convolution sees later slots too; expected a bidirectional mask, got one that hides some."
            )
        return self.inner(x, mask)


SUBLAYERS: dict[str, Callable[[BlockConfig], nn.Module]] = {
    "attention": lambda c: Attention(c.dim, c.heads, c.kv_heads, c.head_dim, c.bias, c.window),
    "feed_forward": lambda c: Pointwise(FeedForward(c.dim, c.hidden or 4 * c.dim, c.activation, c.gated, c.bias)),
    "convolution": lambda c: WithinItems(ConvolutionModule(c.dim, c.kernel)),
}
"""Every sublayer is called as `sublayer(x, place, mask, cache, layer)`."""


def make_sublayer(entry: str, config: BlockConfig) -> nn.Module:
    kind = entry.removeprefix("half ")
    if kind not in SUBLAYERS:
        raise unknown("sublayer", kind, SUBLAYERS)
    return SUBLAYERS[kind](config)
