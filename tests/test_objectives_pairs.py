"""Next sentence, sentence order, and BERT's pre-training of both tasks in one example."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sentences import IDS, ORDINARY, SEGMENT, SPEC, counting, learned, names, same, tokens

from anyformer.architecture import Architecture, BackboneConfig, HeadConfig
from anyformer.batch import Example, counted, pack
from anyformer.errors import ConfigError, SampleError
from anyformer.model import ForwardPass, Network
from anyformer.objectives import NextSentence, Pretraining, SentenceOrder
from anyformer.tokens import StreamSpec, Tokens

NEXT, ORDER = (StreamSpec.discrete(name, 2, input=False) for name in ("next_sentence", "sentence_order"))
TEXT = [SPEC, SEGMENT]
THREE = {"first": TEXT, "second": TEXT, "other": TEXT, "next_sentence": [NEXT]}
TWO = {"first": TEXT, "second": TEXT, "sentence_order": [ORDER]}
FIELDS = {"first": tokens("start Thank you end"), "second": tokens("start for me end"), "other": tokens("last week")}


def shown(example: Example) -> str:
    return names(example.tokens.streams["text"].values)


def label_of(example: Example, name: str) -> int:
    target = example.targets[name]
    assert target.slots.tolist() == [0] and target.items.tolist() == [[1, 1]]
    return int(target.values[0])


def test_half_of_the_pairs_go_on():
    """BERT, task 2: 0 and the text that follows, or 1 and another, each in half of the samples."""
    objective, rng, labels = NextSentence().ready(THREE), np.random.default_rng(0), []
    for _ in range(1000):
        example = objective.prepare(FIELDS, rng)
        labels.append(label_of(example, "next_sentence"))
        second = "last week" if labels[-1] else "for me"
        assert shown(example) == f"class Thank you separator {second} separator"
        assert example.tokens.streams["text.segment"].values.tolist() == [0, 0, 0, 0, 1, 1, 1]
        assert example.prefix == 7
    assert abs(np.mean(labels) - 0.5) < 0.06


def test_half_of_the_pairs_are_swapped():
    """ALBERT: 0 in their order, 1 swapped."""
    objective, rng, labels = SentenceOrder().ready(TWO), np.random.default_rng(0), []
    for _ in range(1000):
        example = objective.prepare({k: FIELDS[k] for k in ("first", "second")}, rng)
        labels.append(label_of(example, "sentence_order"))
        ordered = "for me separator Thank you" if labels[-1] else "Thank you separator for me"
        assert shown(example) == f"class {ordered} separator"
    assert abs(np.mean(labels) - 0.5) < 0.06


def test_one_document_is_cut_between_two_sentences():
    """Each boundary as likely; nothing is lost, whichever half stands first."""
    objective, rng = SentenceOrder().ready(TWO), np.random.default_rng(0)
    document = {"first": tokens("start Thank you . for me . last week end", [1, 3, 3, 2, 1])}
    seen: dict[tuple[str, ...], int] = {}
    for _ in range(1000):
        example = objective.prepare(document, rng)
        halves = shown(example).removeprefix("class ").removesuffix(" separator").split(" separator ")
        halves = halves[::-1] if label_of(example, "sentence_order") else halves
        seen[tuple(halves)] = seen.get(tuple(halves), 0) + 1
    assert set(seen) == {("Thank you .", "for me . last week"), ("Thank you . for me .", "last week")}
    assert all(abs(count / 1000 - 0.5) < 0.06 for count in seen.values())
    with pytest.raises(SampleError, match=r"cannot be cut in two: it has one item.*items: sentences"):
        objective.prepare({"first": tokens("Thank you")}, rng)


def test_a_given_label_is_kept():
    """Held-out pairs stay as the task made them."""
    given = {**FIELDS, "next_sentence": Tokens.of("next_sentence", torch.tensor([1]))}
    for seed in range(5):
        example = NextSentence().ready(THREE).prepare(given, np.random.default_rng(seed))
        assert label_of(example, "next_sentence") == 1 and "for me" in shown(example)


def test_without_another_text_there_is_a_prompt():
    """The pair as it is, with nothing to say."""
    fields = {k: FIELDS[k] for k in ("first", "second")}
    for objective in (NextSentence(), Pretraining()):
        prompt = objective.ready(THREE).prepare(fields, np.random.default_rng(0))
        assert prompt.targets == {} and shown(prompt) == "class Thank you separator for me separator"


def test_pretraining_masks_the_pair_it_drew():
    """Both tasks of one example: the label at the first slot, 15 % of both texts' words behind it."""
    rng, rate = np.random.default_rng(0), []
    fields = {name: tokens(list(ORDINARY)) for name in ("first", "second")} | {"other": tokens(list(ORDINARY)[::-1])}
    objective = Pretraining().ready(THREE)
    for _ in range(200):
        example = objective.prepare(fields, rng)
        hidden, target = example.tokens.streams["text"].values.clone(), example.targets["text"]
        rate.append(len(target.values) / 98)
        hidden[target.slots] = target.values
        second = ORDINARY[::-1] if label_of(example, "next_sentence") else ORDINARY
        assert hidden.tolist() == [IDS["class"], *ORDINARY, IDS["separator"], *second, IDS["separator"]]
    assert abs(np.mean(rate) - 0.15) < 0.002
    assert Pretraining().predicts(THREE) == ["text", "next_sentence"]


