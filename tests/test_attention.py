"""Every attention back end computes the one definition, and refuses what it cannot compute."""

from dataclasses import dataclass
from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention import flex_attention

from anyformer.errors import ConfigError, MaskError
from anyformer.mask import Mask
from anyformer.sublayers import attend, attention_weights, backends, set_backend

HEAD_DIM = 4
OTHERS = sorted(set(backends) - {"eager"})
DIFFERENTIABLE = ["documents", "eager"]  # FlexAttention has no backward on CPU


@pytest.fixture(autouse=True, scope="module")
def uncompiled_flex():
    """FlexAttention on CPU as plain operations: compiling each shape would take most of these tests' time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flex_attention, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True, raising=False)
        yield


@dataclass
class Case:
    """Inputs of one call, drawn from a seed. heads = kv_heads * group."""

    mask: Mask
    kv_heads: int
    group: int
    seed: int

    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        return tuple(
            torch.randn(sum(lengths), heads, HEAD_DIM, generator=generator)
            for lengths, heads in (
                (self.mask.queries, self.kv_heads * self.group),
                (self.mask.keys, self.kv_heads),
                (self.mask.keys, self.kv_heads),
            )
        )


@st.composite
def cases(draw) -> Case:
    """Documents in any mix, neighbours of one shape (which share a call) and queries that see nothing among them."""
    one = st.integers(0, 9).flatmap(lambda keys: st.tuples(st.integers(0, keys), st.just(keys), st.integers(0, 10)))
    repeated = st.tuples(one, st.integers(1, 3)).map(lambda drawn: [drawn[0]] * drawn[1])
    documents = list(chain.from_iterable(draw(st.lists(repeated, min_size=1, max_size=4))))
    queries, keys, prefix = zip(*documents, strict=True)
    mask = Mask(queries, keys, prefix, draw(st.none() | st.integers(1, 8)), autoregressive=draw(st.booleans()))
    return Case(mask, draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(0, 99)))


def by_definition(q: Tensor, k: Tensor, v: Tensor, mask: Mask, scale: float) -> Tensor:
    """One query and head at a time, in float64, straight from the words of `Mask` and `attend`."""
    out, group = torch.zeros(q.shape, dtype=torch.float64), q.shape[1] // k.shape[1]
    q, k, v = q.double(), k.double(), v.double()
    at_query, at_key = 0, 0
    for queries, keys, prefix in zip(mask.queries, mask.keys, mask.prefix, strict=True):
        for n in range(queries):
            i = keys - queries + n
            seen = [
                at_key + j
                for j in range(keys)
                if (j < prefix or (mask.autoregressive and j <= i))
                and (mask.window is None or abs(i - j) < mask.window)
            ]
            for head in range(q.shape[1]):
                weights = (k[seen, head // group] @ q[at_query + n, head] * scale).softmax(0)
                out[at_query + n, head] = weights @ v[seen, head // group]
        at_query, at_key = at_query + queries, at_key + keys
    return out


def run(backend: str, *inputs, **more) -> Tensor:
    with set_backend(backend):
        return attend(*inputs, **more)


@settings(max_examples=40, deadline=None)
@given(cases(), st.sampled_from([None, 0.3]))
def test_eager_follows_the_definition(case, scale):
    """The reference itself, against loops that share no code with it."""
    q, k, v = case.inputs()
    wanted = by_definition(q, k, v, case.mask, HEAD_DIM**-0.5 if scale is None else scale)
    assert torch.allclose(run("eager", q, k, v, case.mask, scale=scale).double(), wanted, atol=1e-5)


@pytest.mark.parametrize("backend", OTHERS)
@settings(max_examples=25, deadline=None)
@given(case=cases())
def test_back_ends_agree_with_eager(backend, case):
    """Prefixes, windows, grouped queries, cached keys, empty documents and blind queries, in any mix."""
    inputs = case.inputs()
    wanted, found = (run(name, *inputs, case.mask, scale=0.7) for name in ("eager", backend))
    assert found.shape == wanted.shape
    assert torch.allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("backend", [name for name in DIFFERENTIABLE if name != "eager"])
@settings(max_examples=15, deadline=None)
@given(case=cases())
def test_gradients_agree_with_eager(backend, case):
    """What is learned does not depend on the back end either."""
    found = {}
    for name in ("eager", backend):
        inputs = [x.requires_grad_() for x in case.inputs()]
        out = run(name, *inputs, case.mask)
        if out.requires_grad:  # not where nobody sees anything
            out.square().sum().backward()
        found[name] = [torch.zeros_like(x) if x.grad is None else x.grad for x in inputs]
    for wanted, got in zip(found["eager"], found[backend], strict=True):
        assert torch.allclose(got, wanted, atol=2e-5)


@pytest.mark.parametrize("backend", sorted(backends))
@settings(max_examples=15, deadline=None)
@given(case=cases(), data=st.data())
def test_nobody_sees_another_document(backend, case, data):
    """New keys, values and queries in one document leave all others as they were."""
    mask = case.mask
    changed = data.draw(st.integers(0, len(mask.keys) - 1))
    before = case.inputs()
    after = [x.clone() for x in before]
    for x, lengths in zip(after, (mask.queries, mask.keys, mask.keys), strict=True):
        x.split(lengths)[changed].mul_(-3).add_(1)
    outputs = [run(backend, *inputs, mask).split(mask.queries) for inputs in (before, after)]
    for document, (old, new) in enumerate(zip(*outputs, strict=True)):
        if document != changed:
            assert torch.allclose(old, new, atol=1e-6)
        elif mask.visible(document).any():
            assert not torch.equal(old, new)


@pytest.mark.parametrize("backend", ["documents", "eager"])
@settings(max_examples=20, deadline=None)
@given(case=cases())
def test_a_score_bias_is_added(backend, case):
    """The bias hook shifts scores before the softmax, per document and head; its gradient comes back. It is asked
    with the document's own queries and keys."""
    q, k, v = case.inputs()
    mask, generator = case.mask, torch.Generator().manual_seed(case.seed + 1)
    pieces = list(zip(q.split(mask.queries), k.split(mask.keys), v.split(mask.keys), strict=True))
    shapes = zip(mask.queries, mask.keys, strict=True)
    tables = [torch.randn(q.shape[1], *shape, generator=generator).requires_grad_() for shape in shapes]

    def bias(document: int, queries: Tensor, keys: Tensor) -> Tensor:
        assert torch.equal(queries, pieces[document][0])
        assert torch.equal(keys, pieces[document][1])
        return tables[document]

    found = run(backend, q, k, v, mask, bias=bias)
    wanted = []
    for document, (queries, keys, values) in enumerate(pieces):
        keys, values = keys.repeat_interleave(case.group, 1), values.repeat_interleave(case.group, 1)
        scores = torch.einsum("qhd,khd->hqk", queries, keys) / HEAD_DIM**0.5 + tables[document]
        strength = scores.exp() * mask.visible(document)
        weights = strength / strength.sum(-1, keepdim=True).clamp(min=1e-30)
        wanted.append(torch.einsum("hqk,khd->qhd", weights, values))
    wanted = torch.cat(wanted)
    assert torch.allclose(found, wanted, atol=1e-5)
    if found.requires_grad:
        asked = [table for table in tables if table.numel()]
        gradients = [torch.autograd.grad(out.square().sum(), asked, allow_unused=True) for out in (found, wanted)]
        for got, expected in zip(*gradients, strict=True):
            got = torch.zeros_like(expected) if got is None else got
            assert torch.allclose(got, expected, atol=1e-5)


