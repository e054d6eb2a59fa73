"""Every attention back end computes the one definition, and refuses what it cannot compute."""

from dataclasses import dataclass
from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.attention import flex_attention

from anyformer.errors import ConfigError, MaskError
from anyformer.mask import Mask
from anyformer.sublayers import Attention, Placement, attend, backends, make_positions, set_backend

HEAD_DIM = 4
OTHERS = sorted(set(backends) - {"eager"})
DIFFERENTIABLE = ["documents", "eager", "padded"]  # FlexAttention has no backward on CPU


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
    """Documents in any mix, neighbours of one shape (which share a call) among them."""
    one = st.integers(0, 9).flatmap(lambda keys: st.tuples(st.integers(0, keys), st.just(keys), st.integers(0, 10)))
    repeated = st.tuples(one, st.integers(1, 3)).map(lambda drawn: [drawn[0]] * drawn[1])
    documents = list(chain.from_iterable(draw(st.lists(repeated, min_size=1, max_size=4))))
    queries, keys, prefix = zip(*documents, strict=True)
    mask = Mask(queries, keys, prefix, draw(st.none() | st.integers(1, 8)))
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
                if (j <= i or j < prefix) and (mask.window is None or i - j < mask.window)
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
    """Prefixes, windows, grouped queries, cached keys and empty documents, in any mix."""
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
        run(name, *inputs, case.mask).square().sum().backward()
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
        elif mask.queries[document]:
            assert not torch.equal(old, new)


@pytest.mark.parametrize("backend", ["documents", "eager"])
@settings(max_examples=20, deadline=None)
@given(case=cases())
def test_a_score_bias_is_added(backend, case):
    """The bias hook shifts scores before the softmax, per document and head; its gradient comes back."""
    q, k, v = case.inputs()
    generator = torch.Generator().manual_seed(case.seed + 1)
    shapes = zip(case.mask.queries, case.mask.keys, strict=True)
    tables = [torch.randn(q.shape[1], *shape, generator=generator).requires_grad_() for shape in shapes]
    found = run(backend, q, k, v, case.mask, bias=tables.__getitem__)
    wanted = []
    for document, pieces in enumerate(
        zip(q.split(case.mask.queries), k.split(case.mask.keys), v.split(case.mask.keys), strict=True)
    ):
        queries, keys, values = pieces
        keys, values = keys.repeat_interleave(case.group, 1), values.repeat_interleave(case.group, 1)
        scores = torch.einsum("qhd,khd->hqk", queries, keys) / HEAD_DIM**0.5 + tables[document]
        weights = scores.masked_fill(~case.mask.visible(document), -torch.inf).softmax(-1)
        wanted.append(torch.einsum("hqk,khd->qhd", weights, values))
    wanted = torch.cat(wanted)
    assert torch.allclose(found, wanted, atol=1e-5)
    if found.requires_grad:
        asked = [table for table in tables if table.numel()]
        gradients = [torch.autograd.grad(out.square().sum(), asked) for out in (found, wanted)]
        for got, expected in zip(*gradients, strict=True):
            assert torch.allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("backend", ["padded", "flex"])
def test_a_back_end_without_biases_refuses_one(backend):
    """A bias is never dropped in silence."""
    x = torch.randn(3, 1, HEAD_DIM)
    with pytest.raises(MaskError, match=f"`{backend}`.*no score bias; use `documents` or `eager`"):
        run(backend, x, x, x, Mask.causal((3,)), bias=lambda document: torch.zeros(1, 3, 3))


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
    bias = {"bias": lambda document: torch.zeros(1, 2, 2)}
    with pytest.raises(MaskError), set_backend("padded"):
        attend(x, x, x, Mask.causal((2,)), **bias)
    assert attend(x, x, x, Mask.causal((2,)), **bias).shape == x.shape
    with set_backend("padded"), set_backend("eager"):
        attend(x, x, x, Mask.causal((2,)), **bias)
    with pytest.raises(ConfigError, match="Did you mean 'padded'"), set_backend("paded"):
        pass


