"""Questions that a passage answers in its own words (SQuAD, arXiv:1606.05250): which of its words are the answer."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from anyformer.contracts import Metric, Sample, Score, Split, Task
from anyformer.errors import ConfigError, SampleError
from anyformer.objectives import ExtractiveAnswer
from anyformer.objectives.classification import items_in
from anyformer_tasks.files import Record
from anyformer_tasks.in_context.open_qa import exact_match, normalised
from anyformer_tasks.language.dataset import Dataset
from anyformer_tasks.language.judgement import judged, prepared
from anyformer_tasks.language.measures import shared_words

if TYPE_CHECKING:
    from anyformer.batch import Example
    from anyformer.contracts import Objective
    from anyformer.model import Model

NAME = "reading"

WORD = re.compile(r"[^\W_]+|[^\s]")
"""A run of letters and digits, or any other character that is no blank by itself, as BERT's words are."""

SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True)
class Passage:
    """A text in words, which are given to the tokenizer joined by blanks, and where each of them stands in the text."""

    text: str
    places: Sequence[tuple[int, int]]

    @classmethod
    def of(cls, text: str) -> Passage:
        return cls(text, [match.span() for match in WORD.finditer(text)])

    def words(self, first: int = 0, end: int | None = None) -> str:
        """Words first to end - 1, as the tokenizer gets them."""
        return " ".join(self.text[a:b] for a, b in self.places[first:end])

    def said(self, first: int, last: int) -> str:
        """What stands in the text from one word to another."""
        return self.text[self.places[first][0] : self.places[last][1]]

    def span(self, begin: int, end: int) -> tuple[int, int]:
        """First and last word of the characters begin to end - 1. ValueError where there is none."""
        found = [number for number, (a, b) in enumerate(self.places) if b > begin and a < end]
        if not found:
            raise ValueError(f"no word stands at {begin} to {end}")
        return found[0], found[-1]


@dataclass(frozen=True)
class Asked(Sample):
    """A sample that knows the whole passage and every answer that is right."""

    passage: Passage = field(default_factory=lambda: Passage("", []))
    answers: Sequence[str] = ()


@dataclass
class Reading(Task):
    """dataset, data_dir: a page of configs/datasets of the format squad, and where its files are.

    window, stride: a passage of more words than `window` is read in windows of so many, each moved by `stride`, and the
    best span of all of them is the answer (the sliding windows of BERT's released code, run_squad.py). Training reads
    the window that holds most around the answer.
    longest: the most words of an answer that is given.

    A sample is {"question": str, "context": str, "answer": (first, last)}: words of the context, both included. Words
    are parted at punctuation and joined by blanks; the text's tokenizer must make each an item (items: words). Scores
    are SQuAD's, the best over the answers that are right. Questions without an answer (SQuAD 2.0) are refused.
    """

    dataset: str = "xquad"
    data_dir: str = ""
    window: int = 256
    stride: int = 128
    longest: int = 30

    fields: ClassVar[Mapping[str, str]] = {"question": "text", "context": "text", "answer": "answer"}
    modality: ClassVar[str] = "text"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("f1", higher_is_better=True),
        Metric("exact_match", higher_is_better=True),
    )

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.window or self.longest < 1:
            raise ConfigError(
                f"{NAME} has window={self.window}, stride={self.stride}, longest={self.longest}; expected at least 1 "
                "each, and a stride of at most the window."
            )

    def default_objective(self) -> Objective:
        return ExtractiveAnswer(target="answer", context="context")

    @cached_property
    def source(self) -> Dataset:
        return Dataset.named(self.dataset, self.data_dir)

    def examples(self, split: Split) -> Sequence[Asked]:
        return [self._asked(f"{split}-{i}", record) for i, record in enumerate(self.source.records(split))]

    def score(self, model: Model, samples: Sequence[Sample]) -> Iterator[Score]:
        for sample, said in zip(samples, self.answers(model, [_asked(sample) for sample in samples]), strict=True):
            right = _asked(sample).answers
            shown = {
                "question": sample.values["question"],
                "context": _asked(sample).passage.text,
                "answers": " | ".join(dict.fromkeys(right)),
                "prediction": said,
            }
            yield Score(sample.id, "f1", overlap(said, right), cluster=sample.cluster, shown=shown)
            yield Score(sample.id, "exact_match", float(exact_match(said, right)), cluster=sample.cluster)

    def answers(self, model: Model, samples: Sequence[Asked]) -> list[str]:
        """What the model takes from each passage. Windows are compared by the sum of both logits, as in BERT's code."""
        windows = [(sample, begin) for sample in samples for begin in self._windows(len(sample.passage.places))]
        read = [_window(sample, begin, begin + self.window, (0, 0)) for sample, begin in windows]
        examples = prepared(NAME, self, model, read)
        names = [spec.name for spec in model.tokenizers[self.fields["answer"]].streams]
        sides = zip(*(judged(model, examples, name) for name in names), strict=True)
        best: dict[str, tuple[float, str]] = {}
        for (sample, begin), one, example, logits in zip(windows, read, examples, sides, strict=True):
            words = one.values["context"].count(" ") + 1
            value, first, last = best_span(*_by_word(example, names, logits, words, sample.id), self.longest)
            found = value, sample.passage.said(begin + first, begin + last)
            best[sample.id] = max(best.get(sample.id, found), found)
        return [best[sample.id][1] for sample in samples]

    def baselines(self) -> Mapping[str, Mapping[str, float]]:
        """Without learning: the passage's sentence that shares the rarest words with the question, without those words
        (after the sliding window of D13-1020 §4, which ranks given answers)."""
        found = [
            (best_sentence(one.passage.text, one.values["question"]), one.answers) for one in self.examples("test")
        ]
        name = "most similar sentence"
        return {
            "f1": {name: sum(overlap(said, right) for said, right in found) / len(found)},
            "exact_match": {name: sum(exact_match(said, right) for said, right in found) / len(found)},
        }

    def _windows(self, words: int) -> list[int]:
        """Where windows begin; the last one ends with the passage."""
        return [*range(0, max(0, words - self.window), self.stride), max(0, words - self.window)]

    def _asked(self, name: str, record: Record) -> Asked:
        try:
            passage = Passage.of(record["context"])
            spans = [_span(passage, answer) for answer in record["answers"]]
            question = Passage.of(record["question"]).words()
            if not spans or not question:
                raise ValueError("there is no answer" if question else "there is no question")
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"Question {record.get('id', name)!r} of {self.dataset!r} cannot be used ({error}); expected a "
                "question with answers that stand in its context (SQuAD 1.1). Leave it out."
            ) from error
        sample = Asked(
            name,
            {"question": question},
            cluster=record.get("title") or record["context"],
            passage=passage,
            answers=[answer["text"] for answer in record["answers"]],
        )
        first, last = spans[0]
        last = min(last, first + self.window - 1)
        begins = [
            begin for begin in self._windows(len(passage.places)) if begin <= first and last < begin + self.window
        ]
        middle = (first + last - self.window) / 2
        begin = min(begins or [first], key=lambda begin: abs(begin - middle))
        return _window(sample, begin, begin + self.window, (first - begin, last - begin))


