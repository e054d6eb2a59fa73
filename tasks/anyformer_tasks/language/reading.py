"""Questions that a passage answers in its own words, or not at all: which of its words are the answer (SQuAD 1.1 and
2.0, arXiv:1606.05250 and 1806.03822)."""

from __future__ import annotations

import itertools
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
WHOLE = ("f1", "exact_match")
PARTS = ("has_answer_f1", "has_answer_exact_match", "no_answer_accuracy")
VALIDATION = "validation"

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
class PassageSample(Sample):
    """A sample that knows the whole passage and every answer that is right."""

    passage: Passage = field(default_factory=lambda: Passage("", []))
    answers: Sequence[str] = ()


@dataclass(frozen=True)
class FoundSpan:
    """What a passage says in answer, and by how much its logits beat those of no answer."""

    text: str
    margin: float


@dataclass
class Reading(Task):
    """dataset, data_dir: a page of configs/datasets of the format squad, and where its files are.

    window, stride: a passage of more words than `window` is read in windows of so many, each moved by `stride`, and the
    best span of all of them is the answer (the sliding windows of BERT's released code, run_squad.py). Training reads
    the window that holds most around the answer.
    longest: the most words of an answer that is given.
    unanswerable: whether there are questions without an answer (SQuAD 2.0); they are refused otherwise. threshold: by
    how much the best span must then beat no answer, the least likely of all windows (τ of BERT, arXiv:1810.04805 §4.3);
    "validation" finds what is best on that split, whenever a model is scored.

    A sample is {"question": str, "context": str, "answer": (first, last)}: words of the context, both included, or ()
    where none answers. Words are parted at punctuation and joined by blanks; the text's tokenizer must make each an
    item (items: words). Scores are SQuAD's, the best over the answers that are right; no answer is one, where there is
    none.
    """

    dataset: str = "xquad"
    data_dir: str = ""
    window: int = 256
    stride: int = 128
    longest: int = 30
    unanswerable: bool = False
    threshold: float | str = 0.0

    fields: ClassVar[Mapping[str, str]] = {"question": "text", "context": "text", "answer": "answer"}
    modality: ClassVar[str] = "text"

    @property
    def metrics(self) -> tuple[Metric, ...]:  # ty: ignore[incompatible-property-override]
        """Of all questions; of those with an answer, and of those without, where there are such (arXiv:1806.03822)."""
        names = (*WHOLE, *PARTS) if self.unanswerable else WHOLE
        return tuple(Metric(name, higher_is_better=True) for name in names)

    def __post_init__(self) -> None:
        if self.threshold != VALIDATION and not isinstance(self.threshold, int | float):
            raise ConfigError(f"{NAME} has threshold={self.threshold!r}; expected a number, or {VALIDATION!r}.")
        if not 1 <= self.stride <= self.window or self.longest < 1:
            raise ConfigError(
                f"{NAME} has window={self.window}, stride={self.stride}, longest={self.longest}; expected at least 1 "
                "each, and a stride of at most the window."
            )

    def default_objective(self) -> Objective:
        return ExtractiveAnswer(target="answer", context="context", unanswerable=self.unanswerable)

    @cached_property
    def source(self) -> Dataset:
        return Dataset.named(self.dataset, self.data_dir)

    def examples(self, split: Split) -> Sequence[PassageSample]:
        return [self._asked(f"{split}-{i}", i, record) for i, record in enumerate(self.source.records(split))]

    def score(self, model: Model, samples: Sequence[Sample]) -> Iterator[Score]:
        for sample, said in zip(samples, self.answers(model, [_of_passage(sample) for sample in samples]), strict=True):
            right = _of_passage(sample).answers
            shown = {
                "question": sample.values["question"],
                "context": _of_passage(sample).passage.text,
                "answers": " | ".join(dict.fromkeys(right)),
                "prediction": said,
            }
            f1, exact = overlap(said, right), float(exact_match(said, right))
            yield Score(sample.id, "f1", f1, cluster=sample.cluster, shown=shown)
            yield Score(sample.id, "exact_match", exact, cluster=sample.cluster)
            if self.unanswerable:
                has = float(bool(sample.values["answer"]))
                for name, value, weight in zip(PARTS, (f1, exact, exact), (has, has, 1 - has), strict=True):
                    yield Score(sample.id, name, value, weight, sample.cluster)

    def answers(self, model: Model, samples: Sequence[PassageSample]) -> list[str]:
        """What the model takes from each passage, or nothing where it finds no answer."""
        found = self.found(model, samples)
        if not self.unanswerable:
            return [one.text for one in found]
        threshold = self.threshold
        if isinstance(threshold, str):
            known = self.examples("validation")
            threshold = best_threshold(self.found(model, known), [one.answers for one in known])
        return [one.text if one.margin > threshold else "" for one in found]

    def found(self, model: Model, samples: Sequence[PassageSample]) -> list[FoundSpan]:
        """The best span of each passage. Windows are compared by the sum of both logits, as in BERT's code."""
        windows = [(sample, begin) for sample in samples for begin in self._windows(len(sample.passage.places))]
        read = [_window(sample, begin, begin + self.window, (0, 0)) for sample, begin in windows]
        examples = prepared(NAME, self, model, read)
        names = [spec.name for spec in model.tokenizers[self.fields["answer"]].streams]
        sides = zip(*(judged(model, examples, name) for name in names), strict=True)
        best: dict[str, tuple[float, str]] = {}
        nothing: dict[str, float] = {}
        for (sample, begin), one, example, logits in zip(windows, read, examples, sides, strict=True):
            words = one.values["context"].count(" ") + 1
            value, first, last = best_span(*_by_word(example, names, logits, words, sample.id), self.longest)
            found = value, sample.passage.said(begin + first, begin + last)
            best[sample.id] = max(best.get(sample.id, found), found)
            if self.unanswerable:
                none = float(logits[0][0] + logits[1][0])  # of the first slot: the objective puts it there
                nothing[sample.id] = min(nothing.get(sample.id, none), none)
        return [FoundSpan(best[s.id][1], best[s.id][0] - nothing.get(s.id, 0.0)) for s in samples]

    def baselines(self) -> Mapping[str, Mapping[str, float]]:
        """Without learning: the passage's sentence that shares the rarest words with the question, without those words
        (after the sliding window of D13-1020 §4, which ranks given answers); and no answer at all, where there may be
        none."""
        test = self.examples("test")
        said = {"most similar sentence": [best_sentence(one.passage.text, one.values["question"]) for one in test]}
        if self.unanswerable:
            said["no answer"] = [""] * len(test)
        judges = {"f1": overlap, "exact_match": exact_match}
        found = {
            metric: {
                name: sum(judge(text, one.answers) for text, one in zip(texts, test, strict=True)) / len(test)
                for name, texts in said.items()
            }
            for metric, judge in judges.items()
        }
        return {metric: dict(sorted(by.items(), key=lambda item: -item[1])) for metric, by in found.items()}

    def _windows(self, words: int) -> list[int]:
        """Where windows begin; the last one ends with the passage."""
        return [*range(0, max(0, words - self.window), self.stride), max(0, words - self.window)]

    def _asked(self, name: str, number: int, record: Record) -> PassageSample:
        try:
            passage = Passage.of(record["context"])
            spans = [_span(passage, answer) for answer in record["answers"]]
            question = Passage.of(record["question"]).words()
            if not question or not passage.places or not (spans or self.unanswerable):
                raise ValueError(f"there is no {'answer' if question and passage.places else 'question or no text'}")
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"Question {record.get('id', name)!r} of {self.dataset!r} cannot be used ({error}); expected a "
                "question with answers that stand in its context (SQuAD 1.1; unanswerable: true allows for none, as in "
                "2.0). Leave it out."
            ) from error
        texts = [answer["text"] for answer in record["answers"]]
        if self.unanswerable:  # as the official script of version 2.0 does
            texts = [text for text in texts if normalised(text)] or [""]
        cluster = record.get("title") or record["context"]
        sample = PassageSample(name, {"question": question}, cluster=cluster, passage=passage, answers=texts)
        windows = self._windows(len(passage.places))
        if not spans:
            begin = windows[number % len(windows)]
            return _window(sample, begin, begin + self.window, ())
        first, last = spans[0]
        last = min(last, first + self.window - 1)
        begins = [begin for begin in windows if begin <= first and last < begin + self.window]
        middle = (first + last - self.window) / 2
        begin = min(begins or [first], key=lambda begin: abs(begin - middle))
        return _window(sample, begin, begin + self.window, (first - begin, last - begin))


