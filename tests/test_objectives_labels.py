"""Labels of texts, of words and of pairs, answers in a text, and GPT's fine-tuning: what is read where."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sentences import IDS, ORDINARY, SEGMENT, SPEC, learned, names, same, tokens

from anyformer.architecture import Architecture, BackboneConfig, HeadConfig
from anyformer.batch import Example, counted, pack
from anyformer.errors import ConfigError, SampleError
from anyformer.model import ForwardPass, Network
from anyformer.objectives import Classification, ExtractiveAnswer, TokenClassification, Traversal
from anyformer.tokens import Stream, StreamSpec, Tokens

RNG = np.random.default_rng(0)
LABEL = StreamSpec.discrete("label", 3, input=False)
LABELS = StreamSpec.discrete("labels", 4, input=False)
ROW = StreamSpec.continuous("label", 1, input=False)
START, END = (StreamSpec.continuous(f"answer.{side}", 1, input=False) for side in ("start", "end"))
TEXT = [SPEC, SEGMENT]
ONE = {"text": TEXT, "label": [LABEL]}
TWO = {"premise": TEXT, "hypothesis": TEXT, "label": [LABEL]}
SQUAD = {"question": TEXT, "context": TEXT, "answer": [START, END]}


def label(value: int, name: str = "label") -> Tokens:
    return Tokens.of(name, torch.tensor([value]))


def answer(first: int, last: int) -> Tokens:
    rows = {"answer.start": first, "answer.end": last}
    streams = {
        name: Stream.whole(torch.tensor([[float(v)]]), torch.tensor([i])) for i, (name, v) in enumerate(rows.items())
    }
    return Tokens(streams, 2, torch.arange(2)[:, None])


def shown(example: Example) -> str:
    return names(example.tokens.streams["text"].values)


def said(example: Example) -> dict[str, list]:
    return {
        n: list(zip(t.slots.tolist(), t.values.tolist(), strict=False)) for n, t in example.targets.items()
    }  # fmt: skip


def network(*specs: StreamSpec, heads: list[str]) -> Network:
    torch.manual_seed(0)
    made = Network(specs, Architecture(BackboneConfig(8, 2), {name: HeadConfig(bias=True) for name in heads}))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.4)
    return made


# classification


@pytest.mark.parametrize("text", ["Thank you", "start Thank you end", "class Thank you separator"])
def test_one_text_is_laid_as_in_bert(text):
    """Whatever the tokenizer's template put around it: [CLS] A [SEP], the label at the first slot, both sides seen."""
    example = Classification().ready(ONE).prepare({"text": tokens(text), "label": label(2)}, RNG)
    assert shown(example) == "class Thank you separator"
    assert said(example) == {"label": [(0, 2)]}
    assert example.prefix == example.tokens.length == 4
    assert example.tokens.streams["text.segment"].values.tolist() == [0, 0, 0, 0]


def test_two_texts_are_laid_as_in_bert():
    """[CLS] A [SEP] B [SEP], the second with its separator in the other segment; positions go on."""
    fields = {"premise": tokens("Thank you"), "hypothesis": tokens("me"), "label": label(1)}
    example = Classification().ready(TWO).prepare(fields, RNG)
    assert shown(example) == "class Thank you separator me separator"
    assert example.tokens.streams["text.segment"].values.tolist() == [0, 0, 0, 0, 1, 1]
    assert example.tokens.streams["text.segment"].slots.tolist() == list(range(6))
    assert example.tokens.positions[:, 0].tolist() == list(range(6))
    assert said(example) == {"label": [(0, 1)]}
    assert Classification().predicts(TWO) == ["label"]


def test_a_vocabulary_without_class_and_separator_uses_its_ends():
    """`<s> A </s>`, and no segments where no stream has them."""
    plain = StreamSpec.discrete("text", 64, end=IDS["end"], special={"start": IDS["start"]})
    objective = Classification().ready({"text": [plain], "label": [LABEL]})
    example = objective.prepare({"text": tokens("start Thank you end"), "label": label(0)}, RNG)
    assert shown(example) == "start Thank you end"
    assert list(example.tokens.streams) == ["text"]


def test_pictures_and_rows_are_classified_too():
    """No values to put between: fields as they are. A row as a label is a regression."""
    image = Tokens({"patch": Stream.whole(torch.ones(4, 3))}, 4, torch.arange(4)[:, None])
    row = Tokens({"label": Stream.whole(torch.tensor([[0.5]]))}, 1, torch.zeros(1, 1, dtype=torch.int64))
    objective = Classification().ready({"image": [StreamSpec.continuous("patch", 3)], "label": [ROW]})
    example = objective.prepare({"image": image, "label": row}, RNG)
    assert example.tokens.length == 4 and said(example) == {"label": [(0, [0.5])]}


