"""A step of generation: few rows through a weight, keys kept where they are, and results that can be used on."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cache_contract import shaken

from anyformer.batch import Example
from anyformer.model import GREEDY, Beams
from anyformer.sublayers import Cache, linear
from anyformer.sublayers.cache import packed
from anyformer.tokens import Tokens

HEADS, HEAD_DIM = 2, 4
CLOSE = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 0.05}


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("width", [1, 63, 64, 192])
@pytest.mark.parametrize("biased", [False, True])
def test_few_rows_are_a_linear_map_like_many(dtype, width, biased):
    """Whichever way the weights are read: none, one, a few and many rows, in blocks or not, strided or not."""
    torch.manual_seed(0)
    weight, bias = torch.randn(width, 24, dtype=dtype), torch.randn(width, dtype=dtype) if biased else None
    for rows in (0, 1, 2, 3, 4, 7, 8, 9, 20):
        for x in (torch.randn(rows, 24, dtype=dtype), torch.randn(24, rows, dtype=dtype).T):
            with torch.no_grad():
                found = linear(x, weight, bias)
            wanted = F.linear(x, weight, bias)
            assert found.shape == wanted.shape and found.dtype == dtype
            torch.testing.assert_close(found, wanted, atol=CLOSE[dtype] * 24, rtol=CLOSE[dtype])


@pytest.mark.parametrize("rows", [1, 4])
def test_few_rows_have_gradients(rows):
    """Those of the same map, for the input, the weight and the bias."""
    torch.manual_seed(0)
    leaves = [torch.randn(rows, 8), torch.randn(64, 8), torch.randn(64)]
    found, wanted = [], []
    for gradients, function in ((found, linear), (wanted, F.linear)):
        own = [leaf.clone().requires_grad_() for leaf in leaves]
        function(*own).square().sum().backward()
        gradients += [leaf.grad for leaf in own]
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_cache_holds_what_each_sequence_was_given(data):
    """After any appending, cutting and choosing of sequences, by an account of it that copies everything."""
    documents, number = data.draw(st.integers(1, 4)), 0
    like, capacity = torch.zeros(1), data.draw(st.sampled_from([1, 6]))
    cache = Cache(1, documents, HEADS, HEAD_DIM, rank=1, capacity=capacity, like=like)
    account: list[list[int]] = [[] for _ in range(documents)]
    for _ in range(data.draw(st.integers(1, 8))):
        act = data.draw(st.sampled_from(["append", "step", "step", "select", "swap", "cut"]))
        count = len(account)
        if act == "select":
            rows = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=4))
        elif act == "swap":
            rows = data.draw(st.lists(st.integers(0, count - 1), min_size=count, max_size=count))
        elif act == "cut":
            kept = [data.draw(st.integers(0, len(each))) for each in account]
            cache.cut(kept)
            account = [each[:n] for each, n in zip(account, kept, strict=True)]
        if act in ("select", "swap"):
            cache.select(rows)
            account = [list(account[row]) for row in rows]
        if act in ("append", "step"):
            more = tuple(1 if act == "step" else data.draw(st.integers(0, 3)) for _ in account)
            said = torch.arange(number, number + sum(more))
            number += sum(more)
            cache.reserve(more)
            mask = cache.mask(more)
            keys = said[:, None, None].expand(-1, HEADS, HEAD_DIM).float()
            k, v = cache.extend(0, keys, -keys, mask)
            places = cache.place(said[:, None], mask)
            cache.advance(more)
            for each, new in zip(account, said.split(more), strict=True):
                each += new.tolist()
            k, v = (packed(x, mask) if x.dim() == 4 else x for x in (k, v))
            wanted = torch.tensor([value for each in account for value in each])
            assert torch.equal(places[:, 0], wanted)
            for found in (k, -v):
                assert torch.equal(found, wanted[:, None, None].expand(-1, HEADS, HEAD_DIM).float())
    assert cache.lengths == [len(each) for each in account]


def test_what_is_generated_can_be_trained_on():
    """Values and log probabilities are ordinary tensors, and gradients are on again while a stream is listened to."""
    model = shaken("rotary, self, window None, 4 key heads")
    prompt = Example(Tokens.of("text", torch.tensor([1, 2, 3])), {})
    (said,) = model.generate([prompt], "text", 3, GREEDY, end=None)
    ((best, *_),) = model.beam_search([prompt], "text", Beams(2, 3), end=None)
    given = [said.streams["text"].values, best.tokens.streams["text"].values, best.log_probabilities, said.positions]
    assert not any(tensor.is_inference() for tensor in given)
    for _ in model.stream(prompt, "text", 3, GREEDY, end=None):
        assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
