"""What each objective predicts from where, on sequences small enough to write down, and what its loss adds up to."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from anyformer.architecture import Architecture, BackboneConfig, HeadConfig
from anyformer.batch import counted, pack
from anyformer.contracts import Sample, Task, Tokenizer, prepare
from anyformer.errors import ConfigError, SampleError
from anyformer.model import ForwardPass, Network
from anyformer.objectives import NextToken, Prefix, ReturnConditioned
from anyformer.objectives.loss import cross_entropy
from anyformer.tokens import Stream, StreamSpec, Tokens

RNG = np.random.default_rng(0)
TEXT = StreamSpec.discrete("text", 9)
PATCH = StreamSpec.continuous("patch", 2, rank=2)
RETURN, STATE = StreamSpec.continuous("rl.return", 1), StreamSpec.continuous("rl.state", 3)
DISCRETE, BOX = StreamSpec.discrete("rl.action", 4), StreamSpec.continuous("rl.action", 2)


def words(*values: int, name: str = "text") -> Tokens:
    return Tokens.of(name, torch.tensor(values, dtype=torch.int64))


def picture() -> Tokens:
    """Two patches side by side."""
    return Tokens({"patch": Stream.whole(torch.ones(2, 2))}, 2, torch.tensor([[0, 0], [0, 1]]))


def episode(actions: torch.Tensor) -> Tokens:
    """Return, state, action, … at slots 0::3, 1::3, 2::3."""
    steps = len(actions)
    rows = {"rl.return": torch.zeros(steps, 1), "rl.state": torch.zeros(steps, 3), "rl.action": actions}
    streams = {n: Stream.whole(v, torch.arange(at, 3 * steps, 3)) for at, (n, v) in enumerate(rows.items())}
    return Tokens(streams, 3 * steps, torch.arange(steps).repeat_interleave(3)[:, None])


def said(targets: dict[str, Stream]) -> dict[str, list]:
    """Targets as {stream: [(slot, value), …]}; they are aligned, so items say as much."""
    for target in targets.values():
        assert target.items.tolist() == [[len(target.values), len(target.slots)]]
    return {
        name: list(zip(target.slots.tolist(), target.values.tolist(), strict=True)) for name, target in targets.items()
    }


# next_token


def test_next_token_predicts_each_value_from_the_slot_before():
    """The first value of all is given, every other one is predicted; nobody sees ahead."""
    example = NextToken().prepare({"text": words(5, 6, 7)}, RNG)
    assert said(example.targets) == {"text": [(0, 6), (1, 7)]}
    assert example.prefix == 0
    assert example.tokens.length == 3


def test_next_token_crosses_fields():
    """A caption's first word is read from the picture's last patch; patches are not predicted."""
    example = NextToken().prepare({"image": picture(), "caption": words(3, 4)}, RNG)
    assert said(example.targets) == {"text": [(1, 3), (2, 4)]}
    assert example.tokens.positions.tolist() == [[0, 0], [0, 1], [2, 2], [3, 3]]
    turned = NextToken().prepare({"caption": words(3, 4), "image": picture()}, RNG)
    assert said(turned.targets) == {"text": [(0, 4)]}


def test_next_token_of_two_streams_gives_each_its_own():
    """Interleaved names keep their values apart."""
    fields = {"a": words(1, 2), "b": words(7, 8, name="speech"), "c": words(3)}
    example = NextToken().prepare(fields, RNG)
    assert said(example.targets) == {"text": [(0, 2), (3, 3)], "speech": [(1, 7), (2, 8)]}


def test_next_token_without_anything_to_say_has_no_targets():
    """One value, no value, or features alone: an example, with nothing to predict."""
    for fields in ({"text": words(4)}, {"text": words()}, {"image": picture()}):
        assert NextToken().prepare(fields, RNG).targets == {}


def test_next_token_heads():
    """One head for each discrete stream, once; none at all is refused."""
    specs = {"image": [PATCH], "text": [TEXT], "more": [TEXT, StreamSpec.discrete("speech", 3)]}
    assert NextToken().predicts(specs) == ["text", "speech"]
    with pytest.raises(ConfigError, match=r"needs a discrete stream; the fields \['image'\]"):
        NextToken().predicts({"image": [PATCH]})


# prefix


def test_prefix_predicts_the_target_alone():
    """The context is bidirectional and not predicted; the target's first value comes from the last slot of it."""
    example = Prefix("caption").prepare({"image": picture(), "hint": words(8), "caption": words(3, 4)}, RNG)
    assert said(example.targets) == {"text": [(2, 3), (3, 4)]}
    assert example.prefix == 3


