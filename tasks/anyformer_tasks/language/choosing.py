"""Which of a question's answers is the right one, told by a model that was trained on such questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from anyformer.contracts import Metric, Sample, Score, Split, Task
from anyformer.errors import ConfigError, unknown
from anyformer.objectives import Choice
from anyformer_tasks.files import Record
from anyformer_tasks.in_context.multiple_choice import with_choices
from anyformer_tasks.language.dataset import Dataset
from anyformer_tasks.language.judgement import prepared, told

if TYPE_CHECKING:
    from anyformer.contracts import Objective
    from anyformer.model import Model

NAME = "choosing"
CHOICE = "choice"


@dataclass
class Choosing(Task):
    """dataset, data_dir: a page of configs/datasets, and where its files are.

    given: the records' fields that are read before an answer, in this order. choices: one for each answer, or the one
    that lists them, of at most `most`. label: which is right, counted from first_label. lowercase: of all texts.

    A sample is {"goal": …, "sol1": …, "sol2": …, "choice": 0}; what is listed as `endings` is endings_0, endings_1, …
    (To ask a model that was trained on text alone, see `multiple_choice`.)
    """

    dataset: str = "piqa"
    data_dir: str = ""
    given: list[str] = field(default_factory=lambda: ["goal"])
    choices: list[str] = field(default_factory=lambda: ["sol1", "sol2"])
    label: str = "label"
    first_label: int = 0
    most: int = 4
    lowercase: bool = False

    modality: ClassVar[str] = "text"
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("accuracy", higher_is_better=True),)

    def __post_init__(self) -> None:
        names = [*self.given, *self.choices]
        if not self.choices or self.most < 2 or len({*names, CHOICE}) <= len(names):
            raise ConfigError(
                f"{NAME} has given={self.given}, choices={self.choices}, most={self.most}; expected different fields, "
                f"none called {CHOICE!r}, and two answers or more."
            )

    @property
    def fields(self) -> Mapping[str, str]:  # ty: ignore[incompatible-property-override]
        return {**dict.fromkeys([*self.given, *self._answers], "text"), CHOICE: "choice"}

    @property
    def _answers(self) -> list[str]:
        one = self.choices[0]
        return [f"{one}_{number}" for number in range(self.most)] if len(self.choices) == 1 else self.choices

    def default_objective(self) -> Objective:
        return Choice(target=CHOICE, answers=self._answers)

    @cached_property
    def source(self) -> Dataset:
        return Dataset.named(self.dataset, self.data_dir)

    def examples(self, split: Split) -> Sequence[Sample]:
        return [self._sample(f"{split}-{i}", record) for i, record in enumerate(self.source.records(split))]

    def score(self, model: Model, samples: Sequence[Sample]) -> Iterator[Score]:
        """Whether the likeliest answer is the right one."""
        (stream,) = model.tokenizers[self.fields[CHOICE]].streams
        for sample, row in zip(
            samples, told(model, self, prepared(NAME, self, model, samples), stream.name), strict=True
        ):
            texts = self._texts(sample)
            said = int(row[: len(texts)].argmax())
            shown = {**{name: sample.values[name] for name in self.given}, "prediction": texts[said]}
            shown["answers"] = " | ".join(
                f"{text} ✓" if i == sample.values[CHOICE] else text for i, text in enumerate(texts)
            )
            yield Score(sample.id, "accuracy", float(said == sample.values[CHOICE]), shown=shown)

    def baselines(self) -> Mapping[str, Mapping[str, float]]:
        """Without reading, the better one first: always the place that is most often right in the training split, and
        always the longest answer."""
        test = self.examples("test")
        often = Counter(sample.values[CHOICE] for sample in self.examples("train")).most_common(1)[0][0]
        lengths = [[len(text) for text in self._texts(sample)] for sample in test]
        right = [sample.values[CHOICE] for sample in test]
        found = {
            "most frequent place": sum(place == often for place in right) / len(test),
            "longest answer": sum(n.index(max(n)) == place for n, place in zip(lengths, right, strict=True))
            / len(test),
        }
        return {"accuracy": dict(sorted(found.items(), key=lambda item: -item[1]))}

    def _texts(self, sample: Sample) -> list[str]:
        return [sample.values[name] for name in self._answers if name in sample.values]

    def _sample(self, name: str, record: Record) -> Sample:
        for field_ in self.given:
            if field_ not in record:
                raise unknown("field of a record", field_, record)
        whole = with_choices(record, self.choices, self.label, self.first_label)
        if len(whole["choices"]) > len(self._answers):
            raise ConfigError(f"Sample {name!r} has {len(whole['choices'])} answers; set most to as many.")
        texts = [*(record[field_] for field_ in self.given), *whole["choices"]]
        texts = [str(text).lower() if self.lowercase else str(text) for text in texts]
        return Sample(name, {**dict(zip([*self.given, *self._answers], texts, strict=False)), CHOICE: whole["gold"]})
