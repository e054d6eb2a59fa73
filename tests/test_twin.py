"""A module without what surrounds a forward does what the module does."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from anyformer.architecture import Architecture, BackboneConfig
from anyformer.batch import Example, pack
from anyformer.model import Model
from anyformer.model.twin import twin
from anyformer.tokens import Tokens

EXAMPLES = [Example(Tokens.of("text", torch.tensor(values)), {}) for values in ([1, 2, 3], [4, 5])]


def made(**settings) -> Model:
    torch.manual_seed(0)
    backbone = BackboneConfig(16, 2, depth=2, **settings)
    return Model.of(Architecture(backbone, {"text": {}}, {"text": {"vocab_size": 16}})).eval()


@pytest.mark.parametrize(
    "settings",
    [
        {"positions": {"type": "learned", "size": 8}},
        {"positions": {"type": "alibi"}, "norm": "rms", "gated": True, "window": 2},
        {"recipe": ("half feed_forward", "attention", "feed_forward"), "experts": 3},
    ],
)
def test_a_twin_says_the_same_with_the_same_weights(settings):
    model = made(**settings)
    other, batch = twin(model), pack(EXAMPLES)
    assert isinstance(other, Model) and torch.equal(other(batch), model(batch))
    assert [id(one) for one in other.parameters()] == [id(one) for one in model.parameters()]
    with torch.no_grad():
        model.backbone.blocks[0].feed_forward.norm.weight.add_(1)
    assert torch.equal(other(batch), model(batch))


def test_what_watches_a_part_or_takes_its_place_goes_on():
    model, seen = made(), []
    model.backbone.blocks[1].register_forward_hook(lambda module, inputs, out: seen.append(out))
    model.backbone.blocks[0].attention.compile(backend=lambda graph, inputs: seen.append("compiled") or graph.forward)
    twin(model)(pack(EXAMPLES))
    assert "compiled" in seen and torch.is_tensor(seen[-1])


@pytest.mark.filterwarnings("ignore")  # torch would rather export than trace
def test_what_is_traced_stays_what_it_is():
    traced = torch.jit.trace(nn.Linear(3, 3), torch.ones(1, 3))
    assert twin(nn.Sequential(traced))[0] is traced


def test_a_weight_that_is_computed_is_still_computed():
    class Doubled(nn.Module):
        def forward(self, weight):
            return 2 * weight

    model, x = nn.Sequential(nn.Linear(3, 3)), torch.ones(1, 3)
    before = model(x) - model[0].bias
    parametrize.register_parametrization(model[0], "weight", Doubled())
    assert torch.allclose(twin(model)(x), 2 * before + model[0].bias)


def test_a_module_is_not_changed_by_having_a_twin():
    model = made()
    kept = {name: set(vars(part)) for name, part in model.named_modules()}
    twin(model)
    assert {name: set(vars(part)) for name, part in model.named_modules()} == kept
    assert type(model) is Model and type(twin(model)) is type(twin(model))


def test_a_step_of_generation_calls_no_module(monkeypatch):
    """All that it calls is of the session's twin."""
    session = made().session(1)
    session.append([EXAMPLES[0].tokens])

    def refuse(module, *inputs, **more):
        raise AssertionError(f"{type(module).__name__} was called as a module")

    monkeypatch.setattr(nn.Module, "_call_impl", refuse)
    assert session.append_values("text", [4], [3]).shape == (1, 16)
    assert session.sample("text").shape == (1,)
