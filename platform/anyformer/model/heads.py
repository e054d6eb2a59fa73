"""From hidden states to what is said of a stream: logits, or features."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from anyformer.architecture import HeadConfig
from anyformer.errors import ConfigError
from anyformer.model.embedders import TableEmbedding
from anyformer.sublayers import activation_named, linear


class Head(nn.Module):
    """[dense, activation, norm], then one linear map, then squash, as a HeadConfig says."""

    def __init__(self, dim: int, width: int, config: HeadConfig, std: float | None = None) -> None:
        super().__init__()
        inner = config.dense or dim
        self.factor = dim**-0.5 if config.scaled else 1.0
        self.dense = nn.Linear(dim, inner) if config.dense else None
        self.activation = activation_named(config.activation) if config.activation else None
        self.norm = nn.LayerNorm(inner, eps=config.norm_eps) if config.norm else None
        self.weight = nn.Parameter(torch.empty(width, inner))
        self.bias = nn.Parameter(torch.zeros(width)) if config.bias else None
        self.offset: Tensor | None
        self.register_buffer("offset", torch.zeros(width) if config.offset else None)
        self.squash = activation_named(config.squash) if config.squash else None
        nn.init.normal_(self.weight, std=std or inner**-0.5)

    def forward(self, hidden: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows width"]:
        x = hidden if self.factor == 1 else hidden * self.factor
        for step in (self.dense, self.activation, self.norm):
            x = x if step is None else step(x)
        said = linear(x, self.weight, self.bias)
        said = said if self.offset is None else said + self.offset
        return said if self.squash is None else self.squash(said)

    def tie(self, name: str, embedder: nn.Module) -> None:
        """Share an embedder's table (arXiv:1608.05859)."""
        if not isinstance(embedder, TableEmbedding) or embedder.table.weight.shape != self.weight.shape:
            have = tuple(embedder.table.weight.shape) if isinstance(embedder, TableEmbedding) else "no table"
            raise ConfigError(
                f"A head cannot be tied to stream {name!r}: it needs a table of {tuple(self.weight.shape)}, got {have}."
            )
        self.weight = embedder.table.weight
