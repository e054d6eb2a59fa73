"""A compiled step says what the step says: for any lengths, as beams change places, as a cache grows; and one graph of
it serves them all."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from test_compiling import Graphs

import anyformer as af
from anyformer.architecture import Architecture, BackboneConfig
from anyformer.batch import Example
from anyformer.errors import ConfigError, SampleError
from anyformer.model import Beams, Model, Session
from anyformer.sublayers import set_backend
from anyformer.tokens import Tokens

SELF, CROSS = ("attention", "feed_forward"), ("attention", "cross_attention", "feed_forward")

KINDS: dict[str, dict[str, Any]] = {
    "learned positions": {"positions": {"type": "learned", "size": 400}},
    "rotary, gated, fewer key heads": {
        "positions": {"type": "rotary"}, "gated": True, "norm": "rms", "activation": "silu", "kv_heads": 2,
    },
    "sinusoids, norms behind": {"positions": {"type": "sinusoidal"}, "norm_placement": "post"},
    "a window in every second layer": {"positions": {"type": "rotary"}, "window": (3, None), "depth": 2},
    "chunks": {"positions": {"type": "rotary"}, "chunk": (4, 1)},
    "a source": {"positions": {"type": "sinusoidal"}, "recipe": CROSS},
}  # fmt: skip

BOUND = 5
"""Graphs of a stack: a linear map of one row, of two, of up to eight, of up to 32 and of more reads its weights in ways
of their own."""


def made(settings: dict[str, Any], seed: int = 0) -> Model:
    torch.manual_seed(seed)
    backbone = BackboneConfig.of({"dim": 64, "heads": 4, "depth": 1, "hidden": 64, **settings}, "backbone")
    streams, encoder, source = {"text": {"vocab_size": 31}}, None, ()
    if "cross_attention" in backbone.recipe:
        streams, source = {**streams, "heard": {"vocab_size": 9}}, ("heard",)
        encoder = BackboneConfig(64, 2, hidden=16, causal=False)
    return Model.of(Architecture(backbone, {"text": {}}, streams, encoder, source)).eval()


def sources(model: Model, count: int) -> list[Example] | None:
    if model.encoder is None:
        return None
    return [Example(Tokens.of("heard", torch.arange(3 + n) % 9), {}) for n in range(count)]


def begun(model: Model, lengths: list[int]) -> Session:
    """Sequences of these lengths that have read their sources."""
    session = model.session(len(lengths), source=sources(model, len(lengths)))
    session.append([Tokens.of("text", torch.arange(length) * 7 % 31) for length in lengths])
    return session


def step(session: Session, number: int) -> torch.Tensor:
    """One more value for everybody, another for each."""
    values = [(number * 5 + row) % 31 for row in range(len(session.lengths))]
    return session.append_values("text", values, session.lengths)


@pytest.mark.parametrize("kind", KINDS)
def test_a_compiled_step_says_what_the_step_says(kind):
    """Sequences of unequal lengths, cut, chosen among and going on, from a cache that grows on the way."""
    model = made(KINDS[kind])
    plain = begun(model, [9, 2, 130])
    graphs = Graphs()
    model.compile_steps(graphs)
    fused = begun(model, [9, 2, 130])
    for session in (plain, fused):
        session.cache.keep(session.cache.store[..., : max(session.lengths) + 2, :].clone())
        session.cache.positions = session.cache.positions[:, : session.cache.capacity].clone()
    for number in range(12):
        if number == 4:
            for session in (plain, fused):
                session.cut([length - 1 for length in session.lengths])
        if number in (6, 9):
            for session in (plain, fused):
                session.select([2, 0, 0, 1] if number == 6 else [3, 1, 0])
        torch.testing.assert_close(step(fused, number), step(plain, number), rtol=1e-4, atol=1e-5)
    assert fused.lengths == plain.lengths
    assert 1 <= graphs.count <= BOUND


def test_few_graphs_serve_all_steps():
    """For one sequence and for many, short and long; the same ones in the next session."""
    model, graphs, counts = made(KINDS["a source"]), Graphs(), []
    model.compile_steps(graphs)
    for count in (1, 2, 3, 7, 16, 20, 40, 5, 33, 1):
        session = begun(model, [count] * count)
        for number in range(3):
            step(session, number)
        counts.append(graphs.count)
    assert counts[0] == 1
    assert counts[6] == counts[-1] <= BOUND


def test_answers_of_a_compiled_model_are_the_same():
    """Greedy ones that end at different times, and beams."""
    model = made(KINDS["learned positions"])
    prompts = [Example(Tokens.of("text", torch.arange(n) * 3 % 31), {}) for n in (1, 5, 9, 4)]
    wanted = model.generate(prompts, "text", 20, af.GREEDY, end=4), model.beam_search(prompts, "text", Beams(3, 12))
    graphs = Graphs()
    model.compile_steps(graphs)
    found = model.generate(prompts, "text", 20, af.GREEDY, end=4), model.beam_search(prompts, "text", Beams(3, 12))
    assert graphs.count
    for one, other in zip(found[0], wanted[0], strict=True):
        assert torch.equal(one.streams["text"].values, other.streams["text"].values)
    for one, other in zip(found[1], wanted[1], strict=True):
        assert [each.score for each in one] == pytest.approx([each.score for each in other], abs=1e-4)


def test_weights_are_read_when_a_step_is_made():
    """What is trained, loaded or cast after the graph was made counts."""
    model = made(KINDS["learned positions"])
    model.compile_steps(Graphs())
    step(begun(model, [3]), 0)
    other = made(KINDS["learned positions"], seed=1)
    model.load_state_dict(other.state_dict())
    torch.testing.assert_close(step(begun(model, [3]), 0), step(begun(other, [3]), 0), rtol=1e-4, atol=1e-5)
    assert step(begun(model.bfloat16(), [3]), 0).dtype == torch.bfloat16


def test_each_model_has_graphs_of_its_own():
    """More models than torch.compile makes graphs of one function for."""
    graphs = Graphs()
    models = [made({"positions": {"type": "rotary"}, "dim": 8 * n, "heads": 2}) for n in range(1, 5)]
    with torch._dynamo.config.patch(recompile_limit=2):
        for model in models:
            model.compile_steps(graphs)
            step(begun(model, [2, 3]), 0)
    assert graphs.count == len(models)


def test_a_copy_is_as_the_model_was_made():
    """It would run the graph of other weights."""
    model = made(KINDS["learned positions"])
    model.compile_steps(Graphs())
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.steps is None
        torch.testing.assert_close(step(begun(other, [3]), 0), step(begun(model, [3]), 0), rtol=1e-4, atol=1e-5)
    assert model.steps is not None


def test_what_the_graph_does_not_know_is_passed_as_before():
    """Dropout, and a back end of attention that was asked for."""
    graphs = Graphs()
    model = made({"positions": {"type": "rotary"}, "attention_dropout": 0.5})
    model.compile_steps(graphs)
    step(begun(model.train(), [3]), 0)
    with set_backend("eager"):
        step(begun(model.eval(), [3]), 0)
    assert graphs.count == 0
    step(begun(model, [3]), 0)
    assert graphs.count == 1


def test_a_position_without_a_row_is_refused():
    """By the same words."""
    model = made({"positions": {"type": "learned", "size": 5}})
    model.compile_steps(Graphs())
    session = begun(model, [4])
    step(session, 0)
    with pytest.raises(SampleError, match="stands at position 5, but the table of positions ends at 4"):
        step(session, 1)


@pytest.mark.parametrize("settings", [{"positions": {"type": "buckets"}}, {"experts": 3, "top_k": 1}])
def test_what_has_no_one_graph_is_refused(settings):
    with pytest.raises(ConfigError, match="No one graph serves all steps"):
        made(settings).compile_steps()


def test_a_recurrent_stack_has_no_steps():
    recurrent = {"type": "recurrent_encoder", "dim": 4, "hidden": 4}
    model = Model({}, recurrent, {}, streams={"letters": {"vocab_size": 5}})
    with pytest.raises(ConfigError, match="recurrent"):
        model.compile_steps()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["learned positions", "a source"])
def test_inductor_says_what_the_step_says(kind):
    """The graph that is used, in C++."""
    torch._dynamo.reset()
    model = made(KINDS[kind])
    plain = begun(model, [9, 2, 40])
    model.compile_steps()
    fused = begun(model, [9, 2, 40])
    for number in range(4):
        torch.testing.assert_close(step(fused, number), step(plain, number), rtol=1e-4, atol=1e-5)
