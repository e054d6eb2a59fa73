"""Rotations, sinusoids and tables against their published definitions; a mistake in a scheme's settings is one
sentence. (Schemes that bias scores have a file of their own.)"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from schemes import LLAMA3, drawn, line, scheme
from torch import Tensor

from anyformer.architecture import BackboneConfig
from anyformer.errors import ConfigError, SampleError
from anyformer.mask import Mask
from anyformer.sublayers import Attention, Context, Placement, PositionScheme, make_positions
from anyformer.sublayers.positions import sinusoids


def placed(made: PositionScheme, positions: Tensor, mask: Mask | None = None, keys: Tensor | None = None) -> Placement:
    """In one sequence of these positions, if nothing else is said."""
    keys = positions if keys is None else keys
    return made.place(positions, keys, mask or Mask.bidirectional((len(positions),)))


# Rotary


@pytest.mark.parametrize("layout", ["halves", "interleaved"])
def test_rotary_turns_each_pair_by_its_angle(layout):
    """Two features are one complex number, times exp(i · position · base^(-2i/head_dim)): i and i + head_dim/2, or
    neighbours."""
    x, half = drawn(5, 2, 8), layout == "halves"
    positions = torch.tensor([[0], [1], [2], [70], [1000]])
    frequencies = torch.tensor([100.0 ** (-2 * i / 8) for i in range(4)])
    turn = torch.polar(torch.ones(5, 4), positions * frequencies)[:, None]
    pairs = x.unflatten(-1, (2, 4)).unbind(-2) if half else x.unflatten(-1, (4, 2)).unbind(-1)
    turned = torch.complex(*pairs) * turn
    wanted = torch.cat((turned.real, turned.imag), -1) if half else torch.view_as_real(turned).flatten(-2)
    found = placed(scheme("rotary", base=100.0, layout=layout), positions).rotate(x)
    assert torch.allclose(found, wanted, atol=1e-4)
    assert torch.equal(found[0], x[0])  # position 0 is not turned


def test_layouts_differ_in_the_order_of_features_alone():
    """Feature 2i of one is feature i of the other, 2i + 1 is i + head_dim/2."""
    x, positions = drawn(9, 2, 8), line(9, start=3)
    order = torch.tensor([0, 2, 4, 6, 1, 3, 5, 7])
    interleaved = placed(scheme("rotary", layout="interleaved"), positions).rotate(x)
    assert torch.allclose(placed(scheme("rotary"), positions).rotate(x[..., order]), interleaved[..., order], atol=1e-6)


def test_rotary_is_llamas():
    """transformers' embedding and its application to queries and keys, at positions far beyond the table."""
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    theirs = llama.LlamaRotaryEmbedding(llama.LlamaConfig(hidden_size=16, num_attention_heads=1))
    positions = torch.tensor([[0], [1], [17], [300], [5000]])
    q, k = drawn(5, 3, 16), drawn(5, 1, 16, seed=1)
    cos, sin = theirs(q, positions.T)
    wanted = llama.apply_rotary_pos_emb(*(x.transpose(0, 1)[None] for x in (q, k)), cos, sin)
    place = placed(scheme("rotary", dim=16), positions)
    for mine, other in zip((q, k), wanted, strict=True):
        assert torch.allclose(place.rotate(mine), other[0].transpose(0, 1), atol=1e-6)
    assert not place.rotates_input