def test_pretraining_adds_two_means():
    """BERT A.2: the mean masked likelihood and the mean next sentence likelihood."""
    torch.manual_seed(0)
    heads = {name: HeadConfig(bias=True) for name in ("text", "next_sentence")}
    model = Network([*TEXT, NEXT], Architecture(BackboneConfig(8, 2), heads))
    objective, rng = Pretraining().ready(THREE), np.random.default_rng(0)
    batch = pack([objective.prepare(FIELDS, rng) for _ in range(5)])
    targets = batch.targets[""]
    loss = objective.loss(ForwardPass(model, batch), targets)
    hidden = model(batch)
    means = [float(F.cross_entropy(model.read(n, hidden[t.slots]), t.values)) for n, t in targets.items()]
    assert math.isclose(float(loss.mean()), sum(means), rel_tol=1e-5)
    assert sum(term.count for term in loss.terms) == counted(batch.counts[""])


@pytest.mark.parametrize("objective", [NextSentence(), Pretraining()])
def test_equal_generators_draw_alike(objective):
    fields = {name: tokens(list(ORDINARY)) for name in ("first", "second")} | {"other": tokens(list(ORDINARY)[::-1])}
    drawn = [objective.ready(THREE).prepare(fields, np.random.default_rng(seed)) for seed in (1, 1, 4, 5, 6)]
    assert same(drawn[0], drawn[1])
    assert not all(same(drawn[0], other) for other in drawn[2:])


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match=r"field 'next_sentence'.*expected one of: text"):
        NextSentence().predicts({"text": TEXT})
    with pytest.raises(ConfigError, match="field 'first'"):
        NextSentence().ready({"a": TEXT, "next_sentence": [NEXT]})
    with pytest.raises(ConfigError, match="pair 'next'"):
        Pretraining(pair={"type": "next"})
    with pytest.raises(ConfigError, match="rate=2"):
        Pretraining(masked={"rate": 2})
    with pytest.raises(ConfigError, match="expected the settings of masked"):
        Pretraining(masked=0.15)  # ty: ignore[invalid-argument-type]
    with pytest.raises(SampleError, match="needs the field 'first'"):
        NextSentence().ready(THREE).prepare({"second": FIELDS["second"]}, np.random.default_rng(0))


def test_bert_is_pretrained():
    """A few steps on runs that go on or not, at new masks each time."""
    rng = np.random.default_rng(0)
    fields = []
    for _ in range(32):
        run, other = counting(rng, 8), counting(rng, 4)
        fields.append({"first": tokens(run[:4]), "second": tokens(run[4:]), "other": tokens(other)})
    before, after = learned(
        "bert-base", Pretraining().ready(THREE), fields, [*TEXT, NEXT], ["text", "next_sentence"], 80
    )
    assert after < 0.75 * before


def test_bert_learns_the_order():
    rng = np.random.default_rng(0)
    early, late = ORDINARY[:20], ORDINARY[20:]  # words that open documents, and words that close them
    fields = [{"first": tokens([*rng.choice(early, 4), *rng.choice(late, 4)], [4, 4])} for _ in range(32)]
    objective = SentenceOrder().ready(TWO)
    before, after = learned("bert-base", objective, fields, [*TEXT, ORDER], ["sentence_order"], 80)
    assert after < 0.6 * before