def _window(sample: PassageSample, begin: int, end: int, answer: tuple[int, ...]) -> PassageSample:
    values = {"question": sample.values["question"], "context": sample.passage.words(begin, end), "answer": answer}
    return replace(sample, values=values)


def _of_passage(sample: Sample) -> PassageSample:
    if not isinstance(sample, PassageSample):
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
    spare = int(slots[0] == 0)  # the slot of no answer stands before the context's
    edges = items_in(example.tokens, range(int(slots[spare]), int(slots[-1]) + 1))
    if len(edges[0]) != words:
        raise SampleError(
            f"The context of sample {sample!r} has {words} words, of which the tokenizer makes {len(edges[0])} items; "
            "expected as many. Let it make each word an item (items: words)."
        )
    return [row[spare:, 0][torch.tensor(edge) - slots[spare]] for row, edge in zip(logits, edges, strict=True)]


def best_span(starts: Float[Tensor, " words"], ends: Float[Tensor, " words"], longest: int) -> tuple[float, int, int]:
    """The largest start + end with first <= last < first + longest, and its first and last word.

    >>> best_span(torch.tensor([0.0, 5.0, 1.0]), torch.tensor([9.0, 0.0, 2.0]), 2)
    (9.0, 0, 0)
    """
    sums = starts[:, None] + ends
    sums = sums.masked_fill(~torch.ones_like(sums).triu().tril(longest - 1).bool(), -math.inf)
    first, last = divmod(int(sums.argmax()), len(ends))
    return float(sums[first, last]), first, last


def best_threshold(found: Sequence[FoundSpan], answers: Sequence[Sequence[str]]) -> float:
    """The threshold of the highest F1, as SQuAD 2.0's official script looks for it: a question's F1 is that of its span
    where the margin is above, else that of no answer.

    >>> best_threshold([FoundSpan("a cat", 2.0), FoundSpan("dog", 0.5)], [["cat"], [""]])
    0.5
    """
    order = sorted(range(len(found)), key=lambda i: -found[i].margin)
    gains = [overlap(found[i].text, answers[i]) - overlap("", answers[i]) for i in order]
    sums = [0.0, *itertools.accumulate(gains)]
    margins = [found[i].margin for i in order] + [-math.inf]
    cuts = [i for i in range(len(sums)) if i == 0 or margins[i] < margins[i - 1]]  # equal margins are not parted
    return margins[max(cuts, key=sums.__getitem__)]


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
