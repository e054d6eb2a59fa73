"""Self-attention and cross-attention as layers: their projections, scales and windows, against torch's own."""

import pytest
import torch
from torch import Tensor, nn

from anyformer.architecture import BackboneConfig
from anyformer.errors import ConfigError
from anyformer.mask import Mask
from anyformer.sublayers import Attention, Context, CrossAttention, Memory, Placement, Projection, make_positions


def shaken(layer: nn.Module, seed: int = 0) -> nn.Module:
    """The layer with every parameter drawn anew, biases too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return layer


def test_attention_is_multi_head_attention():
    """The layer, weights copied, against torch's own `nn.MultiheadAttention`."""
    torch.manual_seed(0)
    ours, theirs = shaken(Attention(BackboneConfig(12, 3))), nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv.weight)
        theirs.in_proj_bias.copy_(ours.qkv.bias)
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    x = torch.randn(7, 12)
    hidden = nn.Transformer.generate_square_subsequent_mask(7)
    wanted, _ = theirs(x[None], x[None], x[None], attn_mask=hidden, need_weights=False)
    assert torch.allclose(ours(x, Context(Placement(), Mask.causal((7,)))), wanted[0], atol=1e-5)
    wanted, _ = theirs(x[None], x[None], x[None], need_weights=False)
    assert torch.allclose(ours(x, Context(Placement(), Mask.bidirectional((7,)))), wanted[0], atol=1e-5)


def test_cross_attention_is_multi_head_attention():
    """Document by document against torch's own, whose sources are of another width; one document has none."""
    torch.manual_seed(0)
    config = BackboneConfig(12, 3, memory_dim=10, recipe=("attention", "cross_attention", "feed_forward"))
    ours = shaken(CrossAttention(config))
    theirs = nn.MultiheadAttention(12, 3, batch_first=True, kdim=10, vdim=10)
    with torch.no_grad():
        theirs.q_proj_weight.copy_(ours.q.weight)
        theirs.k_proj_weight.copy_(ours.kv.weight[:12])
        theirs.v_proj_weight.copy_(ours.kv.weight[12:])
        theirs.in_proj_bias.copy_(torch.cat((ours.q.bias, ours.kv.bias)))
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    queries, keys = (2, 3, 1), (4, 0, 3)
    x, states = torch.randn(6, 12), torch.randn(7, 10)
    place = make_positions(config).place(torch.arange(6)[:, None], torch.arange(6)[:, None], Mask.causal(queries))
    found = ours(x, Context(place, Mask.causal(queries), Memory(states, keys))).split(queries)
    for mine, of, source in zip(found, x.split(queries), states.split(keys), strict=True):
        if len(source):
            wanted, _ = theirs(of[None], source[None], source[None], need_weights=False)
            assert torch.allclose(mine, wanted[0], atol=1e-5)
        else:  # nothing to read: zeros before the output projection
            assert torch.allclose(mine, ours.out.bias.expand_as(mine), atol=1e-6)


