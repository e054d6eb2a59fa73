"""The shared transformer: vectors and positions in, vectors out. It knows no modality and holds no state."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from jaxtyping import Float, Int64
from torch import Tensor, nn

from anyformer.errors import ConfigError, nearest
from anyformer.mask import Mask
from anyformer.sublayers import Attention, Block, BlockConfig, Cache, make_norm, make_positions


@dataclass(frozen=True)
class BackboneConfig(BlockConfig):
    """A block's settings, how many of them, and where order comes from. Plain data.

    positions: `{"type": "rotary" | "learned" | "sinusoidal" | "none", ...}` with the scheme's settings.
    rank: position axes; None takes the most that any stream of the model has.
    """

    depth: int = 1
    rank: int | None = None
    positions: dict[str, Any] = field(default_factory=lambda: {"type": "rotary"})
    final_norm: bool = True

    @classmethod
    def of(cls, config: dict[str, Any] | BackboneConfig) -> BackboneConfig:
        """From plain data, a misspelt setting named."""
        if isinstance(config, BackboneConfig):
            return config
        known = {f.name for f in fields(cls)}
        for key in config:
            if key not in known:
                raise ConfigError(f"A backbone has no setting {key!r}.{nearest(key, known)}")
        for key in ("dim", "heads"):
            if key not in config:
                raise ConfigError(f"A backbone needs {key!r}; got only {sorted(config)}.")
        return cls(**config)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "recipe": list(self.recipe)}


class Backbone(nn.Module):
    """`depth` blocks behind one position scheme.

    A pre-norm stack ends in a norm (`final_norm`); a post-norm one usually does not.
    """

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.depth))
        self.final_norm = make_norm(config.norm, config.dim, config.norm_eps) if config.final_norm else nn.Identity()
        head_dim = config.head_dim or config.dim // config.heads
        self.positions = make_positions(config.positions, config.dim, head_dim, config.rank or 1)
        self.dropout = nn.Dropout(config.dropout)
        self.apply(_initialise)
        self._scale_residual_projections()

    def forward(
        self,
        x: Float[Tensor, "tokens dim"],
        positions: Int64[Tensor, "tokens rank"],
        mask: Mask,
        cache: Cache | None = None,
    ) -> Float[Tensor, "tokens dim"]:
        where = self.positions.embed(positions)
        x = self.dropout(x if where is None else x + where)
        place = self.positions.place(positions)
        for block in self.blocks:
            x = block(x, place, mask, cache)
        return self.final_norm(x)

    def new_cache(self, documents: int, capacity: int = 64) -> Cache:
        """An empty KV cache for so many sequences."""
        attention = next((m for m in self.modules() if isinstance(m, Attention)), None)
        if attention is None:
            raise ConfigError(f"The recipe {self.config.recipe} has no attention, hence nothing to cache.")
        return Cache(
            len(self.blocks), documents, attention.kv_heads, attention.head_dim,
            capacity=capacity, like=attention.qkv.weight,
        )  # fmt: skip

    def _scale_residual_projections(self) -> None:
        """Keep the residual stream's variance flat in depth: 1/sqrt(residual layers) (GPT-2 paper, §2.3)."""
        scale = 1 / math.sqrt(max(1, len(self.blocks) * len(self.config.recipe)))
        for name, parameter in self.named_parameters():
            if name.endswith((".out.weight", ".down.weight", ".project.weight")):
                parameter.data.mul_(scale)


def _initialise(module: nn.Module) -> None:
    """Weights that keep the variance of what passes through, at any width (LeCun et al. 1998, §4.6)."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=module.in_features**-0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