def _window(sample: Asked, begin: int, end: int, answer: tuple[int, int]) -> Asked:
    values = {"question": sample.values["question"], "context": sample.passage.words(begin, end), "answer": answer}
    return replace(sample, values=values)


def _asked(sample: Sample) -> Asked:
    if not isinstance(sample, Asked):
        raise ConfigError(f"Sample {sample.id!r} has no passage; expected one of this task's own examples.")
    return sample


def _span(passage: Passage, answer: Mapping[str, object]) -> tuple[int, int]:
    """First and last word of an answer. ValueError where it does not stand where it says."""
    text, begin = str(answer["text"]), int(str(answer["answer_start"]))
    if passage.text[begin : begin + len(text)] != text:
        raise ValueError(f"{text!r:.40} does not stand at {begin}")
    return passage.span(begin, begin + len(text))


def _by_word(
    example: Example, names: Sequence[str], logits: Sequence[Float[Tensor, "slots 1"]], words: int, sample: str
) -> list[Float[Tensor, " words"]]:
    """A word begins at its first slot and ends at its last."""
    slots = example.targets[names[0]].slots
    edges = items_in(example.tokens, range(int(slots[0]), int(slots[-1]) + 1))
    if len(edges[0]) != words:
        raise SampleError(
            f"The context of sample {sample!r} has {words} words, of which the tokenizer makes {len(edges[0])} items; "
            "expected as many. Let it make each word an item (items: words)."
        )
    return [row[:, 0][torch.tensor(edge) - slots[0]] for row, edge in zip(logits, edges, strict=True)]


def best_span(starts: Float[Tensor, " words"], ends: Float[Tensor, " words"], longest: int) -> tuple[float, int, int]:
    """The largest start + end with first <= last < first + longest, and its first and last word.

    >>> best_span(torch.tensor([0.0, 5.0, 1.0]), torch.tensor([9.0, 0.0, 2.0]), 2)
    (9.0, 0, 0)
    """
    sums = starts[:, None] + ends
    sums = sums.masked_fill(~torch.ones_like(sums).triu().tril(longest - 1).bool(), -math.inf)
    first, last = divmod(int(sums.argmax()), len(ends))
    return float(sums[first, last]), first, last


def overlap(said: str, answers: Sequence[str]) -> float:
    """F1 of the words that are shared with the answer that shares most, as SQuAD's official script counts them.

    >>> overlap("the cat", ["A big cat", "dog"])
    0.6666666666666666
    """
    return max(shared_words(said, answer) for answer in answers)


def best_sentence(context: str, question: str) -> str:
    """The sentence whose words of the question weigh most, log(1 + 1 / how often in the context), without them."""
    asked = set(normalised(question).split())
    often = Counter(normalised(context).split())
    sentences = SENTENCE_END.split(context)
    best = max(
        sentences, key=lambda each: math.fsum(math.log(1 + 1 / often[w]) for w in asked & {*normalised(each).split()})
    )
    return " ".join(word for word in best.split() if normalised(word) not in asked)
