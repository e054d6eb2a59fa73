"""How many operators a step of generation is: few rows cost a processor little else."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from anyformer.architecture import Architecture, BackboneConfig
from anyformer.batch import Example
from anyformer.model import GREEDY, Beams, Model
from anyformer.tokens import Tokens

LAYER = {"learned": 17, "rotary": 24}
"""Operators of one layer: two norms, four products, a write and a look at keys and at values, one attention, an
activation, two sums, and the views between them; a rotation more."""

AROUND = 41
"""Of a step besides its layers, greedily: embeddings, the last norm, the head, the choice and what it is likely to."""

PROMPT = Example(Tokens.of("text", torch.tensor([1, 2, 3])), {})


class Operators(TorchDispatchMode):
    """Counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[str(function)] += 1
        return function(*args, **(kwargs or {}))


def made(positions: str, depth: int) -> Model:
    torch.manual_seed(0)
    scheme = {"type": positions, "size": 64} if positions == "learned" else {"type": positions}
    backbone = BackboneConfig(16, 2, depth=depth, positions=scheme)
    return Model.of(Architecture(backbone, {"text": {}}, {"text": {"vocab_size": 64}})).eval()


def calls_of_step(model: Model, number: int, prompts: int = 1) -> Counter[str]:
    """Of the step that says one more than so many values."""
    given = [PROMPT] * prompts
    found = []
    for new in (number, number + 1):
        with Operators() as operators:
            model.generate(given, "text", new, GREEDY, end=None)
        found.append(operators.calls)
    return found[1] - found[0]


@pytest.mark.parametrize("positions", LAYER)
def test_a_step_makes_few_calls(positions):
    """Counted where nothing but the depth differs."""
    shallow, deep = (calls_of_step(made(positions, depth), 5) for depth in (1, 2))
    layer = (deep - shallow).total()
    assert layer <= LAYER[positions], deep - shallow
    assert shallow.total() - layer <= AROUND, shallow


def test_a_step_makes_as_many_calls_for_many_sequences_as_for_one_and_late_as_early():
    model = made("learned", 2)
    assert calls_of_step(model, 5).total() == calls_of_step(model, 30).total()
    assert calls_of_step(model, 5, 9).total() == calls_of_step(model, 5).total()


def test_a_step_of_beams_makes_few_calls():
    """Of two layers: what is sought among them is sought once, what is moved is of all layers at once."""
    model, found = made("learned", 2), []
    for new in (9, 10):
        with Operators() as operators:
            model.beam_search([PROMPT], "text", Beams(4, new), end=None)
        found.append(operators.calls)
    assert (found[1] - found[0]).total() <= 142