def test_a_prompt_is_the_example_without_its_label():
    for objective, specs in ((Classification(), ONE), (Traversal(), ONE), (TokenClassification("label"), ONE)):
        fields = {"text": tokens("Thank you", [1, 1])}
        prompt = objective.ready(specs).prepare(fields, RNG)
        values = (
            label(1) if not isinstance(objective, TokenClassification) else Tokens.of("label", torch.tensor([1, 2]))
        )
        whole = objective.ready(specs).prepare({**fields, "label": values}, RNG)
        assert prompt.targets == {} and whole.targets
        assert same(prompt, Example(whole.tokens, {}, whole.prefix))


def test_pooled_targets_pack_and_are_read_at_their_own_first_slot():
    """The sum is over labels, the count of them."""
    model, objective = network(SPEC, SEGMENT, LABEL, heads=["label"]), Classification().ready(ONE)
    examples = [
        objective.prepare({"text": tokens(t), "label": label(i)}, RNG) for i, t in enumerate(("me", "Thank you", "."))
    ]
    batch = pack(examples)
    target = batch.targets[""]["label"]
    assert target.slots.tolist() == batch.starts and target.items.tolist() == [[1, 1]] * 3
    loss = objective.loss(ForwardPass(model, batch), batch.targets[""])
    alone = sum(
        float(F.cross_entropy(model.read("label", model(pack([e]))[:1]), e.targets["label"].values)) for e in examples
    )
    assert math.isclose(float(loss.sum), alone, rel_tol=1e-5) and loss.count == 3 == counted(batch.counts[""])


# token classification


def test_each_word_has_its_label_at_its_first_piece():
    """Three words of two, one and two pieces behind the class value."""
    specs = {"text": TEXT, "labels": [LABELS]}
    fields = {
        "text": tokens("Thank you for inviting me", [2, 1, 2]),
        "labels": Tokens.of("labels", torch.tensor([3, 0, 1])),
    }
    example = TokenClassification().ready(specs).prepare(fields, RNG)
    assert shown(example) == "class Thank you for inviting me separator"
    assert said(example) == {"labels": [(1, 3), (3, 0), (4, 1)]}
    assert example.targets["labels"].items.tolist() == [[3, 3]]
    with_template = {**fields, "text": tokens("start Thank you for inviting me end", [1, 2, 1, 2, 1])}
    assert same(TokenClassification().ready(specs).prepare(with_template, RNG), example)


def test_labels_must_be_as_many_as_words():
    fields = {"text": tokens("Thank you for"), "labels": Tokens.of("labels", torch.tensor([3, 0, 1]))}
    with pytest.raises(SampleError, match=r"3 labels for 1 words.*items: words"):
        TokenClassification().ready({"text": TEXT, "labels": [LABELS]}).prepare(fields, RNG)


# answers


def test_an_answer_is_where_its_words_are():
    """The first piece of the first word and the last of the last, among the context's slots alone."""
    fields = {
        "question": tokens("Thank you", [1, 1]),
        "context": tokens("for inviting me to your", [1, 2, 2]),
        "answer": answer(1, 2),
    }
    example = ExtractiveAnswer().ready(SQUAD).prepare(fields, RNG)
    assert shown(example) == "class Thank you separator for inviting me to your separator"
    for name, within in (("answer.start", 1), ("answer.end", 4)):
        target = example.targets[name]
        assert target.slots.tolist() == [4, 5, 6, 7, 8] and target.values.tolist() == [within]
        assert target.items.tolist() == [[1, 5]]
    assert ExtractiveAnswer().predicts(SQUAD) == ["answer.start", "answer.end"]


def test_an_answers_loss_is_over_its_own_document():
    """−log softmax over the context's slots, for the start and for the end; neighbours change nothing."""
    model = network(SPEC, SEGMENT, START, END, heads=["answer.start", "answer.end"])
    objective, examples = ExtractiveAnswer().ready(SQUAD), []
    for words, span in (("me to your", (0, 1)), ("party last week . me", (2, 2))):
        count = len(words.split())
        fields = {"question": tokens("you"), "context": tokens(words, [1] * count), "answer": answer(*span)}
        examples.append(objective.prepare(fields, RNG))
    batch = pack(examples)
    loss = objective.loss(ForwardPass(model, batch), batch.targets[""])
    wanted = 0.0
    for example, (first, last) in zip(examples, ((0, 1), (2, 2)), strict=True):
        hidden = model(pack([example]))[3:-1]
        for name, place in (("answer.start", first), ("answer.end", last)):
            wanted -= float(model.read(name, hidden)[:, 0].log_softmax(0)[place])
    assert math.isclose(float(loss.sum), wanted, rel_tol=1e-5)
    assert loss.count == 4 == counted(batch.counts[""])


