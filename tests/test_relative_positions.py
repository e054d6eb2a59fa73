"""Schemes that bias scores, against their published definitions; and what all schemes promise: each acts in one
place, and a relative one sees distances alone."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from schemes import BIASES, ROTARY, SCHEMES, drawn, line, scheme
from torch import Tensor

from anyformer.architecture import BackboneConfig
from anyformer.mask import Mask
from anyformer.sublayers import PositionScheme, attention_weights, make_positions
from anyformer.sublayers.positions import alibi_slopes, sinusoids


def bias(made: PositionScheme, positions: Tensor, heads: int = 1, layer: int = 0, keys: Tensor | None = None) -> Tensor:
    """What is added to the scores of one sequence, of queries and keys drawn from a seed."""
    keys = positions if keys is None else keys
    mask = Mask((len(positions),), (len(keys),), (len(keys),))
    width = 8 // heads
    q, k = drawn(len(positions), heads, width, seed=5), drawn(len(keys), heads, width, seed=6)
    return made.place(positions, keys, mask).bias(layer, 0, q, k)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("buckets", "farthest"), [(32, 128), (32, 64), (16, 20), (8, 300), (10, 77), (64, 128)])
def test_buckets_are_t5s(buckets, farthest, bidirectional):
    """Every distance from -300 to 300, both directions, several numbers of buckets and largest distances."""
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    distances = torch.arange(-300, 301)
    wanted = t5.T5Attention._relative_position_bucket(distances, bidirectional, buckets, farthest)
    made = scheme("buckets", buckets=buckets, max_distance=farthest, bidirectional=bidirectional)
    assert torch.equal(made.bucket(distances), wanted)
    assert len(wanted.unique()) > buckets * 0.6


def test_a_bucket_is_a_number_per_head():
    """The table's entry for the key's distance behind the query, the same in every layer; T5's `compute_bias`."""
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    config = t5.T5Config(num_heads=2, d_model=8, relative_attention_num_buckets=8, relative_attention_max_distance=20)
    for bidirectional in (False, True):
        theirs = t5.T5Attention(config, has_relative_attention_bias=True)
        theirs.is_decoder = not bidirectional
        made = scheme("buckets", heads=2, buckets=8, max_distance=20, bidirectional=bidirectional)
        theirs.relative_attention_bias.weight.data = made.table.data
        wanted = theirs.compute_bias(40, 40)[0]
        assert torch.equal(bias(made, line(40), 2), wanted)
        assert torch.equal(bias(made, line(40), 2, layer=2), wanted)
        assert torch.equal(bias(made, line(3, 37), 2, keys=line(40)), wanted[:, -3:])  # the rest is cached


@pytest.mark.parametrize("heads", range(1, 21))
def test_alibi_is_blooms(heads):
    """Slopes for any number of heads; and where keys are not ahead, scores that differ from Bloom's by a constant of
    the query, to which a softmax is blind."""
    bloom = pytest.importorskip("transformers.models.bloom.modeling_bloom")
    theirs = bloom.build_alibi_tensor(torch.ones(1, 12), heads, torch.float32).reshape(heads, 1, 12)
    assert torch.allclose(alibi_slopes(heads), theirs[:, 0, 1], atol=0, rtol=1e-6)
    made = make_positions(BackboneConfig(4 * heads, heads, positions={"type": "alibi"}))
    mask, q, k = Mask.causal((12,)), drawn(12, heads, 4, seed=1), drawn(12, heads, 4, seed=2)
    place = made.place(line(12), line(12), mask)
    apart = (place.bias(0, 0, q, k) - theirs).tril()
    assert torch.allclose(apart, apart[:, :, :1].expand(-1, -1, 12).tril(), atol=1e-5)
    (found,) = attention_weights(q, k, mask, 0.5, lambda document, q, k: place.bias(0, document, q, k))
    (wanted,) = attention_weights(q, k, mask, 0.5, lambda document, q, k: theirs)
    assert torch.allclose(found, wanted, atol=1e-6)


