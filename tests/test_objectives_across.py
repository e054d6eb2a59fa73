"""Sequence to sequence: the target shifted behind its start, and label smoothing that adds up."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sentences import IDS, SPEC, counting, learned, ready, tokens

from anyformer.architecture import Architecture, BackboneConfig, HeadConfig, preset, reduced, without
from anyformer.batch import pack
from anyformer.errors import ConfigError, SampleError
from anyformer.model import ForwardPass, Model, Network
from anyformer.objectives import SequenceToSequence
from anyformer.tokens import Stream, StreamSpec, Tokens

RNG = np.random.default_rng(0)
FRAMES = StreamSpec.continuous("audio", 3)
BOTH = ("source", "target")


def example_of(target: str, **settings):
    fields = {"source": tokens("Thank you"), "target": tokens(target)}
    return ready(SequenceToSequence(**settings), *BOTH).prepare(fields, RNG)


@pytest.mark.parametrize(
    ("target", "start", "given", "said"),
    [
        ("me to", "start", "start me to", "me to end"),
        ("me to end", "start", "start me to", "me to end"),
        ("start me to end", "start", "start me to", "me to end"),
        ("me to end", "pad", "pad me to", "me to end"),
        ("start me end", "end", "end start me", "start me end"),
        ("end", "start", "start", "end"),
        ("", "start", "start", "end"),
    ],
    ids=["plain", "ended", "template", "t5", "bart", "empty in a template", "empty"],
)
def test_the_target_is_shifted_behind_its_start(target, start, given, said):
    """Each value is read from the slot before it; ends and starts are there once, whatever the tokenizer adds."""
    example = example_of(target, start=start)
    ids = lambda text: [IDS[name] for name in text.split()]  # noqa: E731
    assert example.tokens.streams["text"].values.tolist() == ids(given)
    assert example.targets["text"].values.tolist() == ids(said)
    assert example.targets["text"].slots.tolist() == list(range(len(ids(said))))
    assert example.prefix == 0
    assert example.source is not None and example.source.prefix == 2
    assert example.source.tokens.streams["text"].values.tolist() == ids("Thank you")


def test_all_other_fields_are_the_source():
    """Whatever they carry, in the task's order; the target's place in it does not matter."""
    sound = Tokens({"audio": Stream.whole(torch.ones(4, 3))}, 4, torch.arange(4)[:, None])
    fields = {"clip": sound, "target": tokens("me"), "hint": tokens("you")}
    objective = SequenceToSequence().ready({"clip": [FRAMES], "target": [SPEC], "hint": [SPEC]})
    example = objective.prepare(fields, RNG)
    assert example.source is not None
    assert list(example.source.tokens.streams) == ["audio", "text"]
    assert example.source.tokens.length == example.source.prefix == 5
    assert objective.predicts({"clip": [FRAMES], "target": [SPEC], "hint": [SPEC]}) == ["text"]


def test_a_prompt_is_the_source_and_the_start():
    """Generation goes on from there, and its first answer is what training would have said."""
    objective = ready(SequenceToSequence(), *BOTH)
    prompt = objective.prepare({"source": tokens("Thank you")}, RNG)
    assert prompt.tokens.streams["text"].values.tolist() == [IDS["start"]] and prompt.targets == {}
    torch.manual_seed(0)
    small = reduced(preset("t5-small"))
    specs = without(small, ["text"])
    model = Model({}, **{**vars(specs), "streams": {"text": {"vocab_size": 64, "end": IDS["end"]}}}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    (said,) = model.generate([prompt], "text", max_new=5)
    answer = said.streams["text"].values
    whole = objective.prepare({"source": tokens("Thank you"), "target": tokens(answer.tolist())}, RNG)
    batch = pack([whole])
    best = model.read("text", model(batch)).argmax(-1)
    assert best[: len(answer)].tolist() == answer.tolist()


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_label_smoothing_adds_up(smoothing):
    """(1 - ε) · nll + ε · the mean over the vocabulary, summed over values; the count is of values."""
    torch.manual_seed(0)
    stack = {"dim": 8, "heads": 2, "depth": 1}
    architecture = Architecture(
        BackboneConfig(8, 2, recipe=("attention", "cross_attention", "feed_forward")),
        {"text": HeadConfig(bias=True)},
        encoder=BackboneConfig(**stack),
        source=("text",),
    )
    model = Network([SPEC], architecture)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    objective = SequenceToSequence(smoothing=smoothing)
    batch = pack([example_of("me to"), example_of("your party last")])
    loss = objective.loss(ForwardPass(model, batch), batch.targets[""])
    log_p = model.read("text", model(batch)).double().log_softmax(-1)
    wanted = batch.targets[""]["text"].values.tolist()
    nats = [-float(row[value]) for row, value in zip(log_p, wanted, strict=True)]
    even = [-float(row.mean()) for row in log_p]
    whole = sum((1 - smoothing) * a + smoothing * b for a, b in zip(nats, even, strict=True))
    assert math.isclose(float(loss.sum), whole, rel_tol=1e-5)
    assert loss.count == 7
    if 0 < smoothing < 1:
        assert math.isclose(float(loss.parts["nats"]), sum(nats), rel_tol=1e-5)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match=r"smoothing=1.1; expected a number from 0 to 1"):
        SequenceToSequence(smoothing=1.1)
    with pytest.raises(ConfigError, match=r"field 'target'.*expected one of: text"):
        SequenceToSequence().predicts({"text": [SPEC]})
    with pytest.raises(ConfigError, match=r"role 'begin'; its roles are: .*start"):
        ready(SequenceToSequence(start="begin"), *BOTH)
    with pytest.raises(SampleError, match=r"needs a source for 'target'"):
        ready(SequenceToSequence(), *BOTH).prepare({"target": tokens("me")}, RNG)
    endless = StreamSpec.discrete("text", 64, special={"start": 1})
    with pytest.raises(SampleError, match=r"is empty, and the stream has no end to say"):
        ready(SequenceToSequence(), *BOTH, spec=endless).prepare({"source": tokens("you"), "target": tokens("")}, RNG)


@pytest.mark.parametrize("model", ["transformer-base", "t5-small", "marian"])
def test_translators_learn_it(model):
    """A few steps of saying a run backwards."""
    rng = np.random.default_rng(0)
    runs = [counting(rng, 6) for _ in range(32)]
    samples = [{"source": tokens(run), "target": tokens([*run[::-1], IDS["end"]])} for run in runs]
    objective = ready(SequenceToSequence(smoothing=0.1), *BOTH)
    before, after = learned(model, objective, samples, [SPEC], ["text"])
    assert before > 3 and after < 0.75 * before
