"""The parts against references written out here or taken from torch: norms, feed-forwards, convolutions, and the
order in which a block wires them."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from anyformer.architecture import BackboneConfig
from anyformer.errors import AnyformerError, ConfigError, MaskError
from anyformer.mask import Mask
from anyformer.sublayers import (
    SUBLAYERS,
    Block,
    Context,
    ConvolutionModule,
    FeedForward,
    Memory,
    PackedConv1d,
    Placement,
    make_norm,
    make_positions,
)


def shaken(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module with every parameter drawn anew, biases and norms too: at initialisation many mistakes are
    invisible."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return module


def alone(mask: Mask, **more) -> Context:
    """A pass without positions."""
    return Context(Placement(), mask, **more)


# Norms


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.sampled_from([1e-8, 1e-5, 0.1]), st.floats(-3, 3), st.integers(0, 99))
def test_norms_are_torchs(dim, eps, exponent, seed):
    """RMS and layer norm against torch's own, over scales at which eps matters and at which it does not."""
    x = torch.randn(4, dim, generator=torch.Generator().manual_seed(seed)) * 10**exponent
    rms, layer = shaken(make_norm("rms", dim, eps)), shaken(make_norm("layer", dim, eps))
    assert torch.allclose(rms(x), F.rms_norm(x, (dim,), rms.weight, eps), rtol=1e-4, atol=1e-5)
    wanted = F.layer_norm(x, (dim,), layer.weight, layer.bias, eps)
    assert torch.allclose(layer(x), wanted, rtol=1e-4, atol=1e-5)


def test_the_rms_norm_squares_in_float32():
    """In float16, 300 squared is infinite; the norm must not be."""
    norm = make_norm("rms", 4, 1e-5).half()
    out = norm(torch.full((1, 4), 300.0, dtype=torch.float16))
    assert out.dtype == torch.float16
    assert torch.allclose(out.float(), torch.ones(1, 4), atol=1e-2)


# Feed-forward


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("relu", lambda x: x.clamp(min=0)),
        ("gelu", lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))),
        ("gelu_tanh", lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))),
        ("silu", lambda x: x / (1 + torch.exp(-x))),
        ("tanh", lambda x: 1 - 2 / (torch.exp(2 * x) + 1)),
    ],
)
def test_feed_forward_activations(name, function):
    """Each activation from its formula, plain and gated."""
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    context = alone(Mask.causal((5,)))
    plain = shaken(FeedForward(BackboneConfig(6, 2, hidden=7, activation=name)))
    wanted = function(x @ plain.up.weight.T + plain.up.bias) @ plain.down.weight.T + plain.down.bias
    assert torch.allclose(plain(x, context), wanted, atol=1e-5)
    gated = shaken(FeedForward(BackboneConfig(6, 2, hidden=7, activation=name, gated=True)))
    gate, value = gated.up.weight[:7], gated.up.weight[7:]
    hidden = function(x @ gate.T + gated.up.bias[:7]) * (x @ value.T + gated.up.bias[7:])
    assert torch.allclose(gated(x, context), hidden @ gated.down.weight.T + gated.down.bias, atol=1e-5)


def test_a_feed_forward_without_bias_maps_zero_to_zero():
    """`feed_forward_bias=False` removes both biases."""
    layer = shaken(FeedForward(BackboneConfig(4, 2, hidden=5, feed_forward_bias=False)))
    assert torch.equal(layer(torch.zeros(2, 4), alone(Mask.causal((2,)))), torch.zeros(2, 4))
    assert [name for name, _ in layer.named_parameters()] == ["up.weight", "down.weight"]