def test_alibi_falls_on_both_sides():
    """Where later keys are seen too, they are as far as earlier ones; axes add up."""
    made = scheme("alibi", rank=2, heads=2)
    found = bias(made, torch.tensor([[0, 0], [1, 2], [4, 1]]), 2)
    distances = torch.tensor([[0.0, 3, 5], [3, 0, 4], [5, 4, 0]])
    assert torch.equal(found, -torch.tensor([0.0625, 0.00390625])[:, None, None] * distances)


def test_shaw_by_loops():
    """The query times a vector of the clipped distance, over √head_dim; a table for each layer."""
    made, positions = scheme("shaw", heads=2, left=2, right=1), torch.tensor([[0], [1], [2], [5], [4]])
    q = drawn(5, 2, 4, seed=5)
    for layer in range(3):
        found = bias(made, positions, 2, layer)
        for head in range(2):
            for i in range(5):
                for j in range(5):
                    clipped = max(-2, min(1, int(positions[j] - positions[i])))
                    wanted = float(q[i, head] @ made.tables[layer][clipped + 2]) / 2
                    assert math.isclose(float(found[head, i, j]), wanted, abs_tol=1e-5)


def test_shaw_is_wav2vec2_berts():
    """`relative_key`, weights copied, with clipping on both sides."""
    module = pytest.importorskip("transformers.models.wav2vec2_bert.modeling_wav2vec2_bert")
    config = module.Wav2Vec2BertConfig(
        hidden_size=8, num_attention_heads=2, position_embeddings_type="relative_key",
        left_max_position_embeddings=4, right_max_position_embeddings=2,
    )  # fmt: skip
    theirs = module.Wav2Vec2BertSelfAttention(config)
    made = scheme("shaw", heads=2, left=4, right=2)
    theirs.distance_embedding.weight.data = made.tables[1].data
    q, k = drawn(9, 2, 4, seed=5), drawn(9, 2, 4, seed=6)
    _, wanted = module._apply_relative_key_position_encoding(theirs, *(x.transpose(0, 1)[None] for x in (q, k)))
    assert torch.allclose(bias(made, line(9), 2, layer=1), wanted[0], atol=1e-6)


def test_transformer_xl_by_loops():
    """(q + v) · W r + u · k, over √head_dim, with r the sinusoid of how far the key stands before the query."""
    made, positions = scheme("transformer_xl", heads=2), torch.tensor([[0], [1], [2], [5], [4]])
    q, k = drawn(5, 2, 4, seed=5), drawn(5, 2, 4, seed=6)
    for layer in range(3):
        found = bias(made, positions, 2, layer)
        for i in range(5):
            for j in range(5):
                r = sinusoids(positions[i] - positions[j], 8, "interleaved", False, 10_000.0)[0]
                relative = (made.projections[layer].weight @ r).unflatten(0, (2, 4))
                for head in range(2):
                    wanted = (q[i, head] + made.position[layer][head]) @ relative[head]
                    wanted = (wanted + made.content[layer][head] @ k[j, head]) / 2
                    assert math.isclose(float(found[head, i, j]), float(wanted), abs_tol=1e-5)


def test_transformer_xl_is_wav2vec2_conformers():
    """Its scores, weights copied, less the content term that every attention has."""
    module = pytest.importorskip("transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer")
    config = module.Wav2Vec2ConformerConfig(
        hidden_size=8, num_attention_heads=2, position_embeddings_type="relative", max_source_positions=20
    )
    theirs, made = module.Wav2Vec2ConformerSelfAttention(config), scheme("transformer_xl", heads=2)
    theirs.linear_pos.weight.data = made.projections[2].weight.data
    theirs.pos_bias_u.data, theirs.pos_bias_v.data = made.content[2].data, made.position[2].data
    table = module.Wav2Vec2ConformerRelPositionalEmbedding(config)(torch.zeros(1, 9, 8))
    q, k = drawn(9, 2, 4, seed=5), drawn(9, 2, 4, seed=6)
    mixed, wanted = module._apply_relative_position_encoding(
        theirs, q.transpose(0, 1)[None], k.transpose(0, 1)[None], table
    )
    scores = (mixed[0] @ k.permute(1, 2, 0)) * 0.5 + wanted[0]  # what their attention does with the two
    plain = torch.einsum("qhd,khd->hqk", q, k) * 0.5
    assert torch.allclose(bias(made, line(9), 2, layer=2) + plain, scores, atol=1e-5)


