"""A label for a text, or for two texts together: sentiment, intent, entailment."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from anyformer.contracts import Metric, Sample, Score, Split, Task
from anyformer.errors import ConfigError, unknown
from anyformer.objectives import Classification
from anyformer_tasks.files import Record
from anyformer_tasks.language.dataset import Dataset
from anyformer_tasks.language.judgement import label_scores
from anyformer_tasks.language.measures import macro_f1
from anyformer_tasks.packages import require

if TYPE_CHECKING:
    from anyformer.contracts import Objective
    from anyformer.model import Model

NAME = "text_classification"
BAG_OF_WORDS = "TF-IDF and logistic regression"
MOST_FREQUENT = "most frequent label"


@dataclass
class TextClassification(Task):
    """dataset, data_dir: a page of configs/datasets, and where its files are.

    texts: the records' field to be read, or the two of a pair. label: the field to be told.
    lowercase: of all texts. max_words: the most words that are read, of both texts of a pair together, of which the
    longer one is cut first (BERT's rule, arXiv:1810.04805 §A.2); 0 is all.

    A sample is {"text": …, "label": …}, or {"first": …, "second": …, "label": …}.
    """

    dataset: str = "sst2"
    data_dir: str = ""
    texts: list[str] = field(default_factory=lambda: ["sentence"])
    label: str = "label"
    lowercase: bool = False
    max_words: int = 0

    modality: ClassVar[str] = "text"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("accuracy", higher_is_better=True),
        Metric("macro_f1", higher_is_better=True),
    )

    def __post_init__(self) -> None:
        if len(self.texts) not in (1, 2):
            raise ConfigError(f"{NAME} has texts={self.texts}; expected one field of the records, or two for pairs.")
        if self.max_words < 0 or 0 < self.max_words < len(self.texts):
            raise ConfigError(f"{NAME} has max_words={self.max_words}; expected at least one a text, or 0 for all.")

    @property
    def fields(self) -> Mapping[str, str]:  # ty: ignore[incompatible-property-override]
        """One text or two, and the label."""
        return {**dict.fromkeys(self._read, "text"), "label": "label"}

    @property
    def _read(self) -> tuple[str, ...]:
        return ("text",) if len(self.texts) == 1 else ("first", "second")

    def default_objective(self) -> Objective:
        return Classification(target="label")

    @cached_property
    def source(self) -> Dataset:
        return Dataset.named(self.dataset, self.data_dir)

    def examples(self, split: Split) -> Sequence[Sample]:
        return [
            Sample(f"{split}-{number}", {**self._texts(record), "label": str(_field(record, self.label))})
            for number, record in enumerate(self.source.records(split))
        ]

    def score(self, model: Model, samples: Sequence[Sample]) -> Iterator[Score]:
        """Whether the likeliest label is the right one; and the macro-averaged F1 of these samples, see `macro_f1`."""
        return label_scores(NAME, self, model, samples)

    def baselines(self) -> Mapping[str, Mapping[str, float]]:
        """Logistic regression on the TF-IDF of words and pairs of words, the two texts of a pair thrown together; and
        always the same label. Both are fitted to the training split that the model has."""
        train, test = self.examples("train"), self.examples("test")
        wanted, labels = ([sample.values["label"] for sample in split] for split in (test, train))
        texts = [[" ".join(sample.values[name] for name in self._read) for sample in split] for split in (train, test)]
        same = [Counter(labels).most_common(1)[0][0]] * len(test)
        said = {BAG_OF_WORDS: bag_of_words(texts[0], labels, texts[1]), MOST_FREQUENT: same}
        return {
            "accuracy": {name: float(np.mean(np.equal(found, wanted))) for name, found in said.items()},
            "macro_f1": {name: float(np.mean(macro_f1(wanted, found))) for name, found in said.items()},
        }

    def _texts(self, record: Record) -> dict[str, str]:
        texts = [str(_field(record, name)) for name in self.texts]
        texts = [text.lower() for text in texts] if self.lowercase else texts
        return dict(zip(self._read, shortened(texts, self.max_words) if self.max_words else texts, strict=True))


def shortened(texts: Sequence[str], most: int) -> list[str]:
    """At most so many words of all texts together: the longer one's last word goes first, of equals the second's.

    >>> shortened(["a b c d", "e  f g"], 5)
    ['a b c', 'e  f']
    """
    ends = [[match.end() for match in re.finditer(r"\S+", text)] for text in texts]
    kept = [len(each) for each in ends]
    while sum(kept) > most:
        kept[max(range(len(kept)), key=lambda i: (kept[i], i))] -= 1
    return [
        text if count == len(each) else text[: each[count - 1] if count else 0]
        for text, each, count in zip(texts, ends, kept, strict=True)
    ]


def bag_of_words(train: Sequence[str], labels: Sequence[str], test: Sequence[str]) -> list[str]:
    """Labels for the test texts, from labelled training texts."""
    require("scikit-learn", "demo", f"The baseline of {NAME!r} is fitted by")
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\b\w+\b").fit(train)
    fitted = LogisticRegression(C=10, max_iter=1000).fit(words.transform(train), labels)  # C = 1 is worse on all sets
    return fitted.predict(words.transform(test)).tolist()


def _field(record: Record, name: str) -> object:
    if name not in record:
        raise unknown("field of a record", name, record)
    return record[name]
