"""The parts against references written out here or taken from torch: norms, feed-forwards, convolutions,
positions, and the order in which a block wires them."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from anyformer.errors import AnyformerError, ConfigError, MaskError, SampleError
from anyformer.mask import Mask
from anyformer.sublayers import (
    SUBLAYERS,
    Block,
    BlockConfig,
    ConvolutionModule,
    FeedForward,
    LinearEmbedding,
    LinearHead,
    PackedConv1d,
    Placement,
    TableEmbedding,
    TableHead,
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


def scheme(kind: str, rank: int = 1, dim: int = 8, head_dim: int = 8, **more):
    return make_positions({"type": kind, **more}, dim, head_dim, rank)


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
    ],
)
def test_feed_forward_activations(name, function):
    """Each activation from its formula, plain and gated."""
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    plain = shaken(FeedForward(6, 7, name))
    wanted = function(x @ plain.up.weight.T + plain.up.bias) @ plain.down.weight.T + plain.down.bias
    assert torch.allclose(plain(x), wanted, atol=1e-5)
    gated = shaken(FeedForward(6, 7, name, gated=True))
    gate, value = gated.up.weight[:7], gated.up.weight[7:]
    hidden = function(x @ gate.T + gated.up.bias[:7]) * (x @ value.T + gated.up.bias[7:])
    assert torch.allclose(gated(x), hidden @ gated.down.weight.T + gated.down.bias, atol=1e-5)


def test_a_feed_forward_without_bias_maps_zero_to_zero():
    """`bias=False` removes both biases."""
    layer = shaken(FeedForward(4, 5, bias=False))
    assert torch.equal(layer(torch.zeros(2, 4)), torch.zeros(2, 4))


# Convolutions


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=5).map(tuple),
    kernel=st.sampled_from([1, 3, 5, 7]),
    stride=st.integers(1, 4),
    depthwise=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_packed_convolution_is_one_convolution_per_item(lengths, kernel, stride, depthwise, seed):
    """Outputs, lengths and gradients equal `conv1d` item by item, padded by (kernel - 1) / 2."""
    packed = shaken(PackedConv1d(4, 4, kernel, stride, groups=4 if depthwise else 1), seed)
    values = torch.randn(sum(lengths), 4, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    out, shorter = packed(values, lengths)
    conv = packed.conv
    alone = [
        F.conv1d(item.T, conv.weight, conv.bias, stride, kernel // 2, groups=conv.groups).T
        for item in values.split(lengths)
        if len(item)
    ]
    wanted = torch.cat(alone) if alone else torch.zeros(0, 4)
    assert shorter == tuple(math.ceil(length / stride) for length in lengths)
    assert out.shape == wanted.shape
    assert torch.allclose(out, wanted, atol=1e-5)
    if alone:
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


def test_the_convolution_module_is_the_conformers():
    """Pointwise, gate, depthwise, norm, swish, pointwise, on each document by itself."""
    module, lengths = shaken(ConvolutionModule(6, 3)), (4, 1, 3)
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(1))
    wanted = []
    for item in x.split(lengths):
        value, gate = (item @ module.expand.weight.T + module.expand.bias).chunk(2, -1)
        conv = module.depthwise.conv
        mixed = F.conv1d((value * gate.sigmoid()).T, conv.weight, conv.bias, padding=1, groups=6).T
        normed = F.layer_norm(mixed, (6,), module.norm.weight, module.norm.bias)
        wanted.append(F.silu(normed) @ module.project.weight.T + module.project.bias)
    assert torch.allclose(module(x, Mask.bidirectional(lengths)), torch.cat(wanted), atol=1e-5)


# Positions


def test_rotary_turns_each_pair_by_its_angle():
    """Features i and i + head_dim/2 are one complex number, times exp(i · position · base^(-2i/head_dim))."""
    x = torch.randn(5, 2, 8, generator=torch.Generator().manual_seed(0))
    positions = torch.tensor([[0], [1], [2], [70], [1000]])
    frequencies = torch.tensor([100.0 ** (-2 * i / 8) for i in range(4)])
    turn = torch.polar(torch.ones(5, 4), positions * frequencies)[:, None]
    wanted = torch.complex(x[..., :4], x[..., 4:]) * turn
    found = scheme("rotary", base=100.0).place(positions).rotate(x)
    assert torch.allclose(found, torch.cat((wanted.real, wanted.imag), -1), atol=1e-4)
    assert torch.equal(found[0], x[0])  # position 0 is not turned


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 4), st.lists(st.integers(0, 200), min_size=1, max_size=6))
def test_rotary_with_equal_axes_is_rotary_with_one(rank, positions):
    """Text in a model of pictures is rotated as in a model of text alone."""
    x = torch.randn(len(positions), 2, 8)
    one = torch.tensor(positions)[:, None]
    found = scheme("rotary", rank).place(one.expand(-1, rank)).rotate(x)
    assert torch.equal(found, scheme("rotary").place(one).rotate(x))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(0, 300), st.integers(0, 99))
def test_rotary_scores_depend_on_distances_alone(rank, shift, seed):
    """Moving a whole sequence changes no score; moving it on one axis against itself does."""
    generator = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(6, 1, 16, generator=generator) for _ in range(2))
    positions = torch.randint(0, 20, (6, rank), generator=generator)
    rotary = scheme("rotary", rank, head_dim=16)

    def scores(of_queries: Tensor, of_keys: Tensor) -> Tensor:
        return torch.einsum("qhd,khd->qk", rotary.place(of_queries).rotate(q), rotary.place(of_keys).rotate(k))

    here = scores(positions, positions)
    assert torch.allclose(scores(positions + shift, positions + shift), here, atol=2e-3)
    axis = torch.eye(rank, dtype=torch.int64)[rank - 1]
    assert not torch.allclose(scores(positions + 3 * axis, positions), here, atol=2e-3)


def test_every_rotary_axis_gets_fast_and_slow_frequencies():
    """Frequencies are dealt out in turn: a step down and a step right both turn fast features."""
    rotary = scheme("rotary", rank=2)
    x = torch.ones(1, 1, 8)
    moved = [rotary.place(torch.tensor([step])).rotate(x)[0, 0] - 1 for step in ([1, 0], [0, 1])]
    turned = [(change.abs() > 1e-6).tolist() for change in moved]
    assert turned == [[True, False, True, False] * 2, [False, True, False, True] * 2]


def test_sinusoidal_values():
    """Vaswani et al. §3.5 at points worked out by hand; axes add up."""
    found = scheme("sinusoidal", dim=4, base=10_000.0).embed(torch.tensor([[0], [1], [100]]))
    wanted = [
        [0, 1, 0, 1],
        [math.sin(1), math.cos(1), math.sin(0.01), math.cos(0.01)],
        [math.sin(100), math.cos(100), math.sin(1), math.cos(1)],
    ]
    assert torch.allclose(found, torch.tensor(wanted), atol=1e-5)
    both = scheme("sinusoidal", rank=2, dim=4).embed(torch.tensor([[1, 100]]))
    assert torch.allclose(both[0], torch.tensor(wanted[1]) + torch.tensor(wanted[2]), atol=1e-5)


def test_a_learned_table_adds_its_axes_and_has_an_end():
    """A position past the table is the sample's error, and names the cure."""
    learned = scheme("learned", rank=2, size=5)
    found = learned.embed(torch.tensor([[4, 1]]))[0]
    assert torch.equal(found, learned.tables[0].weight[4] + learned.tables[1].weight[1])
    assert learned.embed(torch.zeros(0, 2, dtype=torch.int64)).shape == (0, 8)
    with pytest.raises(SampleError, match=r"position 5, but the learned table ends at 4.*rotary"):
        learned.embed(torch.tensor([[0, 0], [1, 5]]))