# What all of them promise


def acts(made: PositionScheme, rank: int = 1) -> set[str]:
    """Where a scheme acts."""
    where = line(2).expand(-1, rank)
    place = made.place(where, where, Mask.causal((2,)))
    hooks = {"embed": made.embed(where), "rotate": place.rotate, "bias": place.bias}
    return {name for name, hook in hooks.items() if hook is not None}


@pytest.mark.parametrize("name", SCHEMES)
def test_a_scheme_acts_in_its_own_place(name):
    """On the embedding, on queries and keys, or on the scores: never in two of them."""
    place = "bias" if name in BIASES else "rotate" if name in ROTARY else "embed"
    assert acts(scheme(**SCHEMES[name])) == (set() if name == "none" else {place})


@pytest.mark.parametrize("name", ROTARY | BIASES)
@settings(max_examples=15, deadline=None)
@given(shift=st.integers(0, 300), seed=st.integers(0, 99), rank=st.integers(1, 3))
def test_scores_depend_on_distances_alone(name, shift, seed, rank):
    """Moving a whole sequence changes no score; moving its queries against its keys on the last axis does."""
    rank = 1 if name == "transformer_xl" else rank
    made, mask = scheme(**SCHEMES[name], dim=16, rank=rank), Mask.bidirectional((6,))
    q, k = drawn(6, 1, 16, seed=seed), drawn(6, 1, 16, seed=seed + 1)
    positions = torch.randint(0, 20, (6, rank), generator=torch.Generator().manual_seed(seed))

    def turned(x: Tensor, where: Tensor) -> Tensor:
        rotate = made.place(where, where, mask).rotate
        return x if rotate is None else rotate(x)

    def scores(of_queries: Tensor, of_keys: Tensor) -> Tensor:
        found = torch.einsum("qhd,khd->hqk", turned(q, of_queries), turned(k, of_keys))
        place = made.place(of_queries, of_keys, mask)
        return found if place.bias is None else found + place.bias(1, 0, q, k)

    here = scores(positions, positions)
    assert torch.allclose(scores(positions + shift, positions + shift), here, atol=2e-3)
    axis = torch.eye(rank, dtype=torch.int64)[rank - 1]
    assert not torch.allclose(scores(positions + 2 * axis, positions), here, atol=2e-3)


@pytest.mark.parametrize("name", BIASES)
def test_a_bias_is_each_documents_own(name):
    """Packed documents, one of them partly cached and one empty: each gets what it would get alone."""
    made = scheme(**SCHEMES[name], heads=2)
    queries, keys = (2, 0, 3), (5, 2, 3)
    at_keys = torch.cat([line(5, 3), line(2), line(3, 8)])
    at_queries = torch.cat([line(2, 6), line(3, 8)])
    place = made.place(at_queries, at_keys, Mask(queries, keys, keys))
    for document, (mine, theirs) in enumerate(zip(at_queries.split(queries), at_keys.split(keys), strict=True)):
        q, k = drawn(len(mine), 2, 4, seed=5), drawn(len(theirs), 2, 4, seed=6)
        found = place.bias(1, document, q, k)
        assert found.shape == (2, queries[document], keys[document])
        assert torch.allclose(found, bias(made, mine, 2, 1, theirs), atol=1e-6)


@pytest.mark.parametrize("name", SCHEMES)
def test_gradients_reach_what_is_trained(name):
    """Tables and projections of every layer; a stored table of sinusoids is none of them."""
    made = scheme(**SCHEMES[name], heads=2)
    added = [bias(made, line(5), 2, layer) for layer in range(3)] if name in BIASES else [made.embed(line(5))]
    terms = [one.square().sum() for one in added if one is not None and one.requires_grad]
    trained = [parameter for parameter in made.parameters() if parameter.requires_grad]
    assert len(trained) == {"learned": 1, "buckets": 1, "shaw": 3, "transformer_xl": 9}.get(name, 0)
    assert bool(terms) == bool(trained)
    if terms:
        torch.stack(terms).sum().backward()
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in trained)
