"""Which parts of a sequence are chosen. Parts are counted, 0 to n - 1; what they are is the caller's business."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from anyformer.errors import ConfigError
from anyformer.objectives.knowing import made

Span = tuple[int, int]
"""First part and number of parts."""


class Chooser(Protocol):
    """together: what is decided of one part of a span is decided of them all."""

    together: ClassVar[bool]

    def spans(self, count: int, rate: float, rng: np.random.Generator) -> list[Span]:
        """Spans in order, which do not overlap and hold `rate · count` parts in the mean, at least one."""
        ...

    def most(self, count: int, rate: float) -> int:
        """The most spans there may be among `count` parts or fewer."""
        ...


@dataclass(frozen=True)
class Each:
    """Parts one by one, each as likely as another (BERT, arXiv:1810.04805 §3.1)."""

    together: ClassVar[bool] = False

    def spans(self, count: int, rate: float, rng: np.random.Generator) -> list[Span]:
        chosen = rng.choice(count, amount(count, rate, rng), replace=False)
        return [(int(start), 1) for start in np.sort(chosen)]

    def most(self, count: int, rate: float) -> int:
        return most(count, rate)


@dataclass(frozen=True)
class Geometric:
    """Spans of l parts, l drawn from Geo(p) up to `longest` (SpanBERT, arXiv:1907.10529 §3.1: p = 0.2, at most 10,
    which are 3.8 in the mean)."""

    p: float = 0.2
    longest: int = 10
    together: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.p <= 1 or self.longest < 1:
            raise ConfigError(f"Geometric spans have p={self.p}, longest={self.longest}; expected 0 < p <= 1 and 1 up.")

    def lengths(self, count: int, rng: np.random.Generator) -> np.ndarray:
        length = np.arange(1, self.longest + 1)
        odds = self.p * (1 - self.p) ** (length - 1)  # of what is longer, nothing is left over: 3.8, not 4.5
        return rng.choice(length, size=count, p=odds / odds.sum())

    def spans(self, count: int, rate: float, rng: np.random.Generator) -> list[Span]:
        budget = amount(count, rate, rng)
        return placed(count, cut_to(budget, self.lengths(budget, rng)), rng)

    def most(self, count: int, rate: float) -> int:
        return most(count, rate)


@dataclass(frozen=True)
class Segments:
    """Spans that divide what is chosen at random, their number fixed by the mean length, and never side by side
    (T5, arXiv:1910.10683 §3.3.4 and table 7; 3 is the mean length of its final recipe)."""

    mean: float = 3.0
    together: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.mean < 1:
            raise ConfigError(f"Spans have mean={self.mean}; expected a length of at least 1.")

    def spans(self, count: int, rate: float, rng: np.random.Generator) -> list[Span]:
        if count < 2:
            return [(0, count)] if count else []
        noise = min(amount(count, rate, rng), count - 1)
        pieces = max(1, min(round(noise / self.mean), noise, count - noise))
        chosen, kept = divided(noise, pieces, rng), divided(count - noise, pieces, rng)
        starts = np.cumsum(kept) + np.cumsum(chosen) - chosen  # kept, chosen, kept, chosen, …
        return [(int(start), int(length)) for start, length in zip(starts, chosen, strict=True)]

    def most(self, count: int, rate: float) -> int:
        return max(1, round(most(count, rate) / self.mean))


CHOICES: dict[str, type] = {"each": Each, "geometric": Geometric, "segments": Segments}


def choice_of(settings: Any) -> Chooser:
    """A choice by plain data."""
    return made("choice", CHOICES, settings)


def amount(count: int, rate: float, rng: np.random.Generator) -> int:
    """`rate · count`, rounded up as often as its fraction says, but at least one, if there is any."""
    return min(count, max(1, int(rate * count + rng.random())))


def most(count: int, rate: float) -> int:
    """The most that `amount` may be."""
    return min(count, max(1, math.ceil(rate * count)))


def divided(count: int, pieces: int, rng: np.random.Generator) -> np.ndarray:
    """`count` as a sum of so many positive numbers, each sum as likely as another."""
    cuts = np.sort(rng.choice(count - 1, pieces - 1, replace=False)) + 1 if pieces > 1 else np.zeros(0, int)
    return np.diff(np.concatenate(([0], cuts, [count])))


def cut_to(budget: int, lengths: np.ndarray) -> np.ndarray:
    """The first lengths that reach the budget, the last of them cut to end there."""
    ends = np.minimum(np.cumsum(lengths), budget)
    last = int(np.searchsorted(ends, budget)) + 1
    return np.diff(np.concatenate(([0], ends[:last])))


def placed(count: int, lengths: np.ndarray, rng: np.random.Generator) -> list[Span]:
    """Spans of these lengths among `count` parts, each arrangement as likely as another."""
    lengths = rng.permutation(lengths)
    kept = count - int(lengths.sum())
    places = np.sort(rng.choice(kept + len(lengths), len(lengths), replace=False))  # among what is kept
    starts = places - np.arange(len(lengths)) + np.cumsum(lengths) - lengths
    return [(int(start), int(length)) for start, length in zip(starts, lengths, strict=True)]