@pytest.mark.parametrize("kind", ["none", "learned", "sinusoidal", "rotary"])
def test_a_scheme_acts_in_its_own_place(kind):
    """Either on the embedding or on queries and keys, never both."""
    made = scheme(kind, **({"size": 9} if kind == "learned" else {}))
    positions = torch.tensor([[1], [2]])
    assert (made.embed(positions) is not None) == (kind in ("learned", "sinusoidal"))
    assert (made.place(positions).rotate is not None) == (kind == "rotary")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"type": "rotery"}, "Did you mean 'rotary'"),
        ({}, "position scheme 'None'"),
        ({"type": "learned"}, "size"),
        ({"type": "rotary", "bass": 3}, "bass"),
    ],
)
def test_a_wrong_position_scheme_is_named(config, message):
    """Misspelt kinds and settings, and missing ones."""
    with pytest.raises(ConfigError, match=message):
        make_positions(config, 8, 8, 1)


@pytest.mark.parametrize("kind", ["rotary", "sinusoidal"])
def test_pairs_need_an_even_size(kind):
    """Both schemes work on pairs of features."""
    with pytest.raises(ConfigError, match="even"):
        scheme(kind, dim=7, head_dim=7)


# Blocks


def wired(block: Block, x: Tensor, order: list[tuple[float, str]], mask: Mask, place: Placement) -> Tensor:
    """A block's output, each residual line written out. order: (step, placement) of each sublayer."""
    for (step, placement), norm, sublayer in zip(order, block.norms, block.sublayers, strict=True):
        if placement == "pre":
            x = x + step * sublayer(norm(x), place, mask, None, 0)
        else:
            x = norm(x + step * sublayer(x, place, mask, None, 0))
    return block.end_norm(x)


