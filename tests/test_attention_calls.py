"""Documents of similar shape share a call of attention: few calls, little padding, and nobody notices."""

import random
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from anyformer.mask import Mask
from anyformer.sublayers import attend, set_backend
from anyformer.sublayers.calls import CALL, Plan

CPU = torch.device("cpu")


@st.composite
def masks(draw) -> Mask:
    """Sequences of all lengths, in no order: own, with a source, or behind a cache; some empty, some blind."""
    count = draw(st.integers(1, 24))
    lengths = st.lists(st.integers(0, 20), min_size=count, max_size=count)
    queries, more, prefix = (tuple(draw(lengths)) for _ in range(3))
    window = draw(st.none() | st.integers(1, 25))
    kind = draw(st.sampled_from(["causal", "both ways", "prefixed", "across", "cached", "hidden"]))
    return {
        "causal": Mask.causal(queries),
        "both ways": Mask.bidirectional(queries),
        "prefixed": Mask.prefixed(queries, prefix),
        "across": Mask.causal(queries).across(more),
        "cached": Mask(queries, tuple(map(sum, zip(queries, more, strict=True))), prefix),
        "hidden": Mask(queries, queries, prefix, autoregressive=False),
    }[kind].windowed(window)


def inputs(mask: Mask, seed: int = 0, heads: int = 4, head_dim: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((mask.queries, heads), (mask.keys, heads // 2), (mask.keys, heads // 2))
    return [
        torch.randn(sum(lengths), h, head_dim, generator=generator, dtype=torch.float64).requires_grad_()
        for lengths, h in shapes
    ]


@pytest.fixture(params=[0, 100, 10**9], ids=["apart", "some together", "all together"])
def price(request, monkeypatch) -> int:
    """What a call costs: nothing, so that none is shared by unequal documents; a little; or so much that all are."""
    monkeypatch.setattr("anyformer.sublayers.calls.CALL", request.param)
    return request.param


@settings(max_examples=40, deadline=None)
@given(mask=masks(), biased=st.booleans())
def by_eager(mask: Mask, biased: bool) -> None:
    """Values and all gradients, in float64."""
    tables = [torch.randn(4, q, k, dtype=torch.float64) for q, k in zip(mask.queries, mask.keys, strict=True)]
    bias = (lambda document, q, k: tables[document]) if biased else None
    found = {}
    for backend in ("eager", "documents"):
        x = inputs(mask)
        with set_backend(backend):
            out = attend(*x, mask, bias=bias)
        if out.requires_grad:
            (out * torch.arange(out.numel()).view_as(out).cos()).sum().backward()
        found[backend] = [out, *(torch.zeros_like(one) if one.grad is None else one.grad for one in x)]
    for wanted, got in zip(found["eager"], found["documents"], strict=True):
        assert torch.allclose(got, wanted, rtol=0, atol=1e-12)


def test_sharing_calls_changes_nothing(price):
    """Whatever shares a call: values and gradients are those of each document alone."""
    by_eager()


@settings(max_examples=60, deadline=None)
@given(mask=masks(), price=st.sampled_from([0, 100, 5_000, 10**9]))
def test_a_plan_has_every_row_once(mask, price):
    """Each query that sees something has one slot, which holds its own row; padding is its own document's."""
    with patch("anyformer.sublayers.calls.CALL", price):
        plan = Plan.of(mask, 8, CPU)
    sees = [d for d, count in enumerate(mask.queries) if count and not mask.sees_nothing(d)]
    assert sorted(d for call in plan.calls for d in call.documents) == sees
    if plan.back is None:
        return
    for index, lengths, size in ((plan.queries, mask.queries, "queries"), (plan.keys, mask.keys, "keys")):
        of = mask.document_of(lengths)
        wanted = [d for call in plan.calls for d in call.documents for _ in range(getattr(call, size))]
        assert of[index].tolist() == wanted
    slots = torch.arange(sum(mask.queries))[torch.isin(mask.document_of(mask.queries), torch.tensor(sees))]
    assert plan.queries is not None
    assert torch.equal(plan.queries[plan.back[slots]], slots)


def translation() -> Mask:
    """Ninety pairs of sentences, as a decoder's cross-attention sees them."""
    chance = random.Random(0)
    pairs = [
        (max(3, round(length * chance.uniform(0.7, 1.4))), length) for length in chance.choices(range(8, 30), k=90)
    ]
    queries, keys = zip(*pairs, strict=True)
    return Mask.causal(queries).across(keys)


def calls(mask: Mask, width: int = 128) -> list[tuple[int, int, int]]:
    """Documents, queries and keys of each call of SDPA."""
    seen, real = [], F.scaled_dot_product_attention

    def watched(q, k, v, **more):
        seen.append((q.shape[0], q.shape[2], k.shape[2]))
        return real(q, k, v, **more)

    with patch.object(F, "scaled_dot_product_attention", watched), set_backend("documents"):
        attend(*inputs(mask, head_dim=width // 4), mask)
    return seen


def test_a_batch_of_sentences_takes_a_few_calls():
    """Of almost as many shapes as there are pairs; and no call is mostly padding."""
    mask = translation()
    shapes = set(zip(mask.queries, mask.keys, strict=True))
    assert len(shapes) > 60
    for one in (mask, Mask.causal(mask.queries), Mask.bidirectional(mask.keys)):
        made = calls(one)
        useful = sum(q * k for q, k in zip(one.queries, one.keys, strict=True))
        assert 2 <= len(made) <= 8
        assert sum(count * q * k for count, q, k in made) < 1.7 * useful


def test_equal_shapes_are_neither_padded_nor_moved():
    """Windows of one length, or any that are long, stay as they are."""
    for mask in (Mask.causal((64,) * 12), Mask.bidirectional((9, 9, 500)), Mask.prefixed((700, 900), (300, 0))):
        plan = Plan.of(mask, 128, CPU)
        assert plan.queries is plan.keys is plan.back is None
        assert sum(len(c.documents) * c.queries * c.keys for c in plan.calls) == sum(n * n for n in mask.queries)
    (call,) = Plan.of(Mask.causal((64,) * 12), 128, CPU).calls
    assert (call.causal, call.visible) == (True, None)


def test_padding_is_worth_a_call():
    """Two documents share one where that pads less than a call's price, and not where it pads more."""
    price = CALL // 128
    near, far = (Mask.causal((100, 100 + more)) for more in (price // 400, price // 50))
    assert len(Plan.of(near, 128, CPU).calls) == 1
    assert len(Plan.of(far, 128, CPU).calls) == 2


def test_a_plan_is_made_once():
    """All layers of a pass share it, also those that make the same mask of it again."""
    mask = translation()
    assert Plan.of(mask, 128, CPU) is Plan.of(mask, 128, CPU)
    assert Plan.of(mask.across((4,) * 90), 128, CPU) is Plan.of(mask.across((4,) * 90), 128, CPU)
