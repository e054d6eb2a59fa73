"""Every task as text in, text out (T5, arXiv:1910.10683 §2.4): translation, summaries, questions, spoken labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from anyformer.contracts import Metric, Sample, Score, Split, Task
from anyformer.errors import ConfigError, unknown
from anyformer.model.beam import Beams
from anyformer.objectives import SequenceToSequence
from anyformer_tasks.in_context.prompt import Prompt
from anyformer_tasks.language.dataset import Dataset
from anyformer_tasks.language.judgement import prepared
from anyformer_tasks.language.lengths import answered, slots
from anyformer_tasks.language.measures import MEASURES

if TYPE_CHECKING:
    from anyformer.batch import Example
    from anyformer.contracts import Objective
    from anyformer.model import Model
    from anyformer.tokens import Tokens

TOKEN_BUDGET = 16_384  # slots, those to be written among them, that are written in at once


@dataclass(frozen=True)
class Asked(Sample):
    """A sample that knows every right answer; its target is the first."""

    right: tuple[str, ...] = ()


@dataclass
class TextToText(Task):
    """What a data set's records ask and how they are answered, in words.

    dataset, data_dir: a page of configs/datasets, and where its files are. prompt: a template of configs/prompts, or a
    file, see `spoken` for what it may name. metric: one of MEASURES. source, target: the tokenizers of both texts.
    longest: the most characters of a source; what stands behind is left out. lowercase: of both texts. first: how many
    samples of a split that is not for training there are, by default all.
    max_new: the most tokens of an answer. beams, length_penalty: how it is looked for, see Beams; one beam is greedy.
    """

    dataset: str = "multi30k"
    data_dir: str = ""
    prompt: str = "translate_de_en"
    metric: str = "bleu"
    source: str = "text"
    target: str = "text"
    longest: int | None = None
    lowercase: bool = False
    first: int | None = None
    max_new: int = 64
    beams: int = 1
    length_penalty: float = 1.0

    modality: ClassVar[str] = "text"

    def __post_init__(self) -> None:
        if self.metric not in MEASURES:
            raise unknown("metric", self.metric, MEASURES)
        if min(self.max_new, self.beams, *(n for n in (self.longest, self.first) if n is not None)) < 1:
            raise ConfigError(
                f"text_to_text has max_new={self.max_new}, beams={self.beams}, longest={self.longest}, "
                f"first={self.first}; expected at least 1 of each, or null for the last two."
            )

    @property
    def fields(self) -> Mapping[str, str]:  # ty: ignore[incompatible-property-override]
        return {"source": self.source, "target": self.target}

    @property
    def metrics(self) -> tuple[Metric, ...]:  # ty: ignore[incompatible-property-override]
        return MEASURES[self.metric].metrics

    def default_objective(self) -> Objective:
        return SequenceToSequence(target="target")

    @cached_property
    def template(self) -> Prompt:
        return Prompt.named(self.prompt)

    @cached_property
    def _source(self) -> Dataset:
        return Dataset.named(self.dataset, self.data_dir)

    def examples(self, split: Split) -> Sequence[Asked]:
        records = self._source.records(split)
        if split != "train":
            records = records[: self.first]
        return [self._sample(f"{split}-{i}", spoken(record)) for i, record in enumerate(records)]

    def score(self, model: Model, samples: Sequence[Sample]) -> Iterator[Score]:
        measure = MEASURES[self.metric]
        measure.require()
        said = [self.template.said(text) for text in self.written(model, samples)]
        found = measure.judge(said, [right_of(sample) for sample in samples])
        for sample, text, *values in zip(samples, said, *found.values(), strict=True):
            shown = {**sample.values, "said": text}
            for name, value in zip(found, values, strict=True):
                yield Score(sample.id, name, value, cluster=sample.cluster, shown=shown)

    def written(self, model: Model, samples: Sequence[Sample]) -> list[str]:
        """The model's own answer to each sample's source."""
        asked = [replace(s, values={k: v for k, v in s.values.items() if k != "target"}) for s in samples]
        prompts = prepared("text_to_text", self, model, asked)
        tokenizer = model.tokenizers[self.target]
        stream = tokenizer.streams[0].name

        def write(batch: Sequence[Example]) -> list[Tokens]:
            if self.beams == 1:
                return model.generate(batch, stream, self.max_new)
            found = model.beam_search(
                batch, stream, Beams(self.beams, self.max_new, length_penalty=self.length_penalty)
            )
            return [best.tokens for best, *_ in found]

        size = lambda prompt: self.beams * (slots(prompt) + self.max_new)  # noqa: E731
        return [tokenizer.decode(tokens) for tokens in answered(prompts, size, TOKEN_BUDGET, write)]

    def baselines(self) -> Mapping[str, Mapping[str, float]]:
        """The commonest answer of the training split, given to everything."""
        measure = MEASURES[self.metric]
        measure.require()
        ((commonest, _),) = Counter(sample.values["target"] for sample in self.examples("train")).most_common(1)
        right = [right_of(sample) for sample in self.examples("test")]
        found = measure.judge([commonest] * len(right), right)
        return {name: {"commonest answer": float(np.mean(values))} for name, values in found.items()}

    def _sample(self, name: str, record: Mapping[str, Any]) -> Asked:
        cased = str.lower if self.lowercase else str
        answers = record.get("answers") or [record.get("answer", "")]
        right = [cased(self.template.answered({**record, "answer": answer})) for answer in answers]
        asked = cased(self.template.asked(record))[: self.longest]
        return Asked(name, {"source": asked, "target": right[0]}, right=tuple(dict.fromkeys(right)))


def right_of(sample: Sample, target: str = "target") -> tuple[str, ...]:
    """Every answer that is right for a sample. target: the field that holds one of them."""
    return sample.right if isinstance(sample, Asked) else (sample.values[target],)


def spoken(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record in words: a list of words is a text, and of `answers` each is right, and `answer` one of them.

    >>> spoken({"words": ["New", "York"], "answers": [{"text": "two", "answer_start": 3}]})
    {'words': 'New York', 'answers': ['two'], 'answer': 'two'}
    """
    said = {name: " ".join(map(str, value)) if isinstance(value, list) else value for name, value in record.items()}
    if "answers" not in record:
        return said
    answers = [one["text"] if isinstance(one, Mapping) else str(one) for one in record["answers"]]
    return {**said, "answers": answers, "answer": next(iter(answers), "")}
