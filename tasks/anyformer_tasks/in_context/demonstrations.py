"""Does it matter that demonstrations are labelled rightly? (Min et al. 2022, arXiv:2202.12837, "Rethinking the Role of
Demonstrations")"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from anyformer.contracts import Split, Study
from anyformer.errors import ConfigError, LimitError, unknown
from anyformer.evaluation.report import write_whole
from anyformer.evaluation.statistics import key, mean_interval, paired_difference
from anyformer.registry import tasks
from anyformer_tasks.files import content, lines
from anyformer_tasks.in_context.conditions import CONDITIONS, Lesson, Material, check
from anyformer_tasks.in_context.multiple_choice import LENGTHS, MultipleChoice, chosen
from anyformer_tasks.in_context.prompt import Prompt, Record, shots

if TYPE_CHECKING:
    from anyformer.evaluation.likelihood import TextModel
    from anyformer.model import Model

Said = Int[np.ndarray, "draws questions"]
"""Which choice was the likeliest, for each draw of demonstrations and each question."""


@dataclass(frozen=True)
class Exam:
    """asked: the questions by id. drawn: the demonstrations of each draw."""

    asked: Mapping[str, Record]
    drawn: Sequence[tuple[Record, ...]]
    material: Material


PAPER = ("no_demonstrations", "gold", "random", "correct_0", "correct_25", "correct_50", "correct_75")


@dataclass
class Demonstrations(Study):
    """Accuracy behind demonstrations to which something was done, beside that behind right ones.

    task: the set, `{type: multiple_choice | labelled_text, data_dir: …, …}`; prompt, shots and seed are this study's.
    scoring: name → prompt. Where the prompt's answer is the label it is direct, p(y|x); where its question is the label
        and its answer the input, it is channel scoring, p(x|y) (Min et al. 2021, arXiv:2108.04106).
    conditions: names of CONDITIONS, gold among them where differences are wanted (it is 100 % correct labels).
    shots: demonstrations before a question. draws: how often they are drawn; one draw serves all questions.
    corpus: a text file of sentences, one a line, for out_of_distribution. words: one a line, for english_words; by
        default the corpus' own.
    metric: what a choice's log-likelihood is divided by, one of LENGTHS. split, limit: of the questions.

    A row: accuracy over draws and questions, with an interval over questions; its spread, the standard deviation over
    draws; for a set of labels the paper's macro-F1, a mean over draws, and its spread; accuracy minus that of gold over
    the same draws and questions, with its interval over questions, and the p-value.
    """

    task: dict[str, Any] = field(default_factory=dict)
    scoring: dict[str, str] = field(default_factory=lambda: {"direct": "text_label", "channel": "label_text"})
    conditions: list[str] = field(default_factory=lambda: list(PAPER))
    shots: int = 16
    draws: int = 5
    corpus: str = ""
    words: str = ""
    metric: str = "accuracy_by_tokens"
    split: Split = "test"
    limit: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("shots", 1), ("draws", 1), ("limit", 1), ("seed", 0)):
            value = getattr(self, name)
            if not (isinstance(value, int) and value >= least) and not (name == "limit" and value is None):
                raise ConfigError(f"{name}={value!r}; expected a whole number, at least {least}.")
        for name, kind in (("task", Mapping), ("scoring", Mapping), ("conditions", list)):
            if not isinstance(getattr(self, name), kind) or not getattr(self, name):
                what = f"a {kind.__name__.lower()} that is not empty"
                raise ConfigError(f"{name}={getattr(self, name)!r}; expected {what}.")
        for condition in self.conditions:
            if condition not in CONDITIONS:
                raise unknown("condition", str(condition), CONDITIONS)
        if self.metric not in LENGTHS:
            raise unknown("metric", self.metric, LENGTHS)
        for name in ("prompt", "shots", "seed"):
            if name in self.task:
                raise ConfigError(
                    f"The task has its own {name}; leave it out and set the study's scoring, shots, seed."
                )

    @cached_property
    def questions(self) -> MultipleChoice:
        """The set; ConfigError unless its records have choices."""
        settings = dict(self.task)
        made = tasks.create(str(settings.pop("type", "multiple_choice")), settings)
        if not isinstance(made, MultipleChoice):
            raise ConfigError(f"The task is a {type(made).__name__}; expected multiple_choice or one that extends it.")
        return made

    def run(self, model: Model | None, out: Path | None) -> list[dict[str, Any]]:
        assert model is not None
        text, exam = self.questions.text_model(model), self._exam()
        prompts = {name: Prompt.named(prompt) for name, prompt in self.scoring.items()}
        for scoring, prompt in prompts.items():
            check(prompt, self.scoring[scoring])
            for condition in self.conditions:  # what cannot be made is told before the model has read anything
                next(self._lessons(condition, prompt, exam, 0))
        rows, told = [], []
        for scoring, prompt in prompts.items():
            said = {condition: self._said(condition, text, prompt, exam) for condition in self.conditions}
            rows += [{"scoring": scoring, **self._row(condition, said, exam)} for condition in self.conditions]
            told += [_line(scoring, condition, exam.asked, said[condition]) for condition in self.conditions]
        if out is not None:
            write_whole(out / "answers.jsonl", "".join(told))
        return rows

    def _exam(self) -> Exam:
        records, train = self.questions.records(self.split), self.questions.records("train")
        if not records:
            raise ConfigError(f"The split {self.split!r} has no questions; expected at least one.")
        asked = {f"{self.split}-{i}": records[i] for i in self._chosen(len(records))}
        same = {_plain(record) for record in records}
        pool = [record for record in train if _plain(record) not in same]
        drawn = [tuple(shots(self.shots, pool, self.seed, f"draw-{i}")) for i in range(self.draws)]
        sets = {tuple(record["choices"]) for record in (*records, *train)}
        sentences = _listed(self.corpus, "sentences, one a line")
        own = sorted({word for sentence in sentences for word in sentence.split() if word.isalpha() and word.islower()})
        material = Material(
            labels=sets.pop() if len(sets) == 1 else (),
            answers=tuple(record["answer"] for record in train),
            sentences=sentences,
            words=_listed(self.words, "words, one a line") or tuple(own),
        )
        return Exam(asked, drawn, material)

    def _chosen(self, count: int) -> Sequence[int]:
        """At most `limit` of the questions, over the whole split: its head may hold one class."""
        if self.limit is None or self.limit >= count:
            return range(count)
        drawn = np.random.default_rng(key(self.seed, "limit")).choice(count, self.limit, replace=False)
        return sorted(drawn.tolist())

    def _lessons(self, condition: str, prompt: Prompt, exam: Exam, draw: int) -> Iterator[Lesson]:
        for name, record in exam.asked.items():
            lesson = Lesson(name, exam.drawn[draw], record, prompt, prompt, exam.material, key(self.seed, draw))
            for step in CONDITIONS[condition]:
                lesson = step(lesson)
            yield lesson

    def _said(self, condition: str, text: TextModel, prompt: Prompt, exam: Exam) -> Said:
        """Without demonstrations all draws are one, which is asked once."""
        draws = 1 if condition == "no_demonstrations" else self.draws
        found = []
        for draw in range(draws):
            pairs = [lesson.asked() for lesson in self._lessons(condition, prompt, exam, draw)]
            found.append(self._likeliest(text, pairs, condition))
        return np.array(found)

    def _likeliest(self, text: TextModel, pairs: Sequence[Sequence[tuple[str, str]]], condition: str) -> list[int]:
        """LimitError where the model would not read all demonstrations: fewer of them would be another condition."""
        left_out = [max(text.left_out(*pair) for pair in own) for own in pairs]
        if any(left_out):
            raise LimitError(
                f"{sum(map(bool, left_out))} of {len(pairs)} questions behind demonstrations ({condition}) are longer "
                f"than what the model reads, by up to {max(left_out)} tokens; ask for fewer shots than {self.shots}."
            )
        found = iter(text.log_likelihoods([pair for own in pairs for pair in own]))
        said, length = [], LENGTHS[self.metric]
        for own in pairs:
            likelihoods = [next(found) for _ in own]
            lengths = [length(words.strip(), one) for (_, words), one in zip(own, likelihoods, strict=True)]
            said.append(chosen(likelihoods, lengths))
        return said

    def _row(self, condition: str, said: Mapping[str, Said], exam: Exam) -> dict[str, Any]:
        gold, names = np.array([record["gold"] for record in exam.asked.values()]), list(exam.asked)
        own = said[condition]
        right = (own == gold).astype(float)
        draws = right.mean(axis=1)
        interval = mean_interval(
            right.ravel().tolist(), [1.0] * right.size, names * len(own), key(self.seed, condition)
        )
        row = {
            "condition": condition,
            "questions": len(names),
            "accuracy": float(right.mean()),
            "interval": interval,
            "spread": spread(draws),
        }
        if exam.material.labels:
            scores = [macro_f1(gold, one) for one in own]
            row |= {"macro_f1": float(np.mean(scores)), "f1_spread": spread(scores)}
        if "gold" in said and condition != "gold":
            best = (said["gold"] == gold).astype(float)
            both = [(np.broadcast_to(one, best.shape).ravel().tolist(), [1.0] * best.size) for one in (best, right)]
            difference = paired_difference(both[0], both[1], names * len(best), key(self.seed, condition, "difference"))
            row |= {"minus_gold": difference.value, "interval_of_it": difference.interval, "p": difference.p_value}
        return row


def macro_f1(gold: Int[np.ndarray, " questions"], said: Int[np.ndarray, " questions"]) -> float:
    """The mean of F1 = 2·tp / (2·tp + fp + fn) over the classes that are right or were said somewhere.

    >>> macro_f1(np.array([0, 0, 1, 1]), np.array([0, 0, 0, 1])) == (4 / 5 + 2 / 3) / 2
    True
    """
    classes = np.union1d(gold, said)
    # 2·tp + fp + fn is how often a class is right plus how often it was said
    scores = [2 * np.sum((gold == c) & (said == c)) / (np.sum(gold == c) + np.sum(said == c)) for c in classes]
    return float(np.mean(scores))


def spread(values: Sequence[float] | np.ndarray) -> float | None:
    """The standard deviation over draws; none of one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _line(scoring: str, condition: str, asked: Mapping[str, Record], said: Said) -> str:
    """A line for each draw and question: the choice that was said and the right one."""
    return "".join(
        json.dumps(
            {
                "scoring": scoring,
                "condition": condition,
                "draw": draw,
                "id": name,
                "said": record["choices"][answer],
                "right": record["answer"],
            },
            ensure_ascii=False,
        )
        + "\n"
        for draw, own in enumerate(said.tolist())
        for (name, record), answer in zip(asked.items(), own, strict=True)
    )


def _listed(path: str, what: str) -> tuple[str, ...]:
    found = lines(content(Path(path), f"a text file of {what}")) if path else []
    return tuple(dict.fromkeys(line.strip() for line in found if line.strip()))


def _plain(record: Record) -> str:
    return json.dumps(record, sort_keys=True, default=str)