BLIND = [
    Mask((3, 2), (3, 2), (0, 0), autoregressive=False),
    Mask((2, 3), (0, 4), (0, 4), autoregressive=False),
    Mask((4, 3, 0, 1), (4, 3, 2, 0), (2, 0, 2, 0), 1, autoregressive=False),
    Mask((5,), (9,), (3,), 2, autoregressive=False),
    Mask((2, 1), (0, 0), (0, 0), autoregressive=False),
]
"""Documents whose queries, all or some, see nothing."""


@pytest.mark.parametrize("mask", BLIND, ids=str)
@pytest.mark.parametrize(("backend", "biased"), [*((b, False) for b in backends), ("documents", True), ("eager", True)])
def test_who_sees_nothing_gets_zeros(backend, mask, biased):
    """Not NaN, not the mean of what is hidden; nor is a gradient of it NaN, and its neighbours are as ever."""
    shapes = ((mask.queries, 4), (mask.keys, 2), (mask.keys, 2))
    inputs = [torch.randn(sum(lengths), heads, HEAD_DIM) for lengths, heads in shapes]
    if backend in DIFFERENTIABLE:
        inputs = [x.requires_grad_() for x in inputs]
    more = {"bias": lambda document, q, k: torch.ones(4, len(q), len(k))} if biased else {}
    out = run(backend, *inputs, mask, **more)
    sees = torch.cat([mask.visible(document).any(-1) for document in range(len(mask.keys))])
    assert not sees.all()
    assert torch.equal(out[~sees], torch.zeros_like(out[~sees]))
    assert torch.allclose(out.double(), by_definition(*inputs, mask, HEAD_DIM**-0.5), atol=1e-5)
    if out.requires_grad:
        gradients = torch.autograd.grad(out.square().sum(), inputs, allow_unused=True)
        assert all(gradient is None or bool(gradient.isfinite().all()) for gradient in gradients)


