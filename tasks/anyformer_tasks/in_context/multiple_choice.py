"""The likeliest of several endings or answers: HellaSwag, StoryCloze, PIQA and whatever is written like them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from anyformer.contracts import Metric, Sample, Score, Split
from anyformer.errors import ConfigError
from anyformer.evaluation.likelihood import Likelihood
from anyformer_tasks.in_context.prompt import Record
from anyformer_tasks.in_context.questions import Questions, content, record_of

if TYPE_CHECKING:
    from anyformer.model import Model

LENGTHS: Mapping[str, Callable[[str, Likelihood], float]] = {
    "accuracy": lambda choice, found: 1.0,
    "accuracy_by_characters": lambda choice, found: float(len(choice)),
    "accuracy_by_tokens": lambda choice, found: float(len(found.nats)),
}
"""What a choice's log-likelihood is divided by. The first two are lm-eval's acc and acc_norm; the third is GPT-3's
(arXiv:2005.14165 §2.4)."""


@dataclass
class MultipleChoice(Questions):
    """choices: the field that lists them, or one field for each. label: the field that says which is right, counted
    from first_label; labels: instead, a file for each split with one label a line (PIQA's)."""

    choices: list[str] = field(default_factory=lambda: ["sol1", "sol2"])
    label: str = "label"
    first_label: int = 0
    labels: dict[str, str] = field(default_factory=dict)

    source: ClassVar[str] = "a file of one question a line, as published with the benchmark"
    metrics: ClassVar[tuple[Metric, ...]] = tuple(Metric(name, higher_is_better=True) for name in LENGTHS)

    def records(self, split: Split) -> list[Record]:
        """Beside the published fields: choices, gold (from 0) and answer, the right choice."""
        records = super().records(split)
        if split in self.labels:
            labels = content(Path(self.data_dir) / self.labels[split], "one label a line").split()
            if len(labels) != len(records):
                raise ConfigError(f"{self.labels[split]} has {len(labels)} labels for {len(records)} questions.")
            records = [{**record, self.label: label} for record, label in zip(records, labels, strict=True)]
        return [self._complete(record) for record in records]

    def score(self, model: Model, samples: Sequence[Sample]) -> Iterator[Score]:
        records = [record_of(sample) for sample in samples]
        answers = [[self.template.answered({**r, "answer": c}) for c in r["choices"]] for r in records]
        asked = zip(self.contexts(samples), answers, strict=True)
        found = iter(self.text_model(model).log_likelihoods([(c, answer) for c, own in asked for answer in own]))
        for sample, record in zip(samples, records, strict=True):
            likelihoods = [next(found) for _ in record["choices"]]
            for metric, length in LENGTHS.items():
                said = chosen(likelihoods, [length(*both) for both in zip(record["choices"], likelihoods, strict=True)])
                shown = {"text": self.template.asked(record), "said": record["choices"][said]}
                yield Score(sample.id, metric, float(said == record["gold"]), cluster=sample.cluster, shown=shown)

    def _complete(self, record: Record) -> Record:
        return with_choices(record, self.choices, self.label, self.first_label)


def with_choices(record: Record, choices: Sequence[str], label: str, first_label: int) -> Record:
    """A record with its choices, gold (from 0) and answer, the right one, beside the published fields. The settings are
    MultipleChoice's."""
    missing = [name for name in (*choices, label) if name not in record]
    if missing:
        raise ConfigError(f"A question has no field {missing[0]!r}; it has {', '.join(record)}. Name it as it is.")
    there = list(record[choices[0]]) if len(choices) == 1 else [record[name] for name in choices]
    gold = int(record[label]) - first_label
    if not 0 <= gold < len(there):
        raise ConfigError(f"A question has the label {record[label]!r} and {len(there)} choices; set first_label.")
    return {**record, "choices": there, "gold": gold, "answer": there[gold]}


def chosen(found: Sequence[Likelihood], lengths: Sequence[float]) -> int:
    """The first of the likeliest choices, each by its length."""
    return int(np.argmax([f.total / max(length, 1.0) for f, length in zip(found, lengths, strict=True)]))
