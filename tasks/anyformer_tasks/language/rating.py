"""A number for two texts together: how alike they are (SICK, STS)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from anyformer.contracts import Metric, Sample, Score, Split, Task
from anyformer.errors import ConfigError, unknown
from anyformer.objectives import Similarity
from anyformer.tokens import Tokens
from anyformer_tasks.files import Record
from anyformer_tasks.language.dataset import Dataset
from anyformer_tasks.language.judgement import prepared, told
from anyformer_tasks.language.measures import correlations, ranks

if TYPE_CHECKING:
    from anyformer.contracts import Objective
    from anyformer.model import Model

NAME = "rating"


@dataclass
class Rating(Task):
    """dataset, data_dir: a page of configs/datasets, and where its files are.

    texts: the records' two fields to be read. rating: the one that holds the number. lowercase: of both texts.

    A sample is {"first": …, "second": …, "rating": 4.5}. Scores are those of SICK (Marelli et al. 2014, S14-2001 §3):
    Pearson's and Spearman's correlation with the ratings, and the mean squared error.
    """

    dataset: str = "sick"
    data_dir: str = ""
    texts: list[str] = field(default_factory=lambda: ["sentence_A", "sentence_B"])
    rating: str = "relatedness"
    lowercase: bool = False

    fields: ClassVar[Mapping[str, str]] = {"first": "text", "second": "text", "rating": "number"}
    modality: ClassVar[str] = "text"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("pearson", higher_is_better=True),
        Metric("spearman", higher_is_better=True),
        Metric("squared_error", higher_is_better=False),
    )

    def __post_init__(self) -> None:
        if len(self.texts) != 2:
            raise ConfigError(f"{NAME} has texts={self.texts}; expected two fields of the records.")

    def default_objective(self) -> Objective:
        return Similarity(target="rating")

    @cached_property
    def source(self) -> Dataset:
        return Dataset.named(self.dataset, self.data_dir)

    def examples(self, split: Split) -> Sequence[Sample]:
        return [self._sample(f"{split}-{i}", record) for i, record in enumerate(self.source.records(split))]

    def score(self, model: Model, samples: Sequence[Sample]) -> Iterator[Score]:
        """A correlation is no mean of samples' own; see `correlations` for what a sample has of it."""
        tokenizer = model.tokenizers[self.fields["rating"]]
        (stream,) = tokenizer.streams
        rows = told(model, self, prepared(NAME, self, model, samples), stream.name)
        said = [tokenizer.decode(Tokens.of(stream.name, row[None])) for row in rows]
        found = judged_by(said, [sample.values["rating"] for sample in samples])
        for i, sample in enumerate(samples):
            shown = {**sample.values, "prediction": f"{said[i]:.2f}"}
            for metric, values in found.items():
                yield Score(sample.id, metric, values[i], shown=shown)

    def baselines(self) -> Mapping[str, Mapping[str, float]]:
        """A line through the share of words that both texts have (Jaccard's), fitted to the training split."""
        shares, ratings = zip(*(self._shared(split) for split in ("train", "test")), strict=True)
        slope, level = np.polyfit(shares[0], ratings[0], 1)
        found = judged_by((slope * np.asarray(shares[1]) + level).tolist(), ratings[1])
        return {metric: {"shared words": float(np.mean(values))} for metric, values in found.items()}

    def _shared(self, split: Split) -> tuple[list[float], list[float]]:
        samples = self.examples(split)
        pairs = [tuple(set(sample.values[name].lower().split()) for name in ("first", "second")) for sample in samples]
        return [len(a & b) / max(1, len(a | b)) for a, b in pairs], [sample.values["rating"] for sample in samples]

    def _sample(self, name: str, record: Record) -> Sample:
        for field_ in (*self.texts, self.rating):
            if field_ not in record:
                raise unknown("field of a record", field_, record)
        if not isinstance(record[self.rating], float):
            raise ConfigError(
                f"Sample {name!r} has {self.rating}={record[self.rating]!r:.40}; expected a number. Name the field "
                f"among the `numbers` of the data set {self.dataset!r}."
            )
        first, second = (str(record[f]).lower() if self.lowercase else str(record[f]) for f in self.texts)
        return Sample(name, {"first": first, "second": second, "rating": record[self.rating]})


def judged_by(said: Sequence[float], wanted: Sequence[float]) -> dict[str, list[float]]:
    """Each metric's values, one a text."""
    return {
        "pearson": correlations(said, wanted),
        "spearman": correlations(ranks(said), ranks(wanted)),
        "squared_error": np.square(np.subtract(said, wanted)).tolist(),
    }