@settings(max_examples=30, deadline=None)
@given(cases(), st.booleans())
def test_attention_weights_are_what_is_mixed(case, biased):
    """Shares of one for whoever sees something, nothing of what is hidden; with the values they make `attend`."""
    q, k, v = case.inputs()
    mask, generator = case.mask, torch.Generator().manual_seed(case.seed)
    tables = [
        torch.randn(q.shape[1], *shape, generator=generator) for shape in zip(mask.queries, mask.keys, strict=True)
    ]
    bias = (lambda document, queries, keys: tables[document]) if biased else None
    weights = attention_weights(q, k, mask, 0.4, bias)
    mixed = []
    for document, (shares, values) in enumerate(zip(weights, v.split(mask.keys), strict=True)):
        visible = mask.visible(document)
        assert shares.shape == (q.shape[1], mask.queries[document], mask.keys[document])
        assert torch.allclose(shares.sum(-1), visible.any(-1).float().expand(shares.shape[:2]), atol=1e-5)
        assert not shares[~visible.expand_as(shares)].any()
        mixed.append(torch.einsum("hqk,khd->qhd", shares, values.repeat_interleave(case.group, 1)))
    wanted = attend(q, k, v, mask, scale=0.4, bias=bias)
    assert torch.allclose(torch.cat(mixed), wanted, atol=1e-5)


@pytest.mark.parametrize("backend", DIFFERENTIABLE)
def test_dropout_acts_on_the_weights(backend):
    """With values of one, what a query gets is the sum of its kept weights, each doubled at a half: a multiple of
    2/8 where eight keys are seen alike, and 1 on average. Zero drops nothing."""
    torch.manual_seed(0)
    q, k, v = torch.zeros(600, 1, HEAD_DIM), torch.zeros(8, 1, HEAD_DIM), torch.ones(8, 1, HEAD_DIM)
    mask = Mask((600,), (8,), (8,), autoregressive=False)
    found = run(backend, q, k, v, mask, dropout=0.5)[:, 0, 0] * 4
    assert torch.allclose(found, found.round(), atol=1e-5)
    assert set(found.round().int().tolist()) == set(range(9))
    assert 3.8 < float(found.mean()) < 4.2
    assert torch.equal(run(backend, q, k, v, mask, dropout=0.0), torch.ones_like(q))


def test_flex_refuses_dropout():
    """It has none, and leaves none out in silence."""
    x = torch.randn(3, 1, HEAD_DIM)
    with pytest.raises(MaskError, match=r"`flex`.*no dropout; use `documents` or `eager`"):
        run("flex", x, x, x, Mask.causal((3,)), dropout=0.1)