def test_an_answer_outside_is_refused():
    objective = ExtractiveAnswer().ready(SQUAD)
    with pytest.raises(SampleError, match=r"stands at word 2 of 1, counted from 0.*items: words"):
        objective.prepare({"context": tokens("me to your"), "answer": answer(0, 2)}, RNG)
    with pytest.raises(SampleError, match="needs the field 'context'"):
        objective.prepare({"question": tokens("me")}, RNG)
    with pytest.raises(ConfigError, match=r"expected two of one feature"):
        ExtractiveAnswer().predicts({**SQUAD, "answer": [LABEL]})
    with pytest.raises(ConfigError, match=r"field 'context'"):
        ExtractiveAnswer().predicts(ONE | {"answer": [START, END]})


# GPT's fine-tuning


def test_traversal():
    """start A delimiter B extract: the label behind the last, next values everywhere, nobody sees ahead."""
    fields = {"premise": tokens("Thank you"), "hypothesis": tokens("me"), "label": label(2)}
    objective = Traversal().ready(TWO)
    example = objective.prepare(fields, RNG)
    assert shown(example) == "start Thank you delimiter me class"
    assert said(example)["label"] == [(5, 2)] and example.prefix == 0
    values = example.tokens.streams["text"].values.tolist()
    assert said(example)["text"] == [(i, values[i + 1]) for i in range(5)]
    assert Traversal().predicts(TWO) == ["label", "text"]
    assert Traversal(weight=0).predicts(TWO) == ["label"]
    assert list(Traversal(weight=0).ready(TWO).prepare(fields, RNG).targets) == ["label"]


def test_traversal_adds_half_of_the_language_model():
    """Equation 5, of means: L(label) + 0.5 · L(text)."""
    model, objective = network(SPEC, SEGMENT, LABEL, heads=["label", "text"]), Traversal().ready(ONE)
    batch = pack(
        [objective.prepare({"text": tokens(t), "label": label(i)}, RNG) for i, t in enumerate(("me", "Thank you for"))]
    )
    loss = objective.loss(ForwardPass(model, batch), batch.targets[""])
    mean = {
        name: float(F.cross_entropy(model.read(name, model(batch)[target.slots]), target.values))
        for name, target in batch.targets[""].items()
    }
    assert math.isclose(float(loss.mean()), mean["label"] + 0.5 * mean["text"], rel_tol=1e-5)
    assert [(term.over, term.count) for term in loss.terms] == [("label", 2), ("text", 2 + 4)]
    assert counted(batch.counts[""]) == 2 + 2 + 4


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="weight=-1; expected 0 or more"):
        Traversal(weight=-1)
    with pytest.raises(ConfigError, match=r"field 'lable'.*Did you mean 'label'"):
        Classification("lable").predicts(ONE)
    with pytest.raises(ConfigError, match="all are predicted"):
        Classification().ready({"label": [LABEL]})
    with pytest.raises(ConfigError, match=r"no value of the role 'class'"):
        Classification().ready({"text": [StreamSpec.discrete("text", 9)], "label": [LABEL]})
    with pytest.raises(SampleError, match="has no other field"):
        Classification().ready(ONE).prepare({"label": label(1)}, RNG)


# They are learned


def samples(count: int = 32) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.choice(ORDINARY, 6).tolist() for _ in range(count)]


def test_bert_learns_to_classify():
    """Whether the second text is the first again."""
    fields = [
        {"premise": tokens(a), "hypothesis": tokens(a if i % 2 else b), "label": label(i % 2)}
        for i, (a, b) in enumerate(zip(samples(), samples()[::-1], strict=True))
    ]
    before, after = learned("bert-base", Classification().ready(TWO), fields, [*TEXT, LABEL], ["label"])
    assert after < 0.5 * before


def test_bert_learns_labels_of_words():
    fields = [
        {"text": tokens(a, [1] * 6), "labels": Tokens.of("labels", torch.tensor([v % 4 for v in a]))} for a in samples()
    ]
    objective = TokenClassification().ready({"text": TEXT, "labels": [LABELS]})
    before, after = learned("bert-base", objective, fields, [*TEXT, LABELS], ["labels"])
    assert after < 0.5 * before


def test_bert_learns_where_answers_stand():
    """The word that is asked for."""
    fields = [
        {"question": tokens([a[i % 6]]), "context": tokens(a, [1] * 6), "answer": answer(i % 6, i % 6)}
        for i, a in enumerate(samples())
    ]
    heads = ["answer.start", "answer.end"]
    before, after = learned("bert-base", ExtractiveAnswer().ready(SQUAD), fields, [*TEXT, START, END], heads, 80)
    assert after < 0.7 * before


def test_gpt_is_fine_tuned():
    fields = [{"text": tokens(a), "label": label(a[0] % 3)} for a in samples()]
    before, after = learned("gpt1", Traversal().ready(ONE), fields, [*TEXT, LABEL], ["label", "text"])
    assert after < 0.7 * before
