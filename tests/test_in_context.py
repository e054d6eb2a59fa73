"""Language models asked in words: boundaries of pieces, windows, prompts, and scores against hand-made ones."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anyformer.architecture import Architecture
from anyformer.batch import pack, within
from anyformer.errors import ConfigError, LimitError
from anyformer.evaluation.likelihood import TextModel, window_edges
from anyformer.model import Model
from anyformer.tokens import Tokens
from anyformer_tasks.in_context import Lambada, MultipleChoice, OpenQA, Perplexity
from anyformer_tasks.in_context.open_qa import exact_match
from anyformer_tasks.in_context.perplexity import documents
from anyformer_tasks.in_context.prompt import Prompt, shots
from anyformer_tokenizers.text import TextTokenizer

TEXTS = ["the cat sat on the mat.\nQ: who sat?\nA: the cat\n", "a dog ran, and a dog slept in the sun.\n"] * 4
DECODER = {"dim": 16, "heads": 2, "depth": 1}
CROSSED = DECODER | {"recipe": ["attention", "cross_attention", "feed_forward"]}


def _tokenizer() -> TextTokenizer:
    tokenizer = TextTokenizer(vocab_size=300)
    tokenizer.fit(TEXTS)
    return tokenizer


def _strong(model: Model) -> Model:
    """Weights so large that every slot tells."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4)
    return model.eval()


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    return _strong(Model({"text": _tokenizer()}, DECODER, ["text"]))


@pytest.fixture(scope="module")
def translator() -> Model:
    torch.manual_seed(0)
    plan = {"backbone": CROSSED, "encoder": DECODER | {"causal": False}, "source": ["text"]}
    return _strong(Model.of(Architecture.of(plan | {"heads": {"text": {"tie": True}}}, "m"), {"text": _tokenizer()}))


def alone(model: Model, example) -> list[float]:
    """The log probability of each target, from a plain forward of one example."""
    batch = pack([example])
    target = batch.targets[""]["text"]
    with torch.no_grad():
        logits = model.read("text", model(batch)).log_softmax(-1)
    return logits[target.slots, target.values].tolist()


# ── Examples and windows ──


def test_pieces_are_parted_as_in_a_running_text(model):
    """Guards the boundary: the space goes to the continuation, and both together spell the whole."""
    text = TextModel(model)
    before, said = text.pair("the cat ", "sat")
    assert before + said == text.pieces("the cat sat") and before == text.pieces("the cat")
    example = text.example("the cat ", "sat")
    assert example.tokens.streams["text"].values.tolist() == [text.opening, *before, *said][:-1]
    assert example.targets["text"].values.tolist() == said


def test_a_likelihood_is_the_sum_of_a_plain_forwards(model):
    """Guards packing, slots and the sum, for several lengths and a text without context."""
    pairs = [("the cat", " sat on the mat"), ("", "a dog"), ("Q: who sat?\nA:", " the cat")]
    text = TextModel(model, token_budget=20)
    for pair, found in zip(pairs, text.log_likelihoods(pairs), strict=True):
        assert found.nats == pytest.approx(alone(model, text.example(*pair)), abs=1e-5)


def test_with_an_encoder_the_context_is_its_source(translator):
    """Guards the two axes: marks around the source, the target behind the opening value, and that both matter."""
    text = TextModel(translator)
    example = text.example("the cat", " sat")
    said = text.pieces(" sat")
    assert example.source is not None and example.source.prefix == example.source.tokens.length
    assert torch.equal(
        example.source.tokens.streams["text"].values,
        translator.tokenizers["text"].encode("the cat").streams["text"].values,
    )
    assert example.tokens.streams["text"].values.tolist() == [text.opening, *said[:-1]]
    one, other = text.log_likelihoods([("the cat", " sat"), ("a dog ran", " sat")])
    assert one.nats == pytest.approx(alone(translator, example), abs=1e-5)
    assert abs(one.total - other.total) > 1e-3
    assert len(text.write(["the cat", "a dog"], max_new=3)) == 2


@given(count=st.integers(0, 60), context=st.integers(1, 20), data=st.data())
@settings(max_examples=200)
def test_every_value_is_judged_once_behind_as_much_as_fits(count, context, data):
    """Guards the sliding window's arithmetic."""
    stride = data.draw(st.integers(1, context))
    edges = list(window_edges(count, context, stride))
    assert [i for _, first, end in edges for i in range(first, end)] == list(range(count))
    for begin, first, end in edges:
        assert 0 <= begin <= first and end - begin <= context
        assert first == 0 or first - begin >= context - stride


@given(stride=st.integers(1, 64))
@settings(max_examples=10)
def test_a_text_that_fits_is_one_full_pass(model, stride):
    text = TextModel(model, context=64)
    (found,) = text.rolling(["the cat sat"], stride)
    whole = text.pieces("the cat sat")
    example = text.windows(whole)[0]
    assert example.tokens.streams["text"].values.tolist() == [text.opening, *whole[:-1]]
    assert found.nats == pytest.approx(alone(model, example), abs=1e-5)