def test_flex_refuses_biases():
    """A bias is never dropped in silence."""
    x = torch.randn(3, 1, HEAD_DIM)
    with pytest.raises(MaskError, match=r"`flex`.* no score bias.*; use `documents` or `eager`"):
        run("flex", x, x, x, Mask.causal((3,)), bias=lambda document, q, k: torch.zeros(1, 3, 3))


@pytest.mark.parametrize("trained", [0, 1, 2])
def test_flex_refuses_a_backward_on_cpu(trained):
    """Whichever of q, k and v wants a gradient; without gradients it runs."""
    inputs = [torch.randn(3, 1, HEAD_DIM) for _ in range(3)]
    inputs[trained].requires_grad_()
    with pytest.raises(MaskError, match="no backward on CPU; use `documents`"):
        run("flex", *inputs, Mask.causal((3,)))
    inputs[trained].requires_grad_(False)
    assert run("flex", *inputs, Mask.causal((3,))).shape == (3, 1, HEAD_DIM)


@pytest.mark.parametrize("backend", sorted(backends))
def test_a_mask_must_cover_its_tensors(backend):
    """A mask of another batch is refused before any kernel reads past an edge."""
    x = torch.randn(4, 1, HEAD_DIM)
    with pytest.raises(MaskError, match=r"covers 5 queries and 5 keys, but attention got 4 and 4"):
        run(backend, x, x, x, Mask.causal((2, 3)))
    with pytest.raises(MaskError, match=r"covers 4 queries and 3 keys"):
        run(backend, x, x, x, Mask((4,), (3,), (3,)))


@pytest.mark.parametrize("backend", sorted(backends))
@pytest.mark.parametrize("mask", [Mask.causal((0,)), Mask((0, 0), (2, 1), (0, 0)), Mask((), (), ())], ids=str)
def test_no_query_gives_no_row(backend, mask):
    """A session in which nobody spoke still takes a step."""
    q, k = torch.randn(0, 2, HEAD_DIM), torch.randn(sum(mask.keys), 2, HEAD_DIM)
    assert run(backend, q, k, k, mask).shape == (0, 2, HEAD_DIM)


def test_the_reference_computes_in_float32():
    """`eager` in bfloat16 differs from float32 by the rounding of its inputs and its output only."""
    q, k, v = (8 * torch.randn(6, 2, HEAD_DIM, generator=torch.Generator().manual_seed(n)) for n in range(3))
    half = [x.bfloat16() for x in (q, k, v)]
    found = run("eager", *half, Mask.causal((6,)))
    wanted = run("eager", *(x.float() for x in half), Mask.causal((6,)))
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, wanted.bfloat16())


def test_the_back_end_is_restored():
    """Also after an error inside the block; an unknown one is refused with the nearest name."""
    x = torch.randn(2, 1, HEAD_DIM)
    bias = {"bias": lambda document, q, k: torch.zeros(1, 2, 2)}
    with pytest.raises(MaskError), set_backend("flex"):
        attend(x, x, x, Mask.causal((2,)), **bias)
    assert attend(x, x, x, Mask.causal((2,)), **bias).shape == x.shape
    with set_backend("flex"), set_backend("eager"):
        attend(x, x, x, Mask.causal((2,)), **bias)
    with pytest.raises(ConfigError, match="Did you mean 'documents'"), set_backend("document"):
        pass


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the fused kernel needs a GPU")
@pytest.mark.parametrize("length", [5, 130])
def test_the_fused_kernel_agrees_on_the_gpu(length):
    """FlexAttention compiled, forward and backward, against eager."""
    mask = Mask.prefixed((length, 3, 2 * length), (0, 3, length))
    gradients = {}
    for name in ("eager", "flex"):
        torch.manual_seed(0)
        q = torch.randn(sum(mask.queries), 4, 32, device="cuda", requires_grad=True)
        k, v = (torch.randn(sum(mask.keys), 2, 32, device="cuda", requires_grad=True) for _ in range(2))
        out = run(name, q, k, v, mask)
        gradients[name] = [out, *torch.autograd.grad(out.square().sum(), (q, k, v))]
    for wanted, found in zip(gradients["eager"], gradients["flex"], strict=True):
        assert torch.allclose(found, wanted, atol=1e-2)