@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_norms_stand_where_the_placement_says(placement, norm):
    """x + f(norm(x)), or norm(x + f(x)): attention and feed-forward, step by step."""
    block = shaken(Block(BlockConfig(8, 2, norm=norm, norm_placement=placement)))
    x, mask = torch.randn(5, 8, generator=torch.Generator().manual_seed(0)), Mask.causal((2, 3))
    place = scheme("rotary", head_dim=4).place(torch.tensor([[0], [1], [0], [1], [2]]))
    wanted = wired(block, x, [(1, placement), (1, placement)], mask, place)
    assert torch.allclose(block(x, place, mask), wanted, atol=1e-5)


def test_the_conformer_recipe():
    """Half feed-forward, attention, convolution, half feed-forward, norm (arXiv:2005.08100 eq. 1-4)."""
    recipe = ("half feed_forward", "attention", "convolution", "half feed_forward")
    block = shaken(Block(BlockConfig(8, 2, recipe=recipe, end_norm=True, activation="silu", kernel=3)))
    x, mask = torch.randn(6, 8, generator=torch.Generator().manual_seed(0)), Mask.bidirectional((4, 2))
    wanted = wired(block, x, [(0.5, "pre"), (1, "pre"), (1, "pre"), (0.5, "pre")], mask, Placement())
    assert torch.allclose(block(x, Placement(), mask), wanted, atol=1e-5)
    assert torch.allclose(block.end_norm(torch.zeros(1, 8)), block.end_norm.bias, atol=1e-6)


@pytest.mark.parametrize("mask", [Mask.causal((1, 3)), Mask.prefixed((4,), (3,)), Mask.bidirectional((4,)).windowed(2)])
def test_a_convolution_refuses_to_see_what_is_hidden(mask):
    """It looks at its neighbours on both sides; under a causal mask it would read the answer."""
    block = Block(BlockConfig(8, 2, recipe=("convolution",), kernel=3))
    with pytest.raises(MaskError, match="sees later slots too; expected a bidirectional mask"):
        block(torch.randn(4, 8), Placement(), mask)


def test_dropout_acts_in_training_alone():
    """On a sublayer's output: with the residual kept, a dropped feature equals its input."""
    config = BlockConfig(64, 2, recipe=("feed_forward",), dropout=0.5)
    block, x = shaken(Block(config)), torch.randn(50, 64)
    still = copy.deepcopy(block).eval()
    args = (x, Placement(), Mask.causal((50,)))
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
        ({"dropout": 1.0}, r"dropout=1.0; expected a probability in \[0, 1\)"),
        ({"kernel": 2, "recipe": ("convolution",)}, "odd kernel"),
    ],
)
def test_a_wrong_block_is_named(settings_, message):
    """Each choice in a recipe fails when the block is built, not at the first batch."""
    with pytest.raises(AnyformerError, match=message):
        Block(BlockConfig(8, 2, **settings_))


def test_a_recipe_may_come_from_yaml():
    """A list is as good as a tuple, and every known sublayer can be built alone."""
    assert BlockConfig(8, 2, recipe=["attention"]) == BlockConfig(8, 2, recipe=("attention",))
    x, mask = torch.randn(3, 8), Mask.bidirectional((3,))
    for kind in SUBLAYERS:
        assert Block(BlockConfig(8, 2, recipe=(kind,)))(x, Placement(), mask).shape == (3, 8)


# Embedders and heads


def test_default_embedders_and_heads():
    """A table and its product, a linear map and its mirror."""
    table, head = shaken(TableEmbedding(5, 3)), shaken(TableHead(3, 5), seed=1)
    items = torch.tensor([[2, 2]])
    assert torch.equal(table(torch.tensor([4, 0]), items), table.table.weight[[4, 0]])
    hidden = torch.randn(2, 3)
    assert torch.allclose(head(hidden), hidden @ head.weight.T)
    head.tie(table)
    assert head.weight is table.table.weight
    linear, mirror = LinearEmbedding(4, 3), LinearHead(3, 4)
    assert linear(torch.randn(2, 4), items).shape == (2, 3)
    assert mirror(hidden).shape == (2, 4)