def test_prefix_lays_its_target_last():
    """Whatever the order of the fields: nothing else may stand behind what is generated."""
    example = Prefix("answer").prepare({"answer": words(5), "question": words(1, 2)}, RNG)
    assert example.tokens.streams["text"].values.tolist() == [1, 2, 5]
    assert said(example.targets) == {"text": [(1, 5)]}
    assert example.prefix == 2


def test_a_prompt_is_the_example_without_its_answer():
    """A sample without the target gives the same context, positions included, and no targets."""
    fields = {"image": picture(), "hint": words(8)}
    prompt = Prefix("caption").prepare(fields, RNG)
    whole = Prefix("caption").prepare({**fields, "caption": words(3)}, RNG)
    assert (prompt.prefix, prompt.targets, prompt.tokens.length) == (whole.prefix, {}, 3)
    assert torch.equal(prompt.tokens.positions, whole.tokens.positions[:3])


def test_prefix_needs_a_context():
    """Without one, the first value would be predicted from nothing."""
    for fields in ({"answer": words(1)}, {}, {"question": words(), "answer": words(1)}):
        with pytest.raises(SampleError, match="needs a context before 'answer'"):
            Prefix().prepare(fields, RNG)


def test_an_empty_answer_is_nothing_to_predict():
    """The target field is there, with no value in it."""
    example = Prefix().prepare({"question": words(1), "answer": words()}, RNG)
    assert (example.targets, example.prefix) == ({}, 1)


def test_a_context_may_have_fewer_slots_than_values():
    """Only what is predicted must have a slot for every value."""
    codes = Tokens({"codes": Stream.whole(torch.tensor([1, 2, 3]), torch.arange(2))}, 2, torch.arange(2)[:, None])
    example = Prefix().prepare({"question": codes, "answer": words(4)}, RNG)
    assert said(example.targets) == {"text": [(1, 4)]}
    with pytest.raises(ConfigError, match="'codes' has fewer slots than values"):
        Prefix().prepare({"question": words(4), "answer": codes}, RNG)


def test_prefix_heads():
    """The target's discrete streams; an unknown field or one of features is refused."""
    specs = {"image": [PATCH], "answer": [TEXT]}
    assert Prefix().predicts(specs) == ["text"]
    with pytest.raises(ConfigError, match=r"field 'anser'.*Did you mean 'answer'"):
        Prefix("anser").predicts(specs)
    with pytest.raises(ConfigError, match="discrete target; the field 'image'"):
        Prefix("image").predicts(specs)


# return_conditioned


def test_return_conditioned_reads_actions_from_states():
    """Each action from the slot before it; returns and states are given. Discrete actions and rows alike."""
    example = ReturnConditioned().prepare({"episode": episode(torch.tensor([3, 0]))}, RNG)
    assert said(example.targets) == {"rl.action": [(1, 3), (4, 0)]}
    assert example.prefix == 0
    rows = ReturnConditioned().prepare({"episode": episode(torch.tensor([[0.5, -1.0]]))}, RNG)
    assert said(rows.targets) == {"rl.action": [(1, [0.5, -1.0])]}


