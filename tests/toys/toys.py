"""Two tiny modalities and their tasks, for tests of the machinery around them. Encoding costs nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch

from anyformer.contracts import Metric, Objective, Sample, Score, Split, Task, Tokenizer, encode_fields
from anyformer.errors import SampleError, TokenizerError
from anyformer.objectives import NextToken, Prefix
from anyformer.tokens import Stream, StreamSpec, Tokens


@dataclass
class Letters(Tokenizer):
    """`str` ⇄ characters seen in training, between a start (0) and an end (1)."""

    name: str = "letters"
    lower: bool = False
    _alphabet: str | None = field(default=None, init=False, repr=False)

    @property
    def fitted(self) -> bool:
        return self._alphabet is not None

    @property
    def streams(self) -> tuple[StreamSpec, ...]:
        if self._alphabet is None:
            raise TokenizerError(f"Tokenizer {self.name!r} is not fitted; call fit first.")
        return (StreamSpec.discrete(self.name, 2 + len(self._alphabet), end=1),)

    def fit(self, samples: Iterable[str]) -> None:
        self._alphabet = "".join(sorted({letter for text in samples for letter in text}))

    def encode(self, raw: str) -> Tokens:
        assert self._alphabet is not None
        inner = [2 + self._alphabet.index(letter) for letter in (raw.lower() if self.lower else raw)]
        return Tokens.of(self.name, torch.tensor([0, *inner, 1]))

    def decode(self, tokens: Tokens) -> str:
        assert self._alphabet is not None
        return "".join(self._alphabet[v - 2] for v in tokens.streams[self.name].values.tolist() if v > 1)

    def length(self, raw: str) -> int:
        return len(raw) + 2

    def example(self, rng: np.random.Generator) -> str:
        return "abba"

    def state(self) -> dict[str, bytes]:
        return {} if self._alphabet is None else {"alphabet.txt": self._alphabet.encode()}

    def restore(self, state: Mapping[str, bytes]) -> None:
        if "alphabet.txt" not in state:
            raise TokenizerError(f"Tokenizer {self.name!r} needs alphabet.txt; got {sorted(state)}.")
        self._alphabet = state["alphabet.txt"].decode()


@dataclass
class Fussy(Letters):
    """Letters that cannot read what begins with an a. Registered by the tests that need it."""

    def encode(self, raw: str) -> Tokens:
        if raw.startswith("a"):
            raise SampleError(f"{raw!r} begins with an a; leave it out.")
        return super().encode(raw)


@dataclass
class Dots(Tokenizer):
    """float32[dots, 2], one slot a dot: a continuous stream."""

    name: str = "dots"
    fidelity = "exact"

    @property
    def streams(self) -> tuple[StreamSpec, ...]:
        return (StreamSpec.continuous(self.name, 2),)

    def encode(self, raw: np.ndarray) -> Tokens:
        values = torch.tensor(np.asarray(raw, dtype=np.float32))
        return Tokens({self.name: Stream.whole(values)}, len(values), torch.arange(len(values))[:, None])

    def decode(self, tokens: Tokens) -> np.ndarray:
        return tokens.streams[self.name].values.numpy()

    def length(self, raw: np.ndarray) -> int:
        return len(raw)

    def example(self, rng: np.random.Generator) -> np.ndarray:
        return rng.normal(size=(4, 2)).astype(np.float32)


@dataclass
class Colour(Tokenizer):
    """0, 1 or 2, in one slot: a stream of its own, so that it has a head of its own."""

    name: str = "colour"

    @property
    def streams(self) -> tuple[StreamSpec, ...]:
        return (StreamSpec.discrete(self.name, 3),)

    def encode(self, raw: int) -> Tokens:
        return Tokens.of(self.name, torch.tensor([raw]))

    def decode(self, tokens: Tokens) -> int:
        return int(tokens.streams[self.name].values[0])

    def length(self, raw: int) -> int:
        return 1

    def example(self, rng: np.random.Generator) -> int:
        return int(rng.integers(3))


@dataclass
class Words(Task):
    """Continue a run of the alphabet: sample i of a split has between `shortest` and `longest` letters."""

    size: int = 30
    shortest: int = 4
    longest: int = 12

    fields: ClassVar[Mapping[str, str]] = {"text": "letters"}
    modality: ClassVar[str] = "text"
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("accuracy", higher_is_better=True),)

    def default_objective(self) -> Objective:
        return NextToken()

    def examples(self, split: Split) -> Sequence[Sample]:
        rng = np.random.default_rng(len(split))
        return [Sample(f"{split}-{i}", {"text": self._text(rng)}) for i in range(self.size)]

    def _text(self, rng: np.random.Generator) -> str:
        start, length = rng.integers(26), rng.integers(self.shortest, self.longest + 1)
        return "".join(chr(ord("a") + (start + i) % 26) for i in range(length))

    def score(self, model: Any, samples: Sequence[Sample]) -> Iterator[Score]:
        for sample in samples:
            text = sample.values["text"]
            prompt = self.objective.prepare(
                encode_fields(self.fields, model.tokenizers, {"text": text}), np.random.default_rng(0)
            )
            ((nats, count),) = model.log_likelihoods([prompt])
            yield Score(sample.id, "accuracy", float(np.exp(nats / count)), cluster=sample.cluster)


@dataclass
class Quadrants(Task):
    """Name the colour of a cloud of dots: its mean decides."""

    size: int = 30
    dots: int = 6

    fields: ClassVar[Mapping[str, str]] = {"cloud": "dots", "answer": "colour"}
    modality: ClassVar[str] = "dots"
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("accuracy", higher_is_better=True),)

    def default_objective(self) -> Objective:
        return Prefix(target="answer")

    def examples(self, split: Split) -> Sequence[Sample]:
        rng = np.random.default_rng(100 + len(split))
        return [self._sample(split, i, rng) for i in range(self.size)]

    def _sample(self, split: Split, i: int, rng: np.random.Generator) -> Sample:
        colour = int(rng.integers(3))
        cloud = (rng.normal(size=(self.dots, 2)) + colour).astype(np.float32)
        return Sample(f"{split}-{i}", {"cloud": cloud, "answer": colour})

    def score(self, model: Any, samples: Sequence[Sample]) -> Iterator[Score]:
        answers = model.complete("quadrants", self, samples, "answer", max_new=1)
        for sample, answer in zip(samples, answers, strict=True):
            yield Score(sample.id, "accuracy", float(answer == sample.values["answer"]), cluster=sample.cluster)


TOKENIZERS = {"letters": Letters, "dots": Dots, "colour": Colour}
TASKS = {"words": Words, "quadrants": Quadrants}

ENTRY_POINTS = "\n".join(
    f"[anyformer.{kind}]\n" + "\n".join(f"{name} = toys:{plugin.__name__}" for name, plugin in plugins.items()) + "\n"
    for kind, plugins in (("tokenizers", TOKENIZERS), ("tasks", TASKS))
)
"""What their package would declare: with it on the path, the toys are installed plugins like any other."""