# Convolutions


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=5).map(tuple),
    kernel=st.sampled_from([1, 3, 5, 7]),
    stride=st.integers(1, 4),
    depthwise=st.booleans(),
    padding=st.none() | st.tuples(st.integers(0, 4), st.integers(0, 4)),
    seed=st.integers(0, 99),
)
def test_a_packed_convolution_is_one_convolution_per_item(lengths, kernel, stride, depthwise, padding, seed):
    """Outputs, lengths and gradients equal `conv1d` item by item, padded by (kernel - 1) / 2 or as one says; an item
    that no window fits into makes nothing."""
    packed = shaken(PackedConv1d(4, 4, kernel, stride, groups=4 if depthwise else 1, padding=padding), seed)
    values = torch.randn(sum(lengths), 4, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    out, shorter = packed(values, lengths)
    conv, pieces = packed.conv, []
    for item in values.split(lengths):
        padded = F.pad(item.T, padding or (kernel // 2, kernel // 2))
        made = padded.shape[1] >= kernel and (padding is not None or len(item))
        pieces.append(F.conv1d(padded, conv.weight, conv.bias, stride, groups=conv.groups).T if made else item[:0])
    wanted = torch.cat(pieces)
    assert shorter == tuple(map(len, pieces))
    if padding is None:
        assert shorter == tuple(math.ceil(length / stride) for length in lengths)
    assert out.shape == wanted.shape
    assert torch.allclose(out, wanted, atol=1e-5)
    if len(wanted):
        inputs = (values, *packed.parameters())
        found = torch.autograd.grad(out.square().sum(), inputs)
        for got, expected in zip(found, torch.autograd.grad(wanted.square().sum(), inputs), strict=True):
            assert torch.allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_a_packed_convolution_of_nothing_is_nothing():
    """A batch without a single clip."""
    out, shorter = PackedConv1d(3, 5, 3)(torch.zeros(0, 3), ())
    assert (out.shape, shorter) == ((0, 5), ())


def test_an_even_kernel_has_no_middle():
    """Refused, as it cannot be padded alike at both ends."""
    with pytest.raises(ConfigError, match="odd kernel; got kernel=4"):
        PackedConv1d(2, 2, 4)
    assert PackedConv1d(2, 2, 4, padding=(3, 0)).shorter(7) == 7


@pytest.mark.parametrize("norm", ["layer", "group", "batch"])
def test_the_convolution_module_is_the_conformers(norm):
    """Pointwise, gate, depthwise, norm, activation, pointwise, on each document by itself; the batch norm at work
    as in evaluation."""
    config = BackboneConfig(6, 2, kernel=3, activation="silu", convolution_norm=norm)
    module, lengths = shaken(ConvolutionModule(config)), (4, 1, 3)
    inner = module.norm.inner
    if norm == "batch":
        inner.running_mean.copy_(torch.linspace(-1, 1, 6))
        inner.running_var.copy_(torch.linspace(0.5, 3, 6))
        module.eval()
    normed = {
        "layer": lambda x: F.layer_norm(x, (6,), inner.weight, inner.bias),
        "group": lambda x: ((x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt()) * inner.weight + inner.bias,
        "batch": lambda x: (x - inner.running_mean) / (inner.running_var + 1e-5).sqrt() * inner.weight + inner.bias,
    }[norm]
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(1))
    wanted = []
    for item in x.split(lengths):
        value, gate = (item @ module.expand.weight.T + module.expand.bias).chunk(2, -1)
        conv = module.depthwise.conv
        mixed = F.conv1d((value * gate.sigmoid()).T, conv.weight, conv.bias, padding=1, groups=6).T
        wanted.append(F.silu(normed(mixed)) @ module.project.weight.T + module.project.bias)
    assert torch.allclose(module(x, alone(Mask.bidirectional(lengths))), torch.cat(wanted), atol=1e-5)


def test_a_batch_norm_takes_its_statistics_from_all_tokens():
    """In training, over the packed batch, as the paper's does over a padded one; its running mean moves."""
    module = shaken(ConvolutionModule(BackboneConfig(4, 2, kernel=1, convolution_norm="batch")))
    module.norm.inner.reset_running_stats()
    seen = []
    module.norm.inner.register_forward_hook(lambda layer, inputs, out: seen.append((inputs[0], out)))
    module(torch.randn(7, 4), alone(Mask.bidirectional((4, 3))))
    ((before, after),) = seen
    wanted = F.batch_norm(before, None, None, module.norm.inner.weight, module.norm.inner.bias, training=True)
    assert torch.allclose(after, wanted, atol=1e-5)
    assert torch.allclose(module.norm.inner.running_mean, 0.1 * before.mean(0), atol=1e-5)


def test_a_causal_convolution_sees_no_later_value():
    """Padded at the front alone: a changed value changes its own row and later ones, and no row of the next item."""
    module = shaken(ConvolutionModule(BackboneConfig(4, 2, kernel=4, causal_convolution=True)))
    x, context = torch.randn(9, 4), alone(Mask.bidirectional((6, 3)))
    changed = x.clone()
    changed[2] += 1
    moved = (module(changed, context) - module(x, context)).abs().amax(-1) > 1e-6
    assert moved.tolist() == [False, False, True, True, True, True, False, False, False]


def test_a_convolution_module_without_bias_has_none():
    """In none of its three maps (wav2vec2-conformer)."""
    names = [name for name, _ in ConvolutionModule(BackboneConfig(4, 2, convolution_bias=False)).named_parameters()]
    assert [name for name in names if name.endswith("bias")] == ["norm.inner.bias"]


# Blocks


def wired(block: Block, x: Tensor, order: list[tuple[float, str]], context: Context) -> Tensor:
    """A block's output, each residual line written out. order: (step, placement) of each sublayer."""
    for (step, placement), name in zip(order, block.names, strict=True):
        residual = getattr(block, name)
        norm, sublayer = residual.norm, residual.sublayer
        if placement == "pre":
            x = x + step * sublayer(norm(x), context)
        else:
            x = norm(x + step * sublayer(x, context))
    return x if block.end_norm is None else block.end_norm(x)


@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_norms_stand_where_the_placement_says(placement, norm):
    """x + f(norm(x)), or norm(x + f(x)): attention, cross-attention and feed-forward, step by step."""
    recipe = ("attention", "cross_attention", "feed_forward")
    config = BackboneConfig(8, 2, recipe=recipe, norm=norm, norm_placement=placement)
    block = shaken(Block(config))
    x, mask = torch.randn(5, 8, generator=torch.Generator().manual_seed(0)), Mask.causal((2, 3))
    positions = torch.tensor([[0], [1], [0], [1], [2]])
    place = make_positions(config).place(positions, positions, mask)
    context = Context(place, mask, Memory(torch.randn(4, 8), (1, 3)))
    wanted = wired(block, x, [(1, placement)] * 3, context)
    assert torch.allclose(block(x, context), wanted, atol=1e-5)


def test_the_conformer_recipe():
    """Half feed-forward, attention, convolution, half feed-forward, norm (arXiv:2005.08100 eq. 1-4)."""
    recipe = ("half feed_forward", "attention", "convolution", "half feed_forward")
    block = shaken(Block(BackboneConfig(8, 2, recipe=recipe, end_norm=True, activation="silu", kernel=3)))
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    context = alone(Mask.bidirectional((4, 2)))
    wanted = wired(block, x, [(0.5, "pre"), (1, "pre"), (1, "pre"), (0.5, "pre")], context)
    assert torch.allclose(block(x, context), wanted, atol=1e-5)
    assert torch.allclose(block.end_norm(torch.zeros(1, 8)), block.end_norm.bias, atol=1e-6)


def test_sublayers_of_one_kind_have_names_of_their_own():
    """Counted from the second on, whole and half steps together; each has its weights."""
    recipe = ("feed_forward", "half feed_forward", "attention", "feed_forward", "feed_forward", "attention")
    block = Block(BackboneConfig(8, 2, recipe=recipe))
    assert block.names == [
        *("feed_forward", "feed_forward_2", "attention", "feed_forward_3", "feed_forward_4", "attention_2")
    ]
    assert [name for name, _ in block.named_children()] == block.names
    one = sum(p.numel() for p in Block(BackboneConfig(8, 2, recipe=("feed_forward",))).parameters())
    other = sum(p.numel() for p in Block(BackboneConfig(8, 2, recipe=("attention",))).parameters())
    assert sum(p.numel() for p in block.parameters()) == 4 * one + 2 * other


@pytest.mark.parametrize("mask", [Mask.causal((1, 3)), Mask.prefixed((4,), (3,)), Mask.bidirectional((4,)).windowed(2)])
def test_a_convolution_refuses_to_see_what_is_hidden(mask):
    """It looks at its neighbours on both sides; under a causal mask it would read the answer."""
    block = Block(BackboneConfig(8, 2, recipe=("convolution",), kernel=3))
    with pytest.raises(MaskError, match="sees later slots too; expected a bidirectional mask"):
        block(torch.randn(4, 8), alone(mask))


def test_dropout_acts_in_training_alone():
    """On a sublayer's output: with the residual kept, a dropped feature equals its input."""
    config = BackboneConfig(64, 2, recipe=("feed_forward",), dropout=0.5)
    block, x = shaken(Block(config)), torch.randn(50, 64)
    still = copy.deepcopy(block).eval()
    args = (x, alone(Mask.causal((50,))))
    assert torch.equal(still(*args), still(*args))
    untouched = (block(*args) == x).float().mean()
    assert 0.45 < untouched < 0.55
    assert (still(*args) == x).float().mean() < 0.01


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"recipe": ("atention",)}, "Did you mean 'attention'"),
        ({"norm": "batch"}, "norm 'batch'"),
        ({"norm_placement": "sandwich"}, "norm placement 'sandwich'"),
        ({"activation": "gellu"}, "Did you mean 'gelu'"),
        ({"activation": "gellu", "recipe": ("convolution",)}, "Did you mean 'gelu'"),
        ({"dropout": 1.0}, r"dropout=1.0; expected a probability in \[0, 1\)"),
        ({"attention_dropout": -0.1}, r"attention_dropout=-0.1; expected a probability"),
        ({"kernel": 2, "recipe": ("convolution",)}, "odd kernel"),
        ({"convolution_norm": "rms", "recipe": ("convolution",)}, "convolution norm 'rms'"),
        ({"experts": 2, "top_k": 3}, "top_k=3; expected between 1 and experts=2"),
    ],
)
def test_a_wrong_block_is_named(settings_, message):
    """Each choice in a recipe fails when the block is built, not at the first batch."""
    with pytest.raises(AnyformerError, match=message):
        Block(BackboneConfig(8, 2, **settings_))


def test_a_recipe_may_come_from_yaml():
    """A list is as good as a tuple, and every known sublayer can be built alone."""
    assert BackboneConfig(8, 2, recipe=["attention"]) == BackboneConfig(8, 2, recipe=("attention",))
    x, context = torch.randn(3, 8), alone(Mask.bidirectional((3,)), memory=Memory(torch.randn(2, 8), (2,)))
    for kind in SUBLAYERS:
        assert Block(BackboneConfig(8, 2, recipe=(kind,)))(x, context).shape == (3, 8)