@pytest.mark.parametrize(
    ("scaling", "parameters"),
    [
        ({"type": "linear", "factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        (
            LLAMA3,
            {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
             "original_max_position_embeddings": 512},
        ),
        (
            {"type": "llama3", "factor": 32.0, "low_freq_factor": 2.0, "high_freq_factor": 8.0, "original": 64},
            {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 2.0, "high_freq_factor": 8.0,
             "original_max_position_embeddings": 64},
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("base", [1e4, 5e5])
def test_scaled_frequencies_are_transformers(scaling, parameters, base):
    """Each frequency of both rules; of llama3's, some are kept, some blended and some slowed down by the factor."""
    rope = pytest.importorskip("transformers.modeling_rope_utils")
    from transformers import LlamaConfig

    config = LlamaConfig(
        hidden_size=128, num_attention_heads=1, rope_parameters={"rope_theta": base, **parameters},
        max_position_embeddings=16 * 512,
    )  # fmt: skip
    wanted, factor = rope.ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config)
    made = scheme("rotary", dim=128, base=base, scaling=scaling)
    assert factor == 1.0
    assert torch.allclose(made.frequencies, wanted, rtol=1e-5, atol=0)
    if scaling["type"] == "llama3":
        slower = scheme("rotary", dim=128, base=base).frequencies / made.frequencies
        kinds = {"kept" if s < 1.0001 else "slowed" if s > 0.9999 * scaling["factor"] else "blended" for s in slower}
        assert kinds == {"kept", "blended", "slowed"}


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 4), st.lists(st.integers(0, 200), min_size=1, max_size=6))
def test_rotary_with_equal_axes_is_rotary_with_one(rank, positions):
    """Text in a model of pictures is rotated as in a model of text alone."""
    x = torch.randn(len(positions), 2, 8)
    one = torch.tensor(positions)[:, None]
    found = placed(scheme("rotary", rank), one.expand(-1, rank)).rotate(x)
    assert torch.equal(found, placed(scheme("rotary"), one).rotate(x))


def test_every_rotary_axis_gets_fast_and_slow_frequencies():
    """Frequencies are dealt out in turn: a step down and a step right both turn fast features."""
    rotary = scheme("rotary", rank=2)
    x = torch.ones(1, 1, 8)
    moved = [placed(rotary, torch.tensor([step])).rotate(x)[0, 0] - 1 for step in ([1, 0], [0, 1])]
    turned = [(change.abs() > 1e-6).tolist() for change in moved]
    assert turned == [[True, False, True, False] * 2, [False, True, False, True] * 2]


def test_rotary_of_the_input_turns_it_before_the_projections():
    """wav2vec2-conformer's attention, weights copied: queries and keys are made of the turned input, values are not."""
    module = pytest.importorskip("transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer")
    config = module.Wav2Vec2ConformerConfig(hidden_size=16, num_attention_heads=2, position_embeddings_type="rotary")
    config._attn_implementation = "eager"
    theirs = module.Wav2Vec2ConformerSelfAttention(config).eval()
    table = module.Wav2Vec2ConformerRotaryPositionalEmbedding(config)
    ours = Attention(BackboneConfig(16, 2))
    with torch.no_grad():
        maps = (theirs.linear_q, theirs.linear_k, theirs.linear_v)
        ours.qkv.weight.copy_(torch.cat([one.weight for one in maps]))
        ours.qkv.bias.copy_(torch.cat([one.bias for one in maps]))
        ours.out.load_state_dict(theirs.linear_out.state_dict())
    x, mask = drawn(1, 7, 16), Mask.bidirectional((7,))
    wanted = theirs(x, relative_position_embeddings=table(x))[0]
    rotary = make_positions(BackboneConfig(16, 2, positions={"type": "rotary", "on": "input"}))
    found = ours(x[0], Context(rotary.place(line(7), line(7), mask), mask))
    assert torch.allclose(found, wanted[0], atol=1e-5)


# Sinusoids


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


def marian(rows: int, width: int) -> Tensor:
    module = pytest.importorskip("transformers.models.marian.modeling_marian")
    return module.MarianSinusoidalPositionalEmbedding(rows, width).create_weight()


def whisper(rows: int, width: int) -> Tensor:
    return pytest.importorskip("transformers.models.whisper.modeling_whisper").sinusoids(rows, width)


def distilbert(rows: int, width: int) -> Tensor:
    module = pytest.importorskip("transformers.models.distilbert.modeling_distilbert")
    return module.create_sinusoidal_embeddings(rows, width, torch.empty(rows, width))


@pytest.mark.parametrize(
    ("published", "layout", "endpoint"),
    [(marian, "halves", False), (whisper, "halves", True), (distilbert, "interleaved", False)],
)
@pytest.mark.parametrize("stored", [False, True])
def test_the_published_tables_of_sinusoids(published, layout, endpoint, stored):
    """Three layouts and frequency rules, computed for any position or kept as a table; no two are alike."""
    rows, width = 600, 24
    wanted = published(rows, width)
    made = make_positions(
        BackboneConfig(width, 2, positions={"type": "sinusoidal", "layout": layout, "endpoint": endpoint}
                       | ({"size": rows} if stored else {}))
    )  # fmt: skip
    assert torch.allclose(made.embed(line(rows)), wanted, atol=1e-4)  # float32 angles of 600 on their side
    assert [tuple(p.shape) for p in made.parameters()] == ([(rows, width)] if stored else [])
    assert not any(p.requires_grad for p in made.parameters())
    for other_layout, other_end in [("halves", False), ("halves", True), ("interleaved", False), ("interleaved", True)]:
        if (other_layout, other_end) != (layout, endpoint):
            other = sinusoids(torch.arange(rows), width, other_layout, other_end, 10_000.0)
            assert not torch.allclose(other, wanted, atol=0.1)


def test_the_conformers_relative_sinusoids():
    """wav2vec2-conformer's table of 2T - 1 distances, from T - 1 to the left down to T - 1 to the right."""
    module = pytest.importorskip("transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer")
    config = module.Wav2Vec2ConformerConfig(hidden_size=16, max_source_positions=40)
    wanted = module.Wav2Vec2ConformerRelPositionalEmbedding(config)(torch.zeros(1, 30, 16))[0]
    found = sinusoids(torch.arange(29, -30, -1), 16, "interleaved", False, 10_000.0)
    assert torch.allclose(found, wanted, atol=1e-5)


# Tables


def test_a_learned_table_adds_its_axes_and_has_an_end():
    """A position past the table is the sample's error, and names the cure."""
    learned = scheme("learned", rank=2, size=5)
    found = learned.embed(torch.tensor([[4, 1]]))[0]
    assert torch.equal(found, learned.tables[0][4] + learned.tables[1][1])
    assert learned.embed(torch.zeros(0, 2, dtype=torch.int64)).shape == (0, 8)
    with pytest.raises(SampleError, match=r"position 5, but the table of positions ends at 4.*rotary"):
        learned.embed(torch.tensor([[0, 0], [1, 5]]))


def test_an_offset_leaves_the_first_rows_alone():
    """BART's and RoBERTa's: position 0 is row 2 of a table that is two rows longer."""
    learned = scheme("learned", size=7, offset=2)
    assert torch.equal(learned.embed(line(5)), learned.tables[0][2:])
    with pytest.raises(SampleError, match=r"position 5, but the table of positions ends at 4"):
        learned.embed(line(6))
    learned.embed(line(5)).sum().backward()
    assert learned.tables[0].grad.any(1).tolist() == [False] * 2 + [True] * 5


# Mistakes


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ({"type": "rotery"}, "Did you mean 'rotary'"),
        ({}, "position scheme 'None'"),
        ({"type": "learned"}, "cannot be made from {}: .*size"),
        ({"type": "rotary", "bass": 3}, "bass"),
        ({"type": "rotary", "layout": "halfs"}, "layout 'halfs'.*Did you mean 'halves'"),
        ({"type": "rotary", "on": "inputs"}, "on 'inputs'.*Did you mean 'input'"),
        ({"type": "rotary", "scaling": {"type": "yarn", "factor": 2}}, "yarn.*expected .*linear.*llama3"),
        ({"type": "rotary", "scaling": {"factor": 2}}, "expected .*linear.*llama3"),
        ({"type": "rotary", "scaling": {"type": "llama3", "factor": 2}}, "llama3 needs .*low_freq_factor"),
        ({"type": "rotary", "scaling": {"type": "linear"}}, "linear needs factor"),
        ({"type": "rotary", "scaling": LLAMA3 | {"orignal": 3}}, "orignal"),
        ({"type": "sinusoidal", "layout": "thirds"}, "layout 'thirds'"),
        ({"type": "sinusoidal", "layout": "thirds", "size": 4}, "layout 'thirds'"),
        ({"type": "shaw", "left": 3}, "cannot be made from {'left': 3}: .*right"),
    ],
)
def test_a_wrong_position_scheme_is_named(positions, message):
    """Misspelt kinds and settings, and missing ones: one sentence, when the model is built."""
    with pytest.raises(ConfigError, match=message) as raised:
        make_positions(BackboneConfig(8, 1, positions=positions))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["rotary", "sinusoidal"])
def test_pairs_need_an_even_size(kind):
    """Both schemes work on pairs of features."""
    with pytest.raises(ConfigError, match=r"even.*; got .*7"):
        scheme(kind, dim=7)


def test_transformer_xl_needs_a_key_head_for_each_head_and_one_axis():
    """Told when the model is built."""
    for more in ({"kv_heads": 1}, {"rank": 2}):
        with pytest.raises(ConfigError, match="as many kv_heads as heads, and one position axis"):
            make_positions(BackboneConfig(8, 2, positions={"type": "transformer_xl"}, **more))
