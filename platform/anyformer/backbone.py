"""The shared transformer: vectors and positions in, vectors out. It knows no modality and holds no state."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from anyformer.architecture import BackboneConfig
from anyformer.errors import ConfigError
from anyformer.mask import Mask
from anyformer.sublayers import (
    Block,
    Cache,
    Context,
    FeedForward,
    Memory,
    Probe,
    Projection,
    Residual,
    make_norm,
    make_positions,
)

NO_PROBE: Probe = {}


class Backbone(nn.Module):
    """`depth` blocks behind one position scheme.

    A pre-norm stack ends in a norm (`final_norm`); a post-norm one usually does not.
    """

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.positions = make_positions(config)
        self.entry = Entry(config)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.depth))
        final_eps = config.norm_eps if config.final_norm_eps is None else config.final_norm_eps
        self.final_norm = make_norm(config.norm, config.dim, final_eps) if config.final_norm else nn.Identity()
        _initialise(self)

    def forward(
        self,
        x: Float[Tensor, "tokens embed_width"],
        positions: Int64[Tensor, "tokens rank"],
        mask: Mask,
        memory: Memory | None = None,
        cache: Cache | None = None,
        probe: Probe = NO_PROBE,
    ) -> Float[Tensor, "tokens dim"]:
        keys = positions if cache is None or not self.positions.compares else cache.place(positions, mask)
        context = Context(self.positions.place(positions, keys, mask), mask, memory, cache, probe)
        x = context.see("entry", 0, self.entry(x, self.positions.embed(positions)))
        for layer, block in enumerate(self.blocks):
            x = context.see("block", layer, block(x, context))
        return context.see("hidden", 0, self.final_norm(x))

    def compile_blocks(self, backend: str | Callable = "inductor") -> None:
        """Let torch.compile, with this back end, fuse what blocks do to each token by itself: one graph for all layers
        and any number of tokens.

        What looks at documents (attention, convolutions) or sends tokens different ways (experts) stays outside: a
        graph of it would hold for the lengths of one batch.
        """
        for part in (part for block in self.blocks for part in block.children()):
            if isinstance(part, Residual) and isinstance(part.sublayer, FeedForward):
                part.compile(backend=backend, dynamic=True)

    def new_cache(self, documents: int, capacity: int = 0) -> Cache:
        """An empty KV cache for so many sequences."""
        config = self.config
        if "attention" not in config.recipe or not self.blocks:
            raise ConfigError(f"{config.depth} blocks of {list(config.recipe)} have no attention to cache for.")
        return Cache(
            len(self.blocks), documents, config.key_heads, config.head_width,
            rank=config.rank or 1, capacity=capacity, like=next(self.parameters()),
        )  # fmt: skip


class Entry(nn.Module):
    """From embeddings to the first block: positions, norm, dropout, a map to the stack's width, a constant."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        width = config.embed_width
        eps = config.norm_eps if config.embed_norm_eps is None else config.embed_norm_eps
        self.norm = make_norm(config.norm, width, eps) if config.embed_norm else None
        self.project = nn.Linear(width, config.dim) if width != config.dim else None
        self.shift = nn.Parameter(torch.zeros(width)) if config.embed_shift else None
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Float[Tensor, "tokens width"], where: Tensor | None) -> Float[Tensor, "tokens dim"]:
        x = x if where is None else x + where
        x = x if self.norm is None else self.norm(x)
        if self.shift is not None:
            x = x + self.shift
        x = self.dropout(x) if self.training else x
        return x if self.project is None else self.project(x)


def _initialise(backbone: Backbone) -> None:
    """Weights at `init_std`, or such that they keep the variance of what passes through at any width (LeCun et al.
    1998, §4.6); the residual stream's variance is kept flat in depth by 1/sqrt(residual sublayers) (GPT-2 paper, §2.3).
    """
    config = backbone.config
    for module in backbone.modules():
        if isinstance(module, nn.Linear | Projection):
            nn.init.normal_(module.weight, std=config.init_std or module.weight.shape[1] ** -0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    scale = 1 / math.sqrt(max(1, config.depth * len(config.recipe)))
    for block in backbone.blocks:
        for name, parameter in block.named_parameters():
            if name.endswith((".out.weight", ".down.weight", ".project.weight")):
                parameter.data.mul_(scale)


def encoder_probe(probe: Probe) -> Probe:
    """The hooks of an encoder's sites, without their "encoder." """
    return {site.removeprefix("encoder."): hook for site, hook in probe.items() if site.startswith("encoder.")}
