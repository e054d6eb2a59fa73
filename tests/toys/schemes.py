"""Position schemes to try things on, and where tokens stand."""

import torch
from torch import Tensor

from anyformer.architecture import BackboneConfig
from anyformer.sublayers import PositionScheme, make_positions

LLAMA3 = {"type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original": 512}

ABSOLUTE = {
    "none": {"type": "none"},
    "learned": {"type": "learned", "size": 64},
    "sinusoidal": {"type": "sinusoidal"},
    "stored": {"type": "sinusoidal", "layout": "halves", "size": 64},
}
ROTARY = {
    "rotary": {"type": "rotary"},
    "interleaved": {"type": "rotary", "layout": "interleaved"},
    "scaled": {"type": "rotary", "scaling": LLAMA3},
    "turned input": {"type": "rotary", "on": "input"},
}
BIASES = {
    "buckets": {"type": "buckets", "bidirectional": True},
    "alibi": {"type": "alibi"},
    "shaw": {"type": "shaw", "left": 5, "right": 3},
    "transformer_xl": {"type": "transformer_xl"},
}
SCHEMES = ABSOLUTE | ROTARY | BIASES


def scheme(type: str, rank: int = 1, dim: int = 8, heads: int = 1, **more) -> PositionScheme:
    """A scheme for three layers, with parameters of ordinary size."""
    torch.manual_seed(0)
    made = make_positions(BackboneConfig(dim, heads, depth=3, rank=rank, positions={"type": type, **more}))
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    return made


def line(length: int, start: int = 0) -> Tensor:
    return torch.arange(start, start + length)[:, None]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
