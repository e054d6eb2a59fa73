"""GPT's fine-tuning on several sequences of one sample: two texts in both orders, each answer behind what is given."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from reading import Reading as Names
from sentences import IDS, ORDINARY, SEGMENT, SPEC, learned, names, tokens
from torch import Tensor

from anyformer.architecture import Architecture, BackboneConfig, HeadConfig
from anyformer.batch import Batch, Example, counted, counts_together, pack
from anyformer.errors import ConfigError, SampleError
from anyformer.model import ForwardPass, Model, Network
from anyformer.objectives import Choice, Classification, Similarity, Traversal
from anyformer.tokens import Stream, StreamSpec, Tokens
from anyformer_tokenizers.label import ChoiceTokenizer, LabelTokenizer

RNG = np.random.default_rng(0)
LABEL, ROW = StreamSpec.discrete("label", 3, input=False), StreamSpec.continuous("label", 1, input=False)
PLACE = StreamSpec.continuous("choice", 1, input=False)
ALIKE = {"first": [SPEC], "second": [SPEC], "label": [LABEL]}
ASKED = {"document": [SPEC], "question": [SPEC], "a": [SPEC], "b": [SPEC], "c": [SPEC], "choice": [PLACE]}
SIMILARITY = Similarity().ready(ALIKE)
CHOICE = Choice(answers=["a", "b", "c"]).ready(ASKED)


def label(value: int) -> Tokens:
    return Tokens.of("label", torch.tensor([value]))


def place(value: int) -> Tokens:
    return Tokens.of("choice", torch.tensor([[float(value)]]))


def alike(first: str, second: str, value: int = 1) -> Example:
    return SIMILARITY.prepare({"first": tokens(first), "second": tokens(second), "label": label(value)}, RNG)


def asked(given: str, answers: list[str], right: int) -> Example:
    fields = {"question": tokens(given), **{n: tokens(a) for n, a in zip("abc", answers, strict=False)}}
    return CHOICE.prepare({**fields, "choice": place(right)}, RNG)


def sequences(example: Example) -> list[str]:
    return [names(one.tokens.streams["text"].values) for one in (example, *example.apart)]


def network() -> Network:
    """Large random weights, so that a leak between sequences would be seen."""
    torch.manual_seed(0)
    heads = {name: HeadConfig(bias=True) for name in ("label", "choice", "text")}
    made = Network([SPEC, SEGMENT, LABEL, PLACE], Architecture(BackboneConfig(8, 2, depth=2), heads))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.4)
    return made.eval()


def test_both_orders_of_a_pair_go_through_the_model():
    """start A delimiter B extract, and the other way round; the label behind both, next values in each."""
    example = alike("Thank you", "me", 2)
    assert sequences(example) == ["start Thank you delimiter me class", "start me delimiter Thank you class"]
    target = example.targets["label"]
    assert (target.values.tolist(), target.slots.tolist(), target.items.tolist()) == ([2], [5, 11], [[1, 2]])
    for one in (example, *example.apart):
        values = one.tokens.streams["text"].values
        assert one.prefix == 0 and one.tokens.positions[:, 0].tolist() == list(range(6))
        assert torch.equal(one.targets["text"].values, values[1:]) and one.targets["text"].slots.tolist() == [*range(5)]
    assert SIMILARITY.predicts(ALIKE) == ["label", "text"]


def test_each_answer_stands_behind_the_document_and_the_question():
    """[document; question; delimiter; answer], a sequence for each answer that there is; one number is read of each."""
    fields = {"document": tokens("Thank you"), "question": tokens("me"), "a": tokens("to"), "c": tokens("your party")}
    example = CHOICE.prepare({**fields, "choice": place(1)}, RNG)
    assert sequences(example) == [
        "start Thank you me delimiter to class",
        "start Thank you me delimiter your party class",
    ]
    target = example.targets["choice"]
    assert (target.values.tolist(), target.slots.tolist(), target.items.tolist()) == ([1], [6, 14], [[1, 2]])
    assert len(asked("me", ["to", "your", "party"], 0).apart) == 2
    assert CHOICE.predicts(ASKED) == ["choice", "text"]
    without = Choice(answers=["a", "b", "c"], weight=0).ready(ASKED).prepare({**fields, "choice": place(1)}, RNG)
    assert list(without.targets) == ["choice"] and not without.apart[0].targets


def test_a_prompt_has_the_same_sequences_and_no_targets():
    for objective, fields in (
        (SIMILARITY, {"first": tokens("me"), "second": tokens("your party"), "label": label(0)}),
        (CHOICE, {"a": tokens("me"), "b": tokens("your party"), "choice": place(1)}),
    ):
        example = objective.prepare(fields, RNG)
        prompt = objective.prepare({n: t for n, t in fields.items() if n not in ("label", "choice")}, RNG)
        assert sequences(prompt) == sequences(example) and len(prompt.apart) == 1
        assert not prompt.targets and not prompt.apart[0].targets


def test_a_label_is_read_from_the_sum_of_both_orders():
    """By the definition: the head of the added states, each computed alone."""
    model, example = network(), alike("Thank you for", "me to")
    forward = ForwardPass(model, pack([alike("week", "last"), example]))
    with torch.no_grad():
        said = SIMILARITY.read(forward, "label", forward.batch.targets[""]["label"])
        ends = [model(pack([Example(one.tokens, {})]))[-1] for one in (example, *example.apart)]
        assert torch.allclose(said[1], model.read("label", ends[0] + ends[1]), atol=1e-5)
        assert not torch.allclose(said[1], model.read("label", (ends[0] + ends[1]) / 2), atol=1e-3)


def test_a_choice_is_a_softmax_over_a_samples_own_answers():
    """−log softmax of one number an answer, whatever number of answers its neighbours have."""
    model, examples = network(), [asked("me", ["to", "your"], 1), asked("Thank you", ["week", "last week", "."], 2)]
    batch = pack(examples)
    loss = CHOICE.loss(ForwardPass(model, batch), batch.targets[""])
    wanted = 0.0
    for example, right in zip(examples, (1, 2), strict=True):
        with torch.no_grad():
            ends = [model(pack([Example(one.tokens, {})]))[-1] for one in (example, *example.apart)]
            wanted -= float(model.read("choice", torch.stack(ends))[:, 0].log_softmax(0)[right])
    assert math.isclose(float(loss.sum), wanted, rel_tol=1e-4)
    assert [(term.over, term.count) for term in loss.terms] == [
        ("choice", 2),
        ("text", float(sum(len(one.targets["text"].values) for e in examples for one in (e, *e.apart)))),
    ]
    assert counted(batch.counts[""]) == sum(term.count for term in loss.terms)


def slopes(model: Network, objective: Traversal, batch: Batch, counts: dict[str, float] | None = None) -> Tensor:
    """The gradient of the loss's mean for all weights as one row."""
    model.zero_grad()
    loss = objective.loss(ForwardPass(model, batch), batch.targets[""])
    torch.stack([t.sum / counts[str(t.over)] if counts else t.sum for t in loss.terms]).sum().backward()
    return torch.cat([torch.zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in model.parameters()])