def test_cross_attention_without_a_source_is_refused():
    """By name, with the cure."""
    layer = CrossAttention(BackboneConfig(8, 2))
    with pytest.raises(ConfigError, match="no source to read; give each example a `source`"):
        layer(torch.randn(2, 8), Context(Placement(), Mask.causal((2,))))


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_grouped_queries_are_repeated_keys(kv_heads):
    """Sharing keys among heads equals full attention whose key and value weights are repeated."""
    dim, heads, mask = 16, 4, Mask.prefixed((3, 6), (0, 2))
    grouped = shaken(Attention(BackboneConfig(dim, heads, kv_heads=kv_heads)), 1)
    full = Attention(BackboneConfig(dim, heads))
    size = dim // heads

    def repeated(weight: Tensor) -> Tensor:
        q, k, v = weight.split((heads * size, kv_heads * size, kv_heads * size))
        both = (x.unflatten(0, (kv_heads, size)).repeat_interleave(heads // kv_heads, 0).flatten(0, 1) for x in (k, v))
        return torch.cat([q, *both])

    with torch.no_grad():
        full.qkv.weight.copy_(repeated(grouped.qkv.weight))
        full.qkv.bias.copy_(repeated(grouped.qkv.bias))
        full.out.load_state_dict(grouped.out.state_dict())
    x, positions = torch.randn(9, dim), torch.arange(9)[:, None]
    context = Context(make_positions(BackboneConfig(dim, heads)).place(positions, positions, mask), mask)
    assert torch.allclose(grouped(x, context), full(x, context), atol=1e-5)
    assert sum(p.numel() for p in grouped.parameters()) < sum(p.numel() for p in full.parameters())


@pytest.mark.parametrize("biased", ["", "q", "qv", "qvo", "k", "qkvo", "o"])
def test_each_projection_has_its_bias_or_none(biased):
    """Equal to a layer with all biases in which the missing ones are zero; none of those is a parameter."""
    x, context = torch.randn(5, 8), Context(Placement(), Mask.causal((2, 3)))
    some = shaken(Attention(BackboneConfig(8, 2, kv_heads=1, attention_bias=biased)))
    every = Attention(BackboneConfig(8, 2, kv_heads=1))
    sizes, taken = {"q": 8, "k": 4, "v": 4}, 0
    with torch.no_grad():
        every.qkv.weight.copy_(some.qkv.weight)
        every.out.weight.copy_(some.out.weight)
        for piece, (name, size) in zip(every.qkv.bias.split((8, 4, 4)), sizes.items(), strict=True):
            piece.zero_()
            if name in biased:
                piece.copy_(some.qkv.bias[taken : taken + size])
                taken += size
        if "o" in biased:
            every.out.bias.copy_(some.out.bias)
        else:
            every.out.bias.zero_()
    assert (0 if some.qkv.bias is None else len(some.qkv.bias)) == taken
    assert (some.out.bias is not None) == ("o" in biased)
    assert torch.allclose(some(x, context), every(x, context), atol=1e-6)


@pytest.mark.parametrize("rows", [slice(None), slice(0, 5), slice(3, 6)])
def test_some_rows_of_a_projection(rows):
    """Rows asked for alone are those rows of the whole, biases included."""
    projection, x = shaken(Projection(4, {"q": 3, "k": 2, "v": 1}, "qv")), torch.randn(2, 4)
    whole = x @ projection.weight.T
    whole[:, :3] += projection.bias[:3]
    whole[:, 5:] += projection.bias[3:]
    assert torch.allclose(projection(x, rows), whole[:, rows], atol=1e-6)


def test_the_scores_scale_is_the_configs():
    """head_dim**-0.5 unless it is given; divided by 1, 2, 3 … from layer to layer if that is asked for (GPT-2's
    `scale_attn_by_inverse_layer_idx`). Against a layer whose queries are scaled by hand."""
    x, context = torch.randn(5, 8), Context(Placement(), Mask.causal((5,)))
    plain = shaken(Attention(BackboneConfig(8, 2)))
    for settings_, layer, factor in [
        ({"score_scale": 1.0}, 2, 4**0.5),
        ({"score_scale": 0.3}, 0, 0.3 * 4**0.5),
        ({"score_scale_by_depth": True}, 0, 1.0),
        ({"score_scale_by_depth": True}, 2, 1 / 3),
        ({"score_scale_by_depth": True, "score_scale": 1.0}, 1, 4**0.5 / 2),
    ]:
        other = Attention(BackboneConfig(8, 2, **settings_), layer)
        other.load_state_dict(plain.state_dict())
        with torch.no_grad():
            other.qkv.weight[:8] /= factor
            other.qkv.bias[:8] /= factor
        assert torch.allclose(other(x, context), plain(x, context), atol=1e-5)


def test_a_window_comes_from_the_layer_or_from_the_mask():
    """Both are honoured; a layer without one does not widen the caller's. A list is dealt out to the layers."""
    wide = shaken(Attention(BackboneConfig(8, 2)), 2)
    x, mask = torch.randn(6, 8), Mask.causal((6,))

    def seen(window, layer: int, mask: Mask) -> Tensor:
        made = Attention(BackboneConfig(8, 2, window=window), layer)
        made.load_state_dict(wide.state_dict())
        return made(x, Context(Placement(), mask))

    narrow, whole = wide(x, Context(Placement(), mask.windowed(2))), wide(x, Context(Placement(), mask))
    assert not torch.allclose(narrow, whole, atol=1e-3)
    assert torch.allclose(seen(2, 0, mask), narrow, atol=1e-6)
    assert torch.allclose(seen(None, 0, mask.windowed(2)), narrow, atol=1e-6)
    assert torch.allclose(seen(4, 0, mask.windowed(2)), narrow, atol=1e-6)
    dealt = [seen([None, 2], layer, mask) for layer in range(4)]
    for layer, out in enumerate(dealt):
        assert torch.allclose(out, narrow if layer % 2 else whole, atol=1e-6)


def test_a_placements_bias_reaches_the_scores():
    """`Placement.bias` acts inside the layer and is told which one: a large bias on a single key makes that key the
    answer."""
    layer, x = shaken(Attention(BackboneConfig(8, 2), layer=3), 3), torch.randn(5, 8)
    first, asked = torch.zeros(2, 5, 5), []
    first[:, :, 0] = 100.0

    def bias(layer: int, document: int, q: Tensor, k: Tensor) -> Tensor:
        asked.append((layer, document, q.shape, k.shape))
        return first

    out = layer(x, Context(Placement(bias=bias), Mask.causal((5,))))
    assert torch.allclose(out, out[:1].expand(5, -1), atol=1e-5)
    assert asked == [(3, 0, (5, 2, 4), (5, 2, 4))]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"dim": 10, "heads": 4}, r"dim=10 is not a multiple of heads=4.*head_dim"),
        ({"dim": 8, "heads": 4, "kv_heads": 3}, r"heads=4 is not a multiple of kv_heads=3"),
        ({"dim": 8, "heads": 4, "kv_heads": 0}, r"kv_heads=0"),
        ({"dim": 8, "heads": 4, "attention_bias": "qx"}, r"attention_bias='qx'; expected letters of 'qkvo'"),
    ],
)
def test_wrong_settings_of_attention_are_refused(sizes, message):
    """Named with both numbers."""
    with pytest.raises(ConfigError, match=message):
        BackboneConfig(**sizes)


def test_a_free_head_dim_needs_no_divisor():
    """`head_dim` given, any dim will do."""
    layer = Attention(BackboneConfig(10, 3, head_dim=4))
    assert layer(torch.randn(2, 10), Context(Placement(), Mask.causal((2,)))).shape == (2, 10)


def test_attention_dropout_acts_in_training_alone():
    """On the weights, at the config's rate."""
    layer = shaken(Attention(BackboneConfig(8, 2, attention_dropout=0.5)))
    x, context = torch.randn(6, 8), Context(Placement(), Mask.causal((6,)))
    assert not torch.equal(layer(x, context), layer(x, context))
    layer.eval()
    plain = Attention(BackboneConfig(8, 2))
    plain.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x, context), plain(x, context))
