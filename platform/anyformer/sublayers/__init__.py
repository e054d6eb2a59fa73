"""The parts every architecture here is made of; public, so that a plugin's embedder can use them too."""

from anyformer.sublayers.attend import attend, backends, set_backend
from anyformer.sublayers.attention import Attention
from anyformer.sublayers.block import SUBLAYERS, Block, BlockConfig
from anyformer.sublayers.cache import Cache
from anyformer.sublayers.convolution import ConvolutionModule, PackedConv1d
from anyformer.sublayers.embedding import LinearEmbedding, LinearHead, TableEmbedding, TableHead
from anyformer.sublayers.feed_forward import FeedForward
from anyformer.sublayers.normalisation import make_norm
from anyformer.sublayers.positions import (
    LearnedPositions,
    NoPositions,
    Placement,
    PositionScheme,
    Rotary,
    SinusoidalPositions,
    make_positions,
)

__all__ = [
    "SUBLAYERS",
    "Attention",
    "Block",
    "BlockConfig",
    "Cache",
    "ConvolutionModule",
    "FeedForward",
    "LearnedPositions",
    "LinearEmbedding",
    "LinearHead",
    "NoPositions",
    "PackedConv1d",
    "Placement",
    "PositionScheme",
    "Rotary",
    "SinusoidalPositions",
    "TableEmbedding",
    "TableHead",
    "attend",
    "backends",
    "make_norm",
    "make_positions",
    "set_backend",
]