WORD = st.integers(ORDINARY.start, ORDINARY.stop - 1)
TEXT = st.lists(WORD, min_size=1, max_size=4)
DRAWN = st.one_of(
    st.tuples(st.just("alike"), st.lists(TEXT, min_size=2, max_size=2)),
    st.tuples(st.just("asked"), st.lists(TEXT, min_size=2, max_size=4)),
)


def made(kind: str, texts: list[list[int]]) -> tuple[Traversal, Example]:
    if kind == "alike":
        first, second = map(tokens, texts)
        return SIMILARITY, SIMILARITY.prepare(
            {"first": first, "second": second, "label": label(len(texts[0]) % 3)}, RNG
        )
    given_, *answers = map(tokens, texts)
    fields = {"question": given_, **dict(zip("abc", answers, strict=False)), "choice": place(len(answers) - 1)}
    return CHOICE, CHOICE.prepare(fields, RNG)


@settings(max_examples=15)
@given(st.lists(DRAWN, min_size=1, max_size=4), st.integers(0, 5), st.randoms())
def test_samples_of_several_sequences_are_the_same_in_any_company(drawn, padding, random):
    """Gradients of a batch are the sum of those of each sample alone, in any order and padded."""
    model = network()
    pairs = [made(*each) for each in drawn]
    random.shuffle(pairs)
    for objective in (SIMILARITY, CHOICE):
        own = [example for each, example in pairs if each is objective]
        if own:
            alone = torch.stack([slopes(model, objective, pack([one])) for one in own]).sum(0)
            size = sum(one.size for one in own)
            together = slopes(model, objective, pack(own, pad_to=size + padding))
            assert torch.allclose(together, alone, atol=1e-4, rtol=1e-3)


