"""The parts every architecture here is made of; public, so that a plugin's embedder can use them too."""

from anyformer.sublayers.attend import attend, attention_weights, backends, is_backend_set, set_backend
from anyformer.sublayers.attention import Attention, CrossAttention
from anyformer.sublayers.block import SUBLAYERS, Block, Residual
from anyformer.sublayers.cache import Cache
from anyformer.sublayers.context import Context, Hook, Memory, Probe
from anyformer.sublayers.convolution import ConvolutionModule, PackedConv1d
from anyformer.sublayers.feed_forward import ACTIVATIONS, Experts, FeedForward, activation_named
from anyformer.sublayers.normalisation import make_norm
from anyformer.sublayers.positions import Placement, PositionScheme, make_positions
from anyformer.sublayers.projection import Linear, Projection, linear

__all__ = [
    "ACTIVATIONS",
    "SUBLAYERS",
    "Attention",
    "Block",
    "Cache",
    "Context",
    "ConvolutionModule",
    "CrossAttention",
    "Experts",
    "FeedForward",
    "Hook",
    "Linear",
    "Memory",
    "PackedConv1d",
    "Placement",
    "PositionScheme",
    "Probe",
    "Projection",
    "Residual",
    "activation_named",
    "attend",
    "attention_weights",
    "backends",
    "is_backend_set",
    "linear",
    "make_norm",
    "make_positions",
    "set_backend",
]