def test_a_trajectory_without_actions_is_a_prompt():
    """What a session starts from."""
    start = Tokens({"rl.state": Stream.whole(torch.zeros(1, 3))}, 1, torch.tensor([[0]]))
    assert ReturnConditioned().prepare({"episode": start}, RNG).targets == {}
    with pytest.raises(SampleError, match=r"needs the field 'episode'; the sample has \['text'\]"):
        ReturnConditioned().prepare({"text": words(1)}, RNG)


def test_return_conditioned_heads():
    """The action stream, by name; wrong names are told with the nearest."""
    specs = {"episode": [RETURN, STATE, DISCRETE]}
    assert ReturnConditioned().predicts(specs) == ["rl.action"]
    with pytest.raises(ConfigError, match="field 'run'"):
        ReturnConditioned(field="run").predicts(specs)
    with pytest.raises(ConfigError, match=r"stream 'rl\.actoin'.*Did you mean 'rl\.action'"):
        ReturnConditioned(action="rl.actoin").predicts(specs)


# Losses


def network(*specs: StreamSpec, heads: list[str]) -> Network:
    torch.manual_seed(0)
    made = Network(specs, Architecture(BackboneConfig(8, 2, depth=1), {name: HeadConfig(bias=True) for name in heads}))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.4)
    return made


def test_a_cross_entropy_is_summed_over_its_values():
    """Sum, count and parts against logits read one by one."""
    model = network(TEXT, StreamSpec.discrete("speech", 9), heads=["text", "speech"])
    objective = NextToken()
    examples = [
        objective.prepare({"text": words(1, 2, 3)}, RNG),
        objective.prepare({"text": words(5), "speech": words(8, 0, name="speech")}, RNG),
    ]
    batch = pack(examples)
    loss = objective.loss(ForwardPass(model, batch), batch.targets[""])
    hidden = model(batch)
    wanted = {
        name: sum(-float(model.read(name, hidden[slot][None])[0].log_softmax(-1)[value]) for slot, value in pairs)
        for name, pairs in {"text": [(0, 2), (1, 3)], "speech": [(3, 8), (4, 0)]}.items()
    }
    assert math.isclose(float(loss.sum), sum(wanted.values()), rel_tol=1e-5)
    assert loss.count == 4 == counted(batch.counts[""])
    assert {name: round(float(part), 3) for name, part in loss.parts.items()} == {
        name: round(value, 3) for name, value in wanted.items()
    }


def test_a_single_stream_needs_no_parts():
    """The log would only repeat the sum."""
    model = network(TEXT, heads=["text"])
    batch = pack([NextToken().prepare({"text": words(1, 2)}, RNG)])
    assert not NextToken().loss(ForwardPass(model, batch), batch.targets[""]).parts


def test_a_regression_is_averaged_over_features_and_summed_over_rows():
    """Squared error of continuous actions, so that its weight does not grow with their width."""
    model = network(RETURN, STATE, BOX, heads=["rl.action"])
    objective, actions = ReturnConditioned(), torch.tensor([[0.5, -1.0], [2.0, 0.0], [1.0, 1.0]])
    batch = pack([objective.prepare({"episode": episode(part)}, RNG) for part in (actions[:2], actions[2:])])
    loss = objective.loss(ForwardPass(model, batch), batch.targets[""])
    answers = model.read("rl.action", model(batch)[[1, 4, 7]])
    assert math.isclose(float(loss.sum), float((answers - actions).square().mean(1).sum()), rel_tol=1e-5)
    assert loss.count == 3


def test_a_loss_is_computed_in_float32():
    """Where heads answer in bfloat16, a sum of many values in that precision would be far off."""
    model = network(TEXT, heads=["text"]).bfloat16()
    batch = pack([NextToken().prepare({"text": words(*(n % 9 for n in range(300)))}, RNG)])
    forward = ForwardPass(model, batch)
    loss = NextToken().loss(forward, batch.targets[""])
    logits = forward.read("text", batch.targets[""]["text"])
    assert (logits.dtype, loss.sum.dtype) == (torch.bfloat16, torch.float32)
    wanted = F.cross_entropy(logits.double(), batch.targets[""]["text"].values, reduction="sum")
    assert math.isclose(float(loss.sum), float(wanted), rel_tol=1e-4)