def test_chunks_and_windows_equal_their_own_forwards(model):
    """Guards stride = context as plain chunks, and that a smaller stride gives later values more to see."""
    text = TextModel(model, context=4)
    ids = text.pieces("the cat sat on the mat.")[:8]
    opened = [text.opening, *ids]
    for stride, inputs in ((4, [opened[0:4], opened[4:8]]), (2, [opened[0:4], opened[2:6], opened[4:8]])):
        windows = text.windows(ids, stride)
        assert [window.tokens.streams["text"].values.tolist() for window in windows] == inputs
        judged = [value for window in windows for value in window.targets["text"].values.tolist()]
        assert judged == ids
    with pytest.raises(ConfigError, match="expected 1 to 4"):
        text.windows(ids, 5)


def test_what_does_not_fit_is_cut_at_the_left_or_refused(model):
    text = TextModel(model, context=3)
    example = text.example("the cat sat on the mat", ".")
    assert example.tokens.length == 3 and example.targets["text"].values.tolist() == text.pieces(".")
    assert text.prompt("the cat sat on the mat", room=1).tokens.length == 2
    with pytest.raises(LimitError, match="does not fit a context of 3"):
        text.example("the", " cat sat on the mat in the sun")


def test_runs_stay_within_the_budget():
    assert list(within([3, 3, 9, 1], 6, int)) == [[3, 3], [9], [1]]


# ── Prompts ──


def test_a_prompt_is_instruction_examples_and_question():
    prompt = Prompt("Q: {q}\nA:", " {a}", instruction="Answer.\n", between="\n\n")
    assert prompt.ask({"q": "3?"}, [{"q": "1?", "a": "{x}"}]) == "Answer.\nQ: 1?\nA: {x}\n\nQ: 3?\nA:"
    with pytest.raises(ConfigError, match="asks for 'a'"):
        prompt.answered({"q": "1?"})


def test_a_chain_of_thought_ends_in_its_answer():
    prompt = Prompt.named("chain_of_thought")
    record = {"question": "1 + 1?", "reasoning": "One and one.", "answer": "2"}
    assert prompt.ask(record, [record]).endswith("One and one. The answer is 2.\n\nQ: 1 + 1?\nA:")
    assert prompt.said(" One and one. The answer is 2.") == "2" and prompt.said(" two ") == "two"


def test_examples_are_drawn_by_seed_and_question():
    pool = [{"i": i} for i in range(50)]
    first = shots(5, pool, 0, "test-1")
    assert first == shots(5, pool, 0, "test-1") and len({record["i"] for record in first}) == 5
    assert first != shots(5, pool, 1, "test-1") and first != shots(5, pool, 0, "test-2")
    with pytest.raises(ConfigError, match="has 50"):
        shots(51, pool, 0, "x")


# ── Tasks ──