def test_accumulation_is_exact():
    """Two micro-batches divided by the step's counts have the gradient of one batch."""
    model = network()
    examples = [asked("me", ["to", "your"], 1), asked("Thank you", ["week", "last week for", "."], 2)]
    whole = pack(examples)
    counts = counts_together([whole])[""]
    parts = torch.stack([slopes(model, CHOICE, pack([one]), counts) for one in examples]).sum(0)
    assert torch.allclose(parts, slopes(model, CHOICE, whole, counts), atol=1e-5, rtol=1e-4)


@given(st.lists(TEXT, min_size=2, max_size=5))
def test_lengths_are_those_of_all_sequences(texts):
    """Batches are planned with what will be laid, every sequence of it."""
    pair = {"first": tokens(texts[0]), "second": tokens(texts[1])}
    fields = dict(zip(("a", "b", "question", "c", "document"), map(tokens, texts), strict=False))
    for objective, own in ((SIMILARITY, pair), (CHOICE, fields)):
        lengths = {name: text.length for name, text in own.items()}
        assert objective.length(lengths) == objective.prepare(own, RNG).size


def test_regression_of_a_pair():
    """A row as the label: half the squared error is not taken, and both orders count."""
    objective = Similarity(weight=0).ready({**ALIKE, "label": [ROW]})
    torch.manual_seed(0)
    model = Network([SPEC, ROW], Architecture(BackboneConfig(8, 2), {"label": HeadConfig(bias=True)}))
    fields = {"first": tokens("me"), "second": tokens("you to"), "label": Tokens.of("label", torch.tensor([[0.5]]))}
    batch = pack([objective.prepare(fields, RNG)])
    forward = ForwardPass(model, batch)
    with torch.no_grad():
        said = model.read("label", forward.hidden[batch.targets[""]["label"].slots].sum(0))
        assert float(objective.loss(forward, batch.targets[""]).sum) == pytest.approx(float(said - 0.5) ** 2, rel=1e-4)


# What a model says of such targets


def model_of(heads: list[str]) -> Model:
    torch.manual_seed(0)
    tokenizers = {"text": Names(), "label": LabelTokenizer(names=["x", "y", "z"]), "choice": ChoiceTokenizer()}
    made = Model(tokenizers, {"dim": 8, "heads": 2}, heads)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.4)
    return made.eval()


def test_log_likelihoods_of_pooled_targets_and_of_places():
    """By their definitions: a label from the mean of its slots, a place among numbers, next values; alone as packed."""
    model = model_of(["text", "label", "choice"])
    meant = Classification(pooling="mean").ready({"text": [SPEC], "label": [LABEL]})
    first = meant.prepare({"text": tokens("Thank you for"), "label": label(2)}, RNG)
    second = asked("me to", ["your", "party last", "week"], 1)
    third = (
        Traversal().ready({"text": [SPEC], "label": [LABEL]}).prepare({"text": tokens("me"), "label": label(0)}, RNG)
    )
    (one, n), (two, m), (three, k) = model.log_likelihoods([first, second, third])
    with torch.no_grad():
        said = model.read("label", model(pack([first])).mean(0)).log_softmax(0)
        assert n == 1 and one == pytest.approx(float(said[2]), rel=1e-4)
        ends, nats = [], 0.0
        for each in (second, *second.apart):
            hidden, values = model(pack([Example(each.tokens, {})])), each.tokens.streams["text"].values
            ends.append(model.read("choice", hidden[-1:])[0, 0])
            nats -= float(F.cross_entropy(model.read("text", hidden[:-1]), values[1:], reduction="sum"))
        assert two == pytest.approx(nats + float(torch.stack(ends).log_softmax(0)[1]), rel=1e-4)
    assert m == 1 + sum(each.tokens.length - 1 for each in (second, *second.apart)) and k == 1 + 2
    small = model.log_likelihoods([third, second, first], token_budget=1)
    assert [value for value, _ in small] == pytest.approx([three, two, one], rel=1e-4)


