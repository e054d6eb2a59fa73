"""Questions answered from memory, as NaturalQuestions-open, WebQuestions and TriviaQA are judged."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from anyformer.contracts import Metric, Sample, Score, Split
from anyformer.errors import ConfigError, unknown
from anyformer_tasks.in_context.prompt import Record
from anyformer_tasks.in_context.questions import Questions, record_of

if TYPE_CHECKING:
    from anyformer.model import Model


def _web_answers(record: Record) -> list[str]:
    found = re.findall(r'\(description (?:"([^"]*)"|([^()]*))\)', record["targetValue"])
    return [quoted or bare for quoted, bare in found]


def _trivia_answers(record: Record) -> list[str]:
    answer = record["Answer"]
    return list(dict.fromkeys([answer["Value"], *answer.get("Aliases", [])]))


FORMATS: Mapping[str, tuple[str, Callable[[Record], list[str]]]] = {
    "nq_open": ("question", lambda record: list(record["answer"])),
    "web_questions": ("utterance", _web_answers),
    "trivia_qa": ("Question", _trivia_answers),
}
"""Where a published file has its question and its answers, any of which is right."""


@dataclass
class OpenQA(Questions):
    """format: one of FORMATS. max_new: the most tokens of an answer, which is written greedily."""

    files: dict[str, str] = field(default_factory=lambda: {"test": "NQ-open.dev.jsonl"})
    prompt: str = "question_answer"
    format: str = "nq_open"
    max_new: int = 32

    source: ClassVar[str] = "a file of questions with their answers, as published with the benchmark"
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("exact_match", higher_is_better=True),)

    def records(self, split: Split) -> list[Record]:
        """Beside the published fields: question, answers and answer, the first of them."""
        if self.format not in FORMATS:
            raise unknown("format", self.format, FORMATS)
        question, answers = FORMATS[self.format]
        found = []
        for record in super().records(split):
            try:
                right = answers(record)
                found.append({**record, "question": record[question], "answers": right, "answer": right[0]})
            except (KeyError, IndexError) as error:
                raise ConfigError(
                    f"A question of {self.files[split]} lacks {error}; expected the format {self.format!r}."
                ) from error
        return found

    def score(self, model: Model, samples: Sequence[Sample]) -> Iterator[Score]:
        texts = self.text_model(model).write(self.contexts(samples), self.max_new, [self.template.until])
        for sample, text in zip(samples, texts, strict=True):
            record, said = record_of(sample), self.template.said(text)
            shown = {"text": record["question"], "said": said, "answers": ", ".join(record["answers"])}
            right = exact_match(said, record["answers"])
            yield Score(sample.id, "exact_match", float(right), cluster=sample.cluster, shown=shown)


def exact_match(said: str, answers: Sequence[str]) -> bool:
    return normalised(said) in {normalised(answer) for answer in answers}


def normalised(answer: str) -> str:
    """Lower case, without punctuation, articles and superfluous blanks (SQuAD, arXiv:1606.05250).

    >>> normalised("The  U.S. (a  country)")
    'us country'
    """
    plain = "".join(letter for letter in answer.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", plain).split())
