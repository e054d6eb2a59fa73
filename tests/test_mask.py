"""A mask says what its definition says, and its shortcuts never claim more than that."""

import pickle
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anyformer.errors import MaskError
from anyformer.mask import Mask, cumulative

EITHER = st.booleans()


@st.composite
def masks(draw, autoregressive: st.SearchStrategy[bool] = EITHER) -> Mask:
    """Any documents, empty ones too: fewer queries than keys, prefixes past the end, windows past both."""
    keys = tuple(draw(st.lists(st.integers(0, 9), min_size=1, max_size=4)))
    queries = tuple(draw(st.integers(0, count)) for count in keys)
    prefix = tuple(draw(st.integers(0, 11)) for _ in keys)
    return Mask(queries, keys, prefix, draw(st.none() | st.integers(1, 11)), autoregressive=draw(autoregressive))


def sees(mask: Mask, document: int, query: int, key: int) -> bool:
    """The class's docstring, word by word, for the document's query number `query` (0 is its first)."""
    i, j = mask.keys[document] - mask.queries[document] + query, key
    if mask.window is not None and abs(i - j) >= mask.window:
        return False
    return j < mask.prefix[document] or (mask.autoregressive and j <= i)


@settings(max_examples=60, deadline=None)
@given(masks())
def test_visible_is_the_definition(mask):
    """The dense mask agrees with the definition at every pair."""
    for document, (queries, keys) in enumerate(zip(mask.queries, mask.keys, strict=True)):
        wanted = [[sees(mask, document, i, j) for j in range(keys)] for i in range(queries)]
        visible = mask.visible(document)
        assert visible.shape == (queries, keys)
        assert visible.tolist() == wanted


@settings(max_examples=60, deadline=None)
@given(masks(autoregressive=st.just(True)))
def test_every_query_sees_itself(mask):
    """Where the past is seen no row is empty, hence there is no softmax of nothing (NaN)."""
    for document in range(len(mask.keys)):
        assert bool(mask.visible(document).any(-1).all())


@settings(max_examples=60, deadline=None)
@given(masks())
def test_shortcuts_never_lie(mask):
    """`is_causal` only for a square lower triangle, `is_full` only where nothing is hidden."""
    for document in range(len(mask.keys)):
        visible = mask.visible(document)
        if mask.is_causal(document):
            assert mask.queries[document] == mask.keys[document]
            assert torch.equal(visible, torch.ones_like(visible).tril())
        if mask.is_full(document):
            assert bool(visible.all())
        if mask.sees_nothing(document):
            assert not bool(visible.any())


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 9))
def test_shortcuts_are_taken_where_they_pay(length):
    """Plain causal, plain bidirectional and single-query documents do take the fast path."""
    assert Mask.causal((length,)).is_causal(0)
    assert Mask.prefixed((length,), (1,)).is_causal(0)
    assert not Mask.bidirectional((length,)).is_causal(0)
    assert Mask.bidirectional((length,)).is_full(0)
    assert Mask((1,), (length,), (0,)).is_full(0)
    assert not Mask.causal((length,)).is_full(0)
    assert Mask.causal((length,)).across((1 + length,)).is_full(0)
    assert Mask.causal((length,)).across((0,)).sees_nothing(0)


def test_a_window_narrows_and_never_widens():
    """A sublayer without a window keeps the caller's; of two windows the narrower one counts."""
    mask = Mask.causal((5,))
    assert mask.windowed(None) is mask
    narrow = mask.windowed(2)
    assert narrow.visible(0).sum(-1).tolist() == [1, 2, 2, 2, 2]
    assert narrow.windowed(None) is narrow
    assert narrow.windowed(4) == narrow
    assert mask.windowed(4).windowed(2) == narrow


