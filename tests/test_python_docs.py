"""The Python documentation task: what is held out, how it is cut, and what bits per byte count."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anyformer.batch import Example
from anyformer.contracts import Tokenizer
from anyformer.errors import ConfigError
from anyformer.objectives import NextToken, TokenDropping
from anyformer.tokens import StreamSpec, Tokens
from anyformer_tasks.ngram import ALPHABET, WittenBell
from anyformer_tasks.python_docs import PythonDocs, Span, choose_topics, cut, load_topics, original_runs

HELD_OUT = ("validation", "test")


@pytest.fixture(scope="module")
def task() -> PythonDocs:
    return PythonDocs()


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def runs_of(text: str, size: int) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[i : i + size]) for i in range(len(found) - size + 1)}


# --- what is held out ---------------------------------------------------------------------------------------


def test_no_topic_is_in_two_splits(task):
    topics = [{sample.cluster for sample in task.examples(split)} for split in ("train", *HELD_OUT)]
    for one, other in itertools.combinations(topics, 2):
        assert not one & other


@pytest.mark.parametrize("split", HELD_OUT)
def test_held_out_passages_share_no_eight_words_in_a_row_with_training(task, split):
    """The stated rule, on another path: whole training topics against each held-out passage."""
    seen = set()
    for span in task.splits["train"]:
        seen |= runs_of(span.text, 8)
    for sample in task.examples(split):
        assert not runs_of(sample.values["text"], 8) & seen, sample.id


@pytest.mark.parametrize("split", HELD_OUT)
def test_held_out_passages_share_no_long_run_of_characters_with_training(task, split):
    """Fewer than eight words may still be many characters; ornaments (`****`) apart, 80 is the limit."""

    def squeezed(text: str) -> str:
        return re.sub(r"[\W_]+", " ", text.lower())

    size = 80
    seen = set()
    for span in task.splits["train"]:
        text = squeezed(span.text)
        seen |= {hash(text[i : i + size]) for i in range(len(text) - size + 1)}
    for sample in task.examples(split):
        text = squeezed(sample.values["text"])
        assert not any(hash(text[i : i + size]) in seen for i in range(len(text) - size + 1)), sample.id


def test_the_rule_drops_a_quotation_and_keeps_what_stands_around_it():
    """A paragraph quoted by another topic goes, even when it is wrapped anew; its neighbours stay, apart."""
    quoted = "one two three four five six seven eight nine"
    before, after = "alpha " * 20 + "\n\n", "omega " * 20
    topics = {"whole": before + quoted + "\n\n" + after, "other": "Preface.\n\n" + quoted.replace(" ", "\n")}
    runs = original_runs(topics)["whole"]
    assert [run.text for run in runs] == [before, after]
    assert [topics["whole"][run.start :][: len(run.text)] for run in runs] == [before, after]


def test_without_the_rule_topics_do_repeat_each_other():
    """Guards the guard: if topics did not quote each other, the tests above would test nothing."""
    topics = load_topics()
    homes = Counter(run for text in topics.values() for run in runs_of(text, 8))
    assert sum(count > 1 for count in homes.values()) > 1000


def test_shares_and_variety_of_the_splits(task):
    everything = sum(map(len, load_topics().values()))
    for split, share in (("test", task.test_share), ("validation", task.validation_share)):
        samples = task.examples(split)
        size = sum(len(sample.values["text"]) for sample in samples)
        assert share <= size / everything <= 1.5 * share
        assert len({sample.cluster for sample in samples}) >= 5
    assert sum(len(span.text) for span in task.splits["train"]) > 0.75 * everything


def test_the_seed_chooses_the_topics_and_nothing_else_does(task):
    assert PythonDocs().examples("test") == task.examples("test")
    assert {s.cluster for s in PythonDocs(seed=1).examples("test")} != {s.cluster for s in task.examples("test")}


def test_nearly_the_same_topics_are_held_out_when_the_texts_differ_a_little(task):
    """Python versions differ in a few sentences; a result should still be about the same topics."""
    topics = {name: text + "\n\nChanged.\n" * (len(name) % 9) for name, text in load_topics().items()}
    chosen = choose_topics(topics, original_runs(topics), {"test": task.test_share}, task.seed)
    held_out = {sample.cluster for sample in task.examples("test")}
    assert len(held_out & set(chosen["test"])) >= 0.9 * len(held_out)


# --- passages -----------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(
    text=st.text(alphabet="ab \n", max_size=300),
    limit=st.integers(1, 60),
    first=st.none() | st.integers(1, 60),
)
def test_cutting_loses_nothing_and_stays_within_its_limits(text, limit, first):
    pieces = list(cut(Span("topic", 7, text), limit, first))
    assert "".join(piece.text for piece in pieces) == text
    assert all(0 < len(piece.text) <= limit for piece in pieces[1:])
    assert all(len(piece.text) <= (first or limit) for piece in pieces[:1])
    assert all(text[piece.start - 7 :].startswith(piece.text) for piece in pieces)


def test_passages_end_at_line_breaks(task):
    for split in ("train", *HELD_OUT):
        ends = {span.topic: span.start + len(span.text) for span in task.splits[split]}
        for sample in task.examples(split):
            inner = not sample.id.endswith(f":{ends[sample.cluster]}]")
            assert not inner or sample.values["text"].endswith("\n")


def test_training_passages_cover_the_text_in_several_cuts_and_no_sample_comes_twice(task):
    samples = task.examples("train")
    assert len({sample.id for sample in samples}) == len(samples) > len(task.passages("train"))
    assert max(len(sample.values["text"]) for sample in samples) <= task.passage_chars
    assert {p.sample().id for p in task.passages("train")} <= {sample.id for sample in samples}


def test_an_unknown_split_and_senseless_settings_are_named(task):
    with pytest.raises(ConfigError, match="Did you mean 'validation'"):
        task.examples("validaton")
    with pytest.raises(ConfigError, match="passage_chars=0"):
        PythonDocs(passage_chars=0)
    with pytest.raises(ConfigError, match=r"test_share=0\.9"):
        PythonDocs(test_share=0.9)


# --- the n-gram models --------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    texts=st.lists(st.binary(max_size=30), min_size=1, max_size=4),
    prefix=st.binary(max_size=6),
    order=st.integers(1, 5),
)
def test_an_ngram_model_is_a_probability_distribution(texts, prefix, order):
    """Over every next byte and the end, the probabilities sum to one; START takes none of it."""
    model = WittenBell(order, texts)
    end_given_prefix = model.bits(prefix)
    # bits(prefix + byte) counts the end behind it; p(prefix + byte) is what all its continuations share, so
    # compare through the levels: p(next | prefix) for each symbol, by the recursion written out.
    total = sum(recursion(texts, order, prefix, symbol) for symbol in range(ALPHABET))
    assert total == pytest.approx(1)
    so_far = math.prod(recursion(texts, order, prefix[:i], byte) for i, byte in enumerate(prefix))
    assert 2**-end_given_prefix == pytest.approx(so_far * recursion(texts, order, prefix, 256))


def recursion(texts: list[bytes], order: int, prefix: bytes, symbol: int) -> float:
    """p(symbol | prefix), the formula in the slow and obvious way."""
    start = (257,) * (order - 1)
    context = (start + tuple(prefix))[len(prefix) :] if order > 1 else ()
    p = 1 / 257
    for size in range(order):
        suffix = context[len(context) - size :]
        after = Counter()
        for text in texts:
            symbols = (*start, *text, 256)
            for at in range(order - 1, len(symbols)):
                if symbols[at - size : at] == suffix:
                    after[symbols[at]] += 1
        if after:
            p = (after[symbol] + len(after) * p) / (after.total() + len(after))
    return p


def test_witten_bell_by_hand():
    """b"aa" with one symbol of context: T(empty)=2 of c=3, so p_1(a)=(2+2/257)/5; then T(a)=2 of c(a)=2."""
    a = (2 + 2 / 257) / 5
    end = (1 + 2 / 257) / 5
    expected = (1 + a) / 2 * (1 + 2 * end) / 4  # p(a | START) · p(END | a)
    assert WittenBell(2, [b"aa"]).bits(b"a") == pytest.approx(-math.log2(expected))


def test_an_order_without_room_is_refused():
    with pytest.raises(ConfigError, match="expected 1 to 7"):
        WittenBell(8, [b"text"])


def test_the_baselines_are_where_they_should_be(task):
    """Orders of magnitude of English with markup; far lower would mean that quotations were left in."""
    found = task.baselines()["bits_per_byte"]
    assert list(found) == ["3-gram", "5-gram"]
    assert 2.4 < found["3-gram"] < 3
    assert 1.9 < found["5-gram"] < found["3-gram"] - 0.3


def test_baselines_judge_the_passages_the_model_is_scored_on(task):
    train = [passage.text.encode() for passage in task.passages("train")]
    model = WittenBell(3, train)
    texts = [sample.values["text"].encode() for sample in task.examples("test")]
    expected = sum(model.bits(text) for text in texts) / sum(len(text) for text in texts)
    assert task.baselines()["bits_per_byte"]["3-gram"] == pytest.approx(expected)


# --- scoring ------------------------------------------------------------------------------------------------


@dataclass
class Bytes(Tokenizer):
    """Each byte a piece, between <s>=256 and </s>=257."""

    name: str = "text"

    @property
    def streams(self):
        return (StreamSpec.discrete(self.name, 258, end=257),)

    def encode(self, raw):
        return Tokens.of(self.name, torch.tensor([256, *raw.encode(), 257]))

    def decode(self, tokens):
        return bytes(v for v in tokens.streams[self.name].values.tolist() if v < 256).decode(errors="replace")

    def length(self, raw):
        return len(raw.encode()) + 2

    def example(self, rng):
        return "text"


class Uniform:
    """Gives every value of a target the same probability, and continues every prompt with "!" to the end."""

    def __init__(self):
        self.tokenizers = {"text": Bytes()}
        self.prompts = []

    def log_likelihoods(self, examples):
        counts = [sum(len(target.values) for target in example.targets.values()) for example in examples]
        return [(-count * math.log(258), count) for count in counts]

    def generate(self, prompts, stream, max_new):
        self.prompts += prompts
        return [Tokens.of(stream, torch.tensor([33, 257])) for _ in prompts]


def test_bits_per_byte_counts_every_piece_and_the_end_over_all_bytes(task):
    samples = task.examples("test")
    scores = list(task.score(Uniform(), samples))
    assert [score.id for score in scores] == [sample.id for sample in samples]
    assert {score.metric for score in scores} == {task.metrics[0].name}
    sizes = [len(sample.values["text"].encode()) for sample in samples]
    for score, sample, size in zip(scores, samples, sizes, strict=True):
        assert score.weight == size and score.cluster == sample.cluster
        assert score.value == pytest.approx((size + 1) * math.log2(258) / size)
    total = sum(score.weight * score.value for score in scores) / sum(score.weight for score in scores)
    assert total == pytest.approx((sum(sizes) + len(sizes)) * math.log2(258) / sum(sizes))


def test_pieces_that_training_leaves_out_are_counted_too(task, monkeypatch):
    samples = task.examples("test")[:5]
    whole = [(score.id, score.value) for score in task.score(Uniform(), samples)]
    monkeypatch.setattr(task, "objective", TokenDropping({"type": "next_token"}, "text", least=0.5))
    assert [(score.id, score.value) for score in task.score(Uniform(), samples)] == whole


def test_a_few_scores_show_what_the_model_writes_after_the_first_half(task):
    model = Uniform()
    samples = task.examples("test")[:5]
    scores = list(task.score(model, samples))
    shown = [score.shown.get("continuation") for score in scores]
    assert [text is not None for text in shown] == [True, True, True, False, False]
    opening, written = shown[0].split("▶")
    text = samples[0].values["text"]
    assert written == "!" and text.startswith(opening) and abs(2 * len(opening) - len(text)) <= 2
    assert all(not prompt.targets for prompt in model.prompts)
    assert [score.shown["text"] for score in scores] == [sample.values["text"] for sample in samples]


class EveryOther(NextToken):
    """Predicts half of the values: what a masked objective would do."""

    def prepare(self, tokens, rng):
        example = super().prepare(tokens, rng)
        half = {name: t.map(lambda x: x[::2]) for name, t in example.targets.items()}
        return Example(example.tokens, half, task=example.task)


def test_an_objective_that_predicts_only_part_of_the_text_is_refused():
    """Bits of half of the pieces over all of the bytes would look like a fine model."""
    task = PythonDocs()
    task.objective = EveryOther()
    with pytest.raises(ConfigError, match="all but the first"):
        list(task.score(Uniform(), task.examples("test")[:1]))


def test_samples_are_text_and_the_same_at_every_call(task):
    for split in ("train", *HELD_OUT):
        samples = task.examples(split)
        assert samples == task.examples(split)
        assert all(set(sample.values) == set(task.fields) for sample in samples)
        assert all(isinstance(sample.values["text"], str) and sample.values["text"] for sample in samples)


def test_scoring_does_not_depend_on_the_other_samples(task):
    samples = task.examples("test")[:4]
    alone = [score.value for sample in samples for score in task.score(Uniform(), [sample])]
    np.testing.assert_allclose(alone, [score.value for score in task.score(Uniform(), samples)])
