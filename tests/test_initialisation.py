"""Weights at the start: one size for every stream, and a residual stream that is flat in depth."""

import math

import pytest
import torch
from torch import nn

from anyformer.architecture import Architecture, BackboneConfig, HeadConfig
from anyformer.backbone import Backbone
from anyformer.batch import Example, pack
from anyformer.mask import Mask
from anyformer.model import Network
from anyformer.sublayers import Projection
from anyformer.tokens import Stream, StreamSpec, Tokens


def test_the_residual_stream_is_flat_in_depth():
    """Variance of the residual stream after 2 and after 32 layers: what the blocks add stays bounded, where
    unscaled projections would add 16 times as much."""
    added = {}
    for depth in (2, 32):
        torch.manual_seed(0)
        backbone = Backbone(BackboneConfig(64, 4, depth=depth, final_norm=False))
        x = torch.randn(64, 64)
        with torch.no_grad():
            out = backbone(x, torch.arange(64)[:, None], Mask.causal((64,)))
        added[depth] = float((out - x).var())
    assert 0.5 < added[32] / added[2] < 2


@pytest.mark.parametrize("std", [None, 0.03])
@pytest.mark.parametrize(
    "more",
    [
        {"recipe": ("attention", "feed_forward")},
        {"recipe": ("attention", "convolution"), "kernel": 3},
        {"recipe": ("cross_attention", "feed_forward"), "memory_dim": 200, "experts": 2, "attention_bias": "qo"},
    ],
)
def test_weights_start_small_and_output_maps_smaller(more, std):
    """1/sqrt(inputs) or as it is given; maps back to the residual stream 1/sqrt(residual layers) of that; biases
    zero."""
    torch.manual_seed(0)
    backbone = Backbone(BackboneConfig(128, 4, depth=8, init_std=std, embed_dim=96, **more))
    seen = set()
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Linear | Projection):
            wanted = (std or module.weight.shape[1] ** -0.5) / (
                4 if name.endswith((".out", ".down", ".project")) else 1
            )
            wanted *= 4 if name == "entry.project" else 1  # into the residual stream, not back to it
            assert math.isclose(float(module.weight.detach().std()), wanted, rel_tol=0.1), name
            assert module.bias is None or not module.bias.any()
            seen.add(name.split(".")[-1])
    assert "out" in seen
    assert len(seen) > 3


@pytest.mark.parametrize("scale", [True, False])
def test_streams_and_logits_start_at_one_size(scale):
    """Values of discrete and continuous streams embed to unit variance, and a tied head's logits have it too:
    no modality starts out louder. Without the factor √dim, tables are as quiet as they are stored."""
    torch.manual_seed(0)
    specs = [StreamSpec.discrete("text", 200), StreamSpec.continuous("frame", 40)]
    heads = {"text": HeadConfig(tie=True)}
    made = Network(specs, Architecture(BackboneConfig(256, 4, depth=2), heads, scale=scale))
    frames = Tokens({"frame": Stream.whole(torch.randn(200, 40))}, 200, torch.arange(200)[:, None])
    both = Tokens.laid_end_to_end([Tokens.of("text", torch.arange(200)), frames])
    batch = pack([Example(both, {})])
    with torch.no_grad():
        text, frame = made.embed(batch, made.backbone.config).split(200)
        logits = made.read("text", made(batch))
    assert math.isclose(float(frame.std()), 1, rel_tol=0.1)
    assert math.isclose(float(text.std()), 1 if scale else 256**-0.5, rel_tol=0.1)
    assert math.isclose(float(logits.std()), 1, rel_tol=0.3)
