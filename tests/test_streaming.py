"""Attention in chunks: every back end reads the same rule, and what comes later does not change what was said."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import flex_attention

from anyformer.architecture import BackboneConfig
from anyformer.backbone import Backbone
from anyformer.errors import ConfigError, MaskError
from anyformer.mask import Mask
from anyformer.sublayers import attend, set_backend

CONFORMER = {
    "recipe": ("half feed_forward", "attention", "convolution", "half feed_forward"),
    "end_norm": True,
    "final_norm": False,
    "causal": False,
    "kernel": 3,
    "causal_convolution": True,
}


@pytest.fixture(autouse=True, scope="module")
def uncompiled_flex():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flex_attention, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True, raising=False)
        yield


@st.composite
def masks(draw) -> Mask:
    """Documents of any length, also with cached keys and hidden ends."""
    keys = tuple(draw(st.lists(st.integers(0, 11), min_size=1, max_size=4)))
    queries = tuple(draw(st.integers(0, count)) for count in keys)
    prefix = tuple(draw(st.integers(0, 12)) for _ in keys)
    window, chunk = draw(st.none() | st.integers(1, 8)), (draw(st.integers(1, 12)), draw(st.integers(0, 3)))
    return Mask(queries, keys, prefix, window, draw(st.booleans()), chunk)


@settings(max_examples=40, deadline=None)
@given(masks())
def test_a_chunk_is_its_definition(mask):
    size, before = mask.chunk
    whole = Mask(mask.queries, mask.keys, mask.prefix, mask.window, mask.autoregressive)
    for document, (queries, keys) in enumerate(zip(mask.queries, mask.keys, strict=True)):
        visible, unchunked = mask.visible(document), whole.visible(document)
        for query in range(queries):
            own = (keys - queries + query) // size
            for key in range(keys):
                assert bool(visible[query, key]) == (bool(unchunked[query, key]) and own - before <= key // size <= own)
        assert bool(visible.all()) or not mask.is_full(document)
        assert torch.equal(visible, torch.ones_like(visible).tril()) or not mask.is_causal(document)


@pytest.mark.parametrize("backend", ["documents", "flex"])
@settings(max_examples=25, deadline=None)
@given(mask=masks(), seed=st.integers(0, 99))
def test_back_ends_agree_on_chunks(backend, mask, seed):
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(sum(n), 2, 4, generator=generator) for n in (mask.queries, mask.keys, mask.keys))
    with set_backend("eager"):
        wanted = attend(q, k, v, mask, scale=0.5)
    with set_backend(backend):
        assert torch.allclose(attend(q, k, v, mask, scale=0.5), wanted, atol=1e-5)


def conformer(chunk) -> Backbone:
    torch.manual_seed(0)
    stack = Backbone(BackboneConfig(8, 2, 2, chunk=chunk, **CONFORMER)).eval()
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.normal_(std=0.4)
    return stack


def heard(stack: Backbone, x: torch.Tensor, lengths: tuple[int, ...]) -> torch.Tensor:
    where = torch.cat([torch.arange(length) for length in lengths])[:, None]
    return stack(x, where, Mask.bidirectional(lengths))


@pytest.mark.parametrize("backend", ["documents", "eager"])
@settings(max_examples=10, deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4), size=st.integers(1, 4), before=st.integers(0, 2))
def test_chunks_are_the_same_alone_and_packed(backend, lengths, size, before):
    stack, x = conformer((size, before)), torch.randn(sum(lengths), 8)
    with torch.no_grad(), set_backend(backend):
        alone = torch.cat([heard(stack, part, (len(part),)) for part in x.split(lengths)])
        assert torch.allclose(heard(stack, x, tuple(lengths)), alone, atol=1e-5)


def test_what_comes_later_changes_nothing():
    """The beginning of a clip gives what it gave as part of the whole, from any chunk's end on; and without chunks it
    does not."""
    x = torch.randn(11, 8)
    with torch.no_grad():
        for chunk in ((3, 0), (3, 1), (4, 2)):
            stack = conformer(chunk)
            whole = heard(stack, x, (11,))
            for end in range(chunk[0], 11, chunk[0]):
                assert torch.allclose(heard(stack, x[:end], (end,)), whole[:end], atol=1e-5)
        stack = conformer(None)
        assert not torch.allclose(heard(stack, x[:6], (6,)), heard(stack, x, (11,))[:6], atol=1e-3)


@pytest.mark.parametrize("wrong", [{"causal_convolution": False}, {"convolution_norm": "group"}, {"chunk": (0, 1)}])
def test_what_looks_beyond_a_chunk_is_refused(wrong):
    with pytest.raises(ConfigError, match="chunk="):
        BackboneConfig(8, 2, **{**CONFORMER, "chunk": (4, 1), **wrong})


def test_an_impossible_chunk_is_refused():
    with pytest.raises(MaskError, match="expected"):
        Mask((3,), (3,), (3,), chunk=(2, -1))