def test_attention_is_multi_head_attention():
    """The layer, weights copied, against torch's own `nn.MultiheadAttention`."""
    torch.manual_seed(0)
    ours, theirs = Attention(12, 3), nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_(std=0.4)
        theirs.in_proj_weight.copy_(ours.qkv.weight)
        theirs.in_proj_bias.copy_(ours.qkv.bias)
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    x = torch.randn(7, 12)
    hidden = nn.Transformer.generate_square_subsequent_mask(7)
    wanted, _ = theirs(x[None], x[None], x[None], attn_mask=hidden, need_weights=False)
    assert torch.allclose(ours(x, Placement(), Mask.causal((7,))), wanted[0], atol=1e-5)
    wanted, _ = theirs(x[None], x[None], x[None], need_weights=False)
    assert torch.allclose(ours(x, Placement(), Mask.bidirectional((7,))), wanted[0], atol=1e-5)


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_grouped_queries_are_repeated_keys(kv_heads):
    """Sharing keys among heads equals full attention whose key and value weights are repeated."""
    torch.manual_seed(1)
    dim, heads, mask = 16, 4, Mask.prefixed((3, 6), (0, 2))
    grouped, full = Attention(dim, heads, kv_heads), Attention(dim, heads)
    size = dim // heads

    def repeated(weight: Tensor) -> Tensor:
        q, k, v = weight.split((heads * size, kv_heads * size, kv_heads * size))
        return torch.cat(
            [
                q,
                *(
                    x.unflatten(0, (kv_heads, size)).repeat_interleave(heads // kv_heads, 0).flatten(0, 1)
                    for x in (k, v)
                ),
            ]
        )

    with torch.no_grad():
        for parameter in grouped.parameters():
            parameter.normal_(std=0.4)
        full.qkv.weight.copy_(repeated(grouped.qkv.weight))
        full.qkv.bias.copy_(repeated(grouped.qkv.bias))
        full.out.load_state_dict(grouped.out.state_dict())
    x = torch.randn(9, dim)
    place = make_positions({"type": "rotary"}, dim, size, 1).place(torch.arange(9)[:, None])
    assert torch.allclose(grouped(x, place, mask), full(x, place, mask), atol=1e-5)
    assert sum(p.numel() for p in grouped.parameters()) < sum(p.numel() for p in full.parameters())


def test_a_window_comes_from_the_layer_or_from_the_mask():
    """Both are honoured; a layer without one does not widen the caller's."""
    torch.manual_seed(2)
    wide, narrow = Attention(8, 2), Attention(8, 2, window=2)
    narrow.load_state_dict(wide.state_dict())
    x, mask = torch.randn(6, 8), Mask.causal((6,))
    from_layer, from_mask = narrow(x, Placement(), mask), wide(x, Placement(), mask.windowed(2))
    assert torch.allclose(from_layer, from_mask, atol=1e-6)
    assert not torch.allclose(from_layer, wide(x, Placement(), mask), atol=1e-3)


def test_a_placements_bias_reaches_the_scores():
    """`Placement.bias` acts inside the layer: a large one on a single key makes that key the answer."""
    torch.manual_seed(3)
    layer, x = Attention(8, 2), torch.randn(5, 8)
    first = torch.zeros(2, 5, 5)
    first[:, :, 0] = 100.0
    out = layer(x, Placement(bias=lambda document: first), Mask.causal((5,)))
    assert torch.allclose(out, out[:1].expand(5, -1), atol=1e-5)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"dim": 10, "heads": 4}, r"dim=10 is not a multiple of heads=4.*head_dim"),
        ({"dim": 8, "heads": 4, "kv_heads": 3}, r"heads=4 is not a multiple of kv_heads=3"),
        ({"dim": 8, "heads": 4, "kv_heads": 0}, r"kv_heads=0"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(sizes, message):
    """Named with both numbers."""
    with pytest.raises(ConfigError, match=message):
        Attention(**sizes)


def test_a_free_head_dim_needs_no_divisor():
    """`head_dim` given, any dim will do."""
    layer = Attention(10, 3, head_dim=4)
    assert layer(torch.randn(2, 10), Placement(), Mask.causal((2,))).shape == (2, 10)


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
