"""The embedder of sound: frames become slots, and the slots of one clip look at each other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from anyformer.architecture import BackboneConfig
from anyformer.backbone import Backbone
from anyformer.mask import Mask
from anyformer.sublayers import PackedConv1d


@dataclass(frozen=True)
class Subsampling:
    """The slot rule of a clip: ceil(frames / factor).

    A convolution of kernel 3 and stride 2, padded by 1, maps L frames to ceil(L / 2); rounding up
    log2(factor) times is rounding up once. (An object, so that equal rules compare equal.)
    """

    factor: int

    def __call__(self, frames: int) -> int:
        return -(-frames // self.factor)


@dataclass(frozen=True)
class Conformer:
    """Settings of the embedder; called with a width, it makes one. Equal settings compare equal."""

    features: int
    subsampling: int
    layers: int
    heads: int
    kernel: int
    dropout: float

    def __call__(self, dim: int) -> ConformerEmbedding:
        return ConformerEmbedding(self, dim)

    def stack(self, dim: int) -> BackboneConfig:
        """Gulati et al., arXiv:2005.08100 §2 and equations 1-4."""
        return BackboneConfig(
            dim,
            self.heads,
            self.layers,
            recipe=("half feed_forward", "attention", "convolution", "half feed_forward"),
            end_norm=True,
            final_norm=False,
            causal=False,
            activation="silu",
            kernel=self.kernel,
            dropout=self.dropout,
        )


class ConformerEmbedding(nn.Module):
    """Convolutional subsampling, a linear map, and conformer blocks with rotary positions.

    The convolutions run over time and take a frame's numbers as channels. No clip ever touches another.
    """

    def __init__(self, config: Conformer, dim: int) -> None:
        super().__init__()
        widths = [config.features] + [dim] * (config.subsampling.bit_length() - 1)
        self.subsampling = nn.ModuleList(PackedConv1d(width, dim, kernel=3, stride=2) for width in widths[:-1])
        self.project = nn.Linear(widths[-1], dim)
        self.blocks = Backbone(config.stack(dim))

    def forward(
        self, values: Float[Tensor, "values features"], items: Int64[Tensor, "items 2"]
    ) -> Float[Tensor, "slots dim"]:
        x, lengths = values, tuple(items[:, 0].tolist())
        for convolution in self.subsampling:
            x, lengths = convolution(x, lengths)
            x = functional.gelu(x)
        where = torch.cat([torch.arange(length) for length in lengths])[:, None].to(x.device)
        return self.blocks(self.project(x), where, Mask.bidirectional(lengths))
