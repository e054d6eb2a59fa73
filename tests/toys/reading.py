"""A tokenizer of the sentences' vocabulary, and a task of any fields in it, for objectives that a trainer runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from sentences import NAMES, ORDINARY, SPEC, ids, tokens

from anyformer.contracts import Metric, Objective, Sample, Score, Split, Task, Tokenizer
from anyformer.errors import SampleError
from anyformer.objectives import Masked
from anyformer.tokens import StreamSpec, Tokens
from anyformer_tokenizers.label import ChoiceTokenizer, LabelsTokenizer, LabelTokenizer, SpanTokenizer


@dataclass
class Reading(Tokenizer):
    """Names of the vocabulary, each an item."""

    name: str = "text"

    @property
    def streams(self) -> tuple[StreamSpec, ...]:
        return (SPEC,)

    def encode(self, raw: str) -> Tokens:
        return tokens(raw, [1] * len(raw.split()))

    def decode(self, tokens: Tokens) -> str:
        return " ".join(NAMES[i] for i in tokens.streams["text"].values.tolist())

    def length(self, raw: str) -> int:
        if not isinstance(raw, str):
            raise SampleError("expected names")
        return len(raw.split())

    def example(self, rng: np.random.Generator) -> str:
        return "Thank you"


@dataclass
class Logit(Tokenizer):
    """One number that is only predicted."""

    name: str = "replaced"

    @property
    def streams(self) -> tuple[StreamSpec, ...]:
        return (StreamSpec.continuous(self.name, 1, input=False),)

    def encode(self, raw: float) -> Tokens:
        return Tokens.of(self.name, torch.tensor([[raw]], dtype=torch.float32))

    def decode(self, tokens: Tokens) -> float:
        return float(tokens.streams[self.name].values)

    def length(self, raw: float) -> int:
        return 1

    def example(self, rng: np.random.Generator) -> float:
        return 0.0


@dataclass
class Read(Task):
    """Rising runs of words; every field is in every sample, but those that objectives draw themselves."""

    size: int = 24

    fields: ClassVar[Mapping[str, str]] = {"text": "text", "replaced": "replaced"}
    given: ClassVar[tuple[str, ...]] = ("text",)
    modality: ClassVar[str] = "text"
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("words", higher_is_better=True),)

    def default_objective(self) -> Objective:
        return Masked(stream="text")

    def examples(self, split: Split) -> Sequence[Sample]:
        rng = np.random.default_rng(len(split))
        return [Sample(f"{split}-{i}", {f: self._value(f, rng) for f in self.given}) for i in range(self.size)]

    def _value(self, field: str, rng: np.random.Generator) -> Any:
        length = 8
        if self.fields[field] == "label":
            return str(rng.choice(["no", "yes"]))
        if self.fields[field] == "labels":
            return [str(name) for name in rng.choice(["noun", "verb"], length)]
        if self.fields[field] == "choice":
            return int(rng.integers(2))
        if self.fields[field] == "answer":
            return (int(rng.integers(4)), 4 + int(rng.integers(4)))
        first = int(rng.integers(len(ORDINARY)))
        return " ".join(NAMES[ORDINARY[(first + i) % len(ORDINARY)]] for i in range(length))

    def score(self, model: Any, samples: Sequence[Sample]) -> Iterator[Score]:
        for sample in samples:
            yield Score(sample.id, "words", float(len(ids(str(sample.values["text"])))))


TOKENIZERS = {
    "text": Reading(), "replaced": Logit(), "label": LabelTokenizer(names=["no", "yes"]),
    "labels": LabelsTokenizer(names=["noun", "verb"]), "answer": SpanTokenizer(), "choice": ChoiceTokenizer(),
}  # fmt: skip