# Preparing samples of a task


class Letters(Tokenizer):
    """Lower-case letters as numbers."""

    @property
    def streams(self):
        return (TEXT,)

    def encode(self, raw: str) -> Tokens:
        if not raw.islower():
            raise SampleError(f"{raw!r} is not in lower case.")
        return words(*(ord(letter) - ord("a") for letter in raw))

    def decode(self, tokens: Tokens) -> str:
        return "".join(chr(ord("a") + value) for value in tokens.streams["text"].values)

    def length(self, raw: str) -> int:
        return len(raw)

    def example(self, rng: np.random.Generator) -> str:
        return "abc"


class Riddles(Task):
    """A question and its answer."""

    fields = {"question": "letters", "answer": "letters"}  # noqa: RUF012
    modality = "text"
    metrics = ()

    def default_objective(self) -> Prefix:
        return Prefix("answer")

    def examples(self, split):
        return []

    def score(self, model, samples):
        yield from ()


TOKENIZERS = {"letters": Letters("letters")}


def test_fields_are_laid_in_the_tasks_order():
    """Whatever order a sample has them in; the example carries the task's name and the sample's id."""
    task = Riddles()
    task.objective = NextToken()
    sample = Sample("7", {"answer": "c", "question": "ab"})
    example = prepare("riddles", task, TOKENIZERS, sample, RNG)
    assert example.tokens.streams["text"].values.tolist() == [0, 1, 2]
    assert (example.task, example.key) == ("riddles", "7")
    assert said(example.targets) == {"text": [(0, 1), (1, 2)]}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"question": "ab", "answer": "C"}, "'C' is not in lower case"),
        ({"answer": "c"}, "needs a context before 'answer'"),
    ],
)
def test_an_unusable_sample_is_named(values, message):
    """By task and id, whether its tokenizer or its objective refused it."""
    with pytest.raises(SampleError, match=f"^Task 'riddles', sample '7': .*{message}"):
        prepare("riddles", Riddles(), TOKENIZERS, Sample("7", values), RNG)


def test_a_field_that_the_task_does_not_have_is_named():
    """A misspelt field is not silently left out."""
    with pytest.raises(ConfigError, match=r"field 'anwser'.*Did you mean 'answer'"):
        prepare("riddles", Riddles(), TOKENIZERS, Sample("7", {"question": "a", "anwser": "b"}), RNG)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@given(
    rows=st.integers(1, 6), width=st.integers(1, 9), scale=st.sampled_from([1e-3, 1.0, 300.0]), seed=st.integers(0, 99)
)
def test_cross_entropy_is_torchs(smoothing, rows, width, scale, seed):
    """Value and gradient, where logits are huge too; only its memory is another."""
    torch.manual_seed(seed)
    said = (torch.randn(rows, width, dtype=torch.float64) * scale).requires_grad_()
    wanted = torch.randint(width, (rows,))
    total, nats = cross_entropy(said, wanted, smoothing)
    expected = F.cross_entropy(said, wanted, reduction="sum", label_smoothing=smoothing)
    assert torch.allclose(total, expected, rtol=1e-12, atol=1e-12)
    assert torch.allclose(nats, F.cross_entropy(said, wanted, reduction="sum"), rtol=1e-12, atol=1e-12)
    (ours,) = torch.autograd.grad(3 * total, said)
    (theirs,) = torch.autograd.grad(3 * expected, said)
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)


def test_the_gradient_of_a_cross_entropy_is_had_once():
    """Its memory became the gradient: a second one would be wrong, so it is refused."""
    said = torch.randn(2, 3, requires_grad=True)
    total, nats = cross_entropy(said, torch.tensor([0, 2]))
    assert total.requires_grad and not nats.requires_grad
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="computed before"):
        total.backward()