def test_log_likelihoods_as_an_objective_reads_them():
    """Where both orders are added, the objective says so."""
    model, example = model_of(["label", "text"]), alike("Thank you", "me", 1)
    ((meant, _),) = model.log_likelihoods([example])
    ((added, count),) = model.log_likelihoods([example], read=SIMILARITY.read)
    forward = ForwardPass(model, pack([example]))
    loss = SIMILARITY.loss(forward, forward.batch.targets[""])
    label_, text = (float(term.sum.detach()) for term in loss.terms)
    assert added == pytest.approx(-label_ - text / SIMILARITY.weight, rel=1e-4) and count == 1 + 5 + 5
    assert abs(meant - added) > 1e-3


def test_what_has_no_probability_is_refused():
    model, text = model_of(["text", "label", "choice"]), tokens("Thank you for me")
    row = Stream.whole(torch.zeros(1, 1), torch.tensor([0]))
    with pytest.raises(ConfigError, match="'choice' is continuous; only discrete values"):
        model.log_likelihoods([Example(text, {"choice": row})])
    fewer = Stream(torch.tensor([1, 2]), torch.arange(3), torch.tensor([[2, 3]]))
    with pytest.raises(ConfigError, match=r"2 values in 1 items of 3 slots; expected one value a slot, or one an item"):
        model.log_likelihoods([Example(text, {"label": fewer})])


def test_several_sequences_cannot_be_continued():
    model = model_of(["text"])
    prompt = CHOICE.prepare({"a": tokens("me"), "b": tokens("to")}, RNG)
    with pytest.raises(SampleError, match=r"of several sequences; expected one, to go on from"):
        model.generate([prompt], "text", 2)


def test_what_does_not_fit_is_refused():
    with pytest.raises(SampleError, match=r"compares two texts; the sample has 1: first"):
        SIMILARITY.prepare({"first": tokens("me"), "label": label(0)}, RNG)
    with pytest.raises(SampleError, match=r"number 2 of 2, counted from 0"):
        asked("me", ["to", "your"], 2)
    with pytest.raises(SampleError, match=r"needs answers in the fields \['a', 'b', 'c'\]"):
        CHOICE.prepare({"question": tokens("me"), "choice": place(0)}, RNG)
    with pytest.raises(ConfigError, match=r"'label' of 3 values; expected one of one feature.*type choice"):
        Choice(target="label", answers=["first", "second"]).predicts(ALIKE)
    with pytest.raises(ConfigError, match=r"field 'third'"):
        Choice(answers=["first", "third"]).predicts({**ALIKE, "choice": [PLACE]})
    with pytest.raises(ConfigError, match=r"similarity|weight=-1"):
        Similarity(weight=-1)


# They are learned


def test_gpt_learns_what_is_alike():
    """Whether two texts are one, in whichever order."""
    words = [RNG.choice(ORDINARY, 3).tolist() for _ in range(32)]
    fields = [
        {"first": tokens(a), "second": tokens(a if i % 2 else b), "label": label(i % 2)}
        for i, (a, b) in enumerate(zip(words, words[::-1], strict=True))
    ]
    before, after = learned("gpt1", Similarity(weight=0.1).ready(ALIKE), fields, [SPEC, LABEL], ["label", "text"])
    assert after < 0.7 * before


def test_gpt_learns_to_choose():
    """The answer that repeats the question, among two or three."""
    fields = []
    for i in range(32):
        texts = [RNG.choice(ORDINARY, 2).tolist() for _ in range(2 + i % 2)]
        right = i % len(texts)
        answers = {name: tokens(text) for name, text in zip("abc", texts, strict=False)}
        fields.append({"question": tokens(texts[right]), **answers, "choice": place(right)})
    objective = Choice(weight=0.1, answers=["a", "b", "c"]).ready(ASKED)
    before, after = learned("gpt1", objective, fields, [SPEC, PLACE], ["choice", "text"])
    assert after < 0.7 * before
    assert IDS["delimiter"] in objective.prepare(fields[0], RNG).tokens.streams["text"].values.tolist()