def test_a_window_looks_as_far_ahead_as_back():
    """Where later keys are seen at all: in a prefix, as many from the query on as up to it."""
    assert Mask.bidirectional((5,)).windowed(2).visible(0).sum(-1).tolist() == [2, 3, 3, 3, 2]
    assert Mask.prefixed((5,), (3,)).windowed(2).visible(0).int().tolist() == [
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 1, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 0, 1, 1],
    ]


def test_hidden_padding_is_seen_by_nobody():
    """Without the past, a prefix is all there is to see: the last keys are hidden from their own queries too."""
    mask = Mask((4,), (4,), (2,), autoregressive=False)
    assert mask.visible(0).int().tolist() == [[1, 1, 0, 0]] * 4
    assert mask.windowed(1).visible(0).sum(-1).tolist() == [1, 1, 0, 0]  # two rows see nothing
    assert not mask.sees_nothing(0)
    assert Mask((4,), (4,), (0,), autoregressive=False).sees_nothing(0)
    assert not mask.is_causal(0)
    assert not Mask((1,), (4,), (2,), autoregressive=False).is_full(
        0
    )  # its one query is the last, but no key of its own


def test_across_sees_another_axis_whole():
    """Each query sees all keys of its own document there, however it sees its own sequence."""
    mask = Mask((2, 0, 3), (4, 1, 3), (0, 1, 2), window=1)
    across = mask.across((1, 2, 0))
    assert (across.queries, across.keys) == ((2, 0, 3), (1, 2, 0))
    assert [tuple(across.visible(document).shape) for document in range(3)] == [(2, 1), (0, 2), (3, 0)]
    assert all(bool(across.visible(document).all()) for document in range(3))
    assert [across.is_full(0), across.sees_nothing(2)] == [True, True]
    assert not across.hides_later_keys
    assert mask.across((1, 2, 0)) is across  # every layer asks


def test_what_hides_later_keys_says_so():
    """What mixes neighbours in time asks for it: a past alone hides them, a whole prefix and another axis do not."""
    assert Mask.causal((3,)).hides_later_keys
    assert Mask.prefixed((3, 3), (3, 2)).hides_later_keys
    assert not Mask.bidirectional((3, 0)).hides_later_keys
    assert not Mask.causal((1, 0)).hides_later_keys
    assert not Mask(
        (3,), (3,), (2,), autoregressive=False
    ).hides_later_keys  # hidden from everybody, wherever they stand


def test_impossible_masks_are_refused():
    """Lengths that do not belong together, and a window that would hide everything."""
    with pytest.raises(MaskError, match=r"2 query lengths, 1 key lengths and 1 prefixes"):
        Mask((1, 2), (3,), (0,))
    with pytest.raises(MaskError, match="window=0; expected at least 1"):
        Mask.causal((3,)).windowed(0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=6).map(tuple))
def test_edges_and_membership_agree(lengths):
    """`cumulative` and `document_of` describe the same packed axis."""
    mask, edges = Mask.causal(lengths), cumulative(lengths).tolist()
    assert mask.cu_queries.tolist() == mask.cu_keys.tolist() == edges
    assert mask.cu_queries.dtype == torch.int32  # what variable-length kernels take
    members = mask.document_of(lengths).tolist()
    assert len(members) == edges[-1]
    for document, (start, end) in enumerate(pairwise(edges)):
        assert members[start:end] == [document] * lengths[document]


def test_a_mask_travels_after_use():
    """Masks come from worker processes, also when edges were already asked for."""
    mask = Mask.prefixed((2, 3), (1, 3))
    assert mask.cu_keys.tolist() == [0, 2, 5]
    assert pickle.loads(pickle.dumps(mask)) == mask


def test_equal_masks_are_equal_however_they_were_made():
    """Constructors and fields say the same."""
    assert Mask.causal((2, 3)) == Mask((2, 3), (2, 3), (0, 0), None, autoregressive=True)
    assert Mask.causal((2, 3)) != Mask((2, 3), (2, 3), (0, 0), None, autoregressive=False)
    assert "autoregressive=True" in repr(Mask.bidirectional((2,)))
