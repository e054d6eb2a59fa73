"""What is computed another way because that is faster, or takes less memory, is the same."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import anyformer as af
from anyformer.mask import Mask
from anyformer.objectives import loss as losses
from anyformer.objectives.loss import read_and_compare
from anyformer.sublayers import attend, set_backend
from anyformer_tokenizers.text import CharacterTokenizer


def model_and_batch(tie: bool):
    tokenizer = CharacterTokenizer("text")
    tokenizer.fit(["abcdefgh"])
    torch.manual_seed(0)
    model = af.Model({"text": tokenizer}, {"dim": 4, "depth": 1, "heads": 2}, ["text"], tie=tie)
    objective = af.NextToken().ready({"text": tokenizer.streams})
    batch = af.pack([objective.prepare({"text": tokenizer.encode(text)}, None) for text in ("abc", "hgfedcba", "dd")])
    return model, batch


def told(model, batch, smoothing, weight):
    forward = af.ForwardPass(model, batch)
    summed, nats = read_and_compare(forward, "text", batch.targets[""]["text"], smoothing)
    if torch.is_grad_enabled():
        model.zero_grad()
        (weight * summed + forward.hidden.square().sum()).backward()
    return summed, nats, [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("tie", [True, False])
def test_a_loss_in_parts_is_the_loss(monkeypatch, tie, smoothing):
    """Values and all gradients, of the table that is a head's too, with what else the hidden states are used for."""
    model, batch = model_and_batch(tie)
    whole = told(model, batch, smoothing, 3.0)
    monkeypatch.setattr(losses, "PART", 5 * model.specs["text"].width)
    parts = told(model, batch, smoothing, 3.0)
    torch.testing.assert_close(parts, whole)
    with torch.no_grad():
        torch.testing.assert_close(told(model, batch, smoothing, 3.0)[:2], whole[:2])


def test_a_loss_in_parts_with_a_frozen_head(monkeypatch):
    model, batch = model_and_batch(False)
    model.head("text").requires_grad_(False)
    whole = told(model, batch, 0.0, 1.0)
    monkeypatch.setattr(losses, "PART", 1)
    torch.testing.assert_close(told(model, batch, 0.0, 1.0), whole)


def test_a_loss_in_parts_can_be_counted(monkeypatch):
    """Counters of FLOPs watch modules' inputs, and a leaf among them would end the pass."""
    model, batch = model_and_batch(True)
    found = []
    for part in (10**6, 1):
        monkeypatch.setattr(losses, "PART", part)
        with FlopCounterMode(display=False) as counter:
            told(model, batch, 0.0, 1.0)
        found.append(counter.get_total_flops())
    assert found[0] == found[1] > 0


def test_a_loss_in_parts_has_one_gradient(monkeypatch):
    """Its memory is used for it; a second one would be wrong in silence."""
    monkeypatch.setattr(losses, "PART", 1)
    model, batch = model_and_batch(False)
    summed, _ = read_and_compare(af.ForwardPass(model, batch), "text", batch.targets[""]["text"])
    summed.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="computed before"):
        summed.backward()


@pytest.mark.parametrize("mask", [Mask.causal((5, 5, 9, 1)), Mask.bidirectional((6, 6, 3))], ids=["causal", "full"])
def test_attention_in_bfloat16_is_attention(mask):
    """As products of matrices: as near to the definition in float64 as bfloat16 can be, and so are its gradients."""
    torch.manual_seed(0)
    rows = sum(mask.queries)
    inputs = [torch.randn(rows, 2, 8).bfloat16().requires_grad_() for _ in range(3)]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    with set_backend("documents"):
        said = attend(*inputs, mask)
    with set_backend("eager"):
        wanted = attend(*exact, mask)
    found = (said, *torch.autograd.grad(said.float().square().sum(), inputs))
    expected = (wanted, *torch.autograd.grad(wanted.square().sum(), exact))
    for one, other in zip(found, expected, strict=True):
        assert (one.double() - other).abs().max() <= 0.05 * other.abs().max()
