"""Ways to corrupt a text that a model is to mend."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from anyformer.errors import ConfigError
from anyformer.objectives.choosing import Each, amount, cut_to, most, placed
from anyformer.objectives.knowing import Symbols, fraction, made

Text = tuple[np.ndarray, np.ndarray]
"""values: int64[values]; sentence: int64[values], rising from 0."""


class Noise(ABC):
    """Called with the text's values, the sentence of each, the stream's symbols and a generator, it gives values and
    sentences back."""

    @abstractmethod
    def __call__(
        self, values: np.ndarray, sentence: np.ndarray, symbols: Symbols, rng: np.random.Generator
    ) -> Text: ...

    def most(self, count: int) -> int:
        """The most values that so many, or fewer, become."""
        return count


@dataclass(frozen=True)
class Mask(Noise):
    """Single values become masks, or random values (BART, arXiv:1910.13461 §2.2 "token masking"; with random = 0.1
    T5's BERT-style noise, without it its MASS-style, arXiv:1910.10683 table 3). random: of what is chosen."""

    rate: float = 0.15
    random: float = 0.0

    def __post_init__(self) -> None:
        fraction("mask", rate=self.rate, random=self.random)

    def __call__(self, values: np.ndarray, sentence: np.ndarray, symbols: Symbols, rng: np.random.Generator) -> Text:
        chosen = _chosen(values, symbols, self.rate, rng)
        other = rng.random(len(chosen)) < self.random
        noisy = values.copy()
        noisy[chosen] = np.where(other, symbols.drawn(len(chosen), rng), symbols.value("mask"))
        return noisy, sentence


@dataclass(frozen=True)
class Delete(Noise):
    """Single values are left out, and nothing says where (BART §2.2, "token deletion")."""

    rate: float = 0.15

    def __post_init__(self) -> None:
        fraction("delete", rate=self.rate)

    def __call__(self, values: np.ndarray, sentence: np.ndarray, symbols: Symbols, rng: np.random.Generator) -> Text:
        kept = np.ones(len(values), bool)
        kept[_chosen(values, symbols, self.rate, rng)] = False
        return values[kept], sentence[kept]


@dataclass(frozen=True)
class Infill(Noise):
    """Spans become one mask each, their lengths drawn from Poisson(mean); one of length 0 is a mask that stands for
    nothing (BART §2.2, "text infilling"; §4.1 takes 30 % of a text and the mean 3)."""

    rate: float = 0.3
    mean: float = 3.0

    def __post_init__(self) -> None:
        fraction("infill", rate=self.rate)
        if self.mean <= 0:
            raise ConfigError(f"infill has mean={self.mean}; expected more than 0.")

    def __call__(self, values: np.ndarray, sentence: np.ndarray, symbols: Symbols, rng: np.random.Generator) -> Text:
        mask, where = symbols.value("mask"), np.flatnonzero(symbols.are_ordinary(values))
        if not len(where):
            return values, sentence
        kept, before = np.ones(len(values), bool), []
        for start, length in placed(len(where), self.lengths(amount(len(where), self.rate, rng), rng), rng):
            kept[where[start : start + length]] = False
            before.append(int(where[start]) if start < len(where) else int(where[-1]) + 1)
        places = [int(kept[:at].sum()) for at in before]
        of = sentence[np.minimum(before, len(values) - 1)]
        return np.insert(values[kept], places, mask), np.insert(sentence[kept], places, of)

    def most(self, count: int) -> int:
        return count + self._zeros(most(count, self.rate))  # every other span takes a value or more

    def lengths(self, budget: int, rng: np.random.Generator) -> np.ndarray:
        """Lengths that add up to the budget, zeros among them."""
        drawn = np.zeros(0, int)
        while drawn.sum() < budget:
            drawn = np.append(drawn, rng.poisson(self.mean, size=budget))
        lengths = cut_to(budget, drawn)
        return lengths[(lengths > 0) | (np.cumsum(lengths == 0) <= self._zeros(budget))]

    def _zeros(self, budget: int) -> int:
        """The most spans of no length: twice as many as there are in the mean, and eight, which hardly ever binds."""
        return 8 + int(2 * budget / self.mean * math.exp(-self.mean))


@dataclass(frozen=True)
class PermuteSentences(Noise):
    """Sentences in any order (BART §2.2, "sentence permutation"). They are the stream's items."""

    def __call__(self, values: np.ndarray, sentence: np.ndarray, symbols: Symbols, rng: np.random.Generator) -> Text:
        place = rng.permutation(int(sentence.max(initial=-1)) + 1)
        order = np.argsort(place[sentence], kind="stable")
        return values[order], np.sort(place[sentence])


@dataclass(frozen=True)
class Rotate(Noise):
    """The text begins at any of its values, and what stood before it follows its end (BART §2.2, "document
    rotation")."""

    def __call__(self, values: np.ndarray, sentence: np.ndarray, symbols: Symbols, rng: np.random.Generator) -> Text:
        first = int(rng.integers(max(1, len(values))))
        turned = np.roll(sentence, -first)
        return np.roll(values, -first), np.cumsum(np.diff(turned, prepend=turned[:1]) != 0)


@dataclass(frozen=True)
class Shuffle(Noise):
    """Values in any order (T5's deshuffling, arXiv:1910.10683 table 3)."""

    def __call__(self, values: np.ndarray, sentence: np.ndarray, symbols: Symbols, rng: np.random.Generator) -> Text:
        return rng.permutation(values), np.zeros_like(sentence)


NOISES: dict[str, type] = {
    "mask": Mask,
    "delete": Delete,
    "infill": Infill,
    "permute_sentences": PermuteSentences,
    "rotate": Rotate,
    "shuffle": Shuffle,
}


def noise_of(settings: Any) -> Noise:
    """A noise by plain data."""
    return made("noise", NOISES, settings)


def _chosen(values: np.ndarray, symbols: Symbols, rate: float, rng: np.random.Generator) -> np.ndarray:
    """Where the chosen ordinary values stand."""
    where = np.flatnonzero(symbols.are_ordinary(values))
    if not len(where):
        return where
    return where[[start for start, _ in Each().spans(len(where), rate, rng)]]