def lines(path: Path, records: list[dict]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def means(scores, metric: str) -> float:
    own = [score for score in scores if score.metric == metric]
    return sum(s.value * s.weight for s in own) / sum(s.weight for s in own)


def test_perplexity_by_word_token_and_byte(model, tmp_path):
    """Guards units and the pooled mean: the report's value is that of all documents together."""
    content = "= A\nthe cat sat\n= B\na dog ran, a dog\n"
    (tmp_path / "test.txt").write_text(content)
    task = Perplexity(str(tmp_path), document="^= ", context=8, stride=4)
    samples = task.examples("test")
    assert [sample.values["text"] for sample in samples] == documents(content, "^= ") and len(samples) == 2
    scores = list(task.score(model, samples))
    text = TextModel(model, context=8)
    found = text.rolling([sample.values["text"] for sample in samples], 4)
    nats = -sum(likelihood.total for likelihood in found)
    words = 2 + 3 + 2 + 5 + 4  # and four line ends
    assert means(scores, "word_perplexity") == pytest.approx(math.exp(nats / words))
    tokens = sum(len(text.pieces(sample.values["text"])) for sample in samples)
    assert means(scores, "token_perplexity") == pytest.approx(math.exp(nats / tokens))
    assert means(scores, "bits_per_byte") == pytest.approx(nats / math.log(2) / len(content.encode()))


def test_lambada_counts_a_word_only_if_all_its_tokens_are_greedy(model, tmp_path):
    """Guards accuracy by a word that the model itself wrote, and one that it did not."""
    lines(tmp_path / "lambada_test.jsonl", [{"text": "the cat sat"}, {"text": "a dog ran slept"}])
    task = Lambada(str(tmp_path))
    samples = task.examples("test")
    text = TextModel(model)
    said = text.model.generate([text.prompt("the cat")], "text", 1, end=None)[0].streams["text"].values.tolist()
    example = text.example("the cat", " sat")
    altered = replace(example.targets["text"], values=torch.tensor(said * len(example.targets["text"].values)))
    assert text.judge([replace(example, targets={"text": altered})])[0].greedy[0]
    found = text.log_likelihoods([("the cat", " sat"), ("a dog ran", " slept")])
    scores = list(task.score(model, samples))
    assert [s.value for s in scores if s.metric == "accuracy"] == [float(all(f.greedy)) for f in found]
    expected = math.exp(-sum(f.total for f in found) / 2)
    assert means(scores, "perplexity") == pytest.approx(expected)


CHOICES = [
    {"goal": "who sat?", "sol1": "the cat", "sol2": "a dog in the sun"},
    {"goal": "who ran?", "sol1": "the cat on the mat", "sol2": "a dog"},
    {"goal": "who slept?", "sol1": "cat", "sol2": "a dog, a dog and a dog"},
]


def test_multiple_choice_by_sum_characters_and_tokens(model, tmp_path):
    """Guards the three scores against sums made by hand, labels in a file of their own, and examples before it."""
    lines(tmp_path / "v.jsonl", CHOICES)
    (tmp_path / "v.lst").write_text("0\n1\n1\n")
    files = {"test": "v.jsonl", "train": "v.jsonl"}
    task = MultipleChoice(
        str(tmp_path), files, "piqa", shots=1, labels={"test": "v.lst", "train": "v.lst"}, label="label"
    )
    samples = task.examples("test")
    contexts = task.contexts(samples)
    text = TextModel(model)
    for sample, context, record in zip(samples, contexts, CHOICES, strict=True):
        assert context.count("Question:") == 2 and context.count(record["goal"]) == 1
        gold = sample.record["gold"]
        sums = [sum(alone(model, text.example(context, " " + record[name]))) for name in ("sol1", "sol2")]
        lengths = {
            "accuracy": [1, 1],
            "accuracy_by_characters": [len(record[name]) for name in ("sol1", "sol2")],
            "accuracy_by_tokens": [len(text.pair(context, " " + record[name])[1]) for name in ("sol1", "sol2")],
        }
        found = {s.metric: s.value for s in task.score(model, [sample])}
        for metric, by in lengths.items():
            best = max((0, 1), key=lambda i, by=by: sums[i] / by[i])
            assert found[metric] == float(best == gold), metric


@pytest.mark.parametrize(
    ("record", "settings"),
    [
        (
            {"activity_label": "Cats", "ctx": "A cat", "endings": ["sits", "flies"], "label": 0},
            {"choices": ["endings"], "prompt": "hellaswag"},
        ),
        (
            {f"InputSentence{i}": "A cat sat." for i in (1, 2, 3, 4)}
            | {"Quiz1": "It slept.", "Quiz2": "It sang.", "Right": "1"},
            {"choices": ["Quiz1", "Quiz2"], "label": "Right", "first_label": 1, "prompt": "story_cloze"},
        ),
    ],
)
def test_published_formats_of_choices_are_read(model, tmp_path, record, settings):
    lines(tmp_path / "v.jsonl", [record])
    task = MultipleChoice(str(tmp_path), {"test": "v.jsonl"}, **settings)
    assert task.records("test")[0]["gold"] == 0
    assert len(list(task.score(model, task.examples("test")))) == 3


@pytest.mark.parametrize(
    ("format", "record"),
    [
        ("nq_open", {"question": "who sat?", "answer": ["The cat", "cats"]}),
        (
            "web_questions",
            {"utterance": "who sat?", "targetValue": '(list (description "The cat") (description cats))'},
        ),
        ("trivia_qa", {"Question": "who sat?", "Answer": {"Value": "The cat", "Aliases": ["cats"]}}),
    ],
)
def test_open_questions_are_read_and_answered(model, tmp_path, monkeypatch, format, record):
    """Guards each published format, and exact match on what was written up to the line's end."""
    lines(tmp_path / "q.jsonl", [record])
    task = OpenQA(str(tmp_path), {"test": "q.jsonl"}, format=format, max_new=4)
    samples = task.examples("test")
    assert samples[0].record["answers"] == ["The cat", "cats"]
    assert len(list(task.score(model, samples))) == 1
    ids = TextModel(model).pieces(" a cat!\nQ: more")
    monkeypatch.setattr(Model, "generate", lambda *_, **__: [Tokens.of("text", torch.tensor(ids))])
    (score,) = task.score(model, samples)
    assert score.value == 1.0 and score.shown["said"] == "a cat!"
    assert not exact_match("dog", ["The cat"])


def test_a_missing_file_says_how_to_get_it(tmp_path):
    with pytest.raises(ConfigError, match=r"lambada_test\.jsonl.*Download it and set data_dir"):
        Lambada(str(tmp_path)).examples("test")
