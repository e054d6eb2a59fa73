"""What can be observed or done, as rows and back: one of several choices, or real numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from anyformer.errors import ConfigError, SampleError, TokenizerError
from anyformer.tokens import StreamSpec

Bound = float | Sequence | None


@dataclass(frozen=True)
class Discrete:
    """One of `n` choices, numbered from `start`."""

    n: int
    start: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.n, int) or self.n < 1 or not isinstance(self.start, int):
            raise ConfigError(f"A discrete space has n={self.n}, start={self.start}; expected n >= 1, whole.")

    def spec(self, name: str) -> StreamSpec:
        return StreamSpec.discrete(name, self.n)

    def rows(self, raw: np.ndarray, what: str, start: int) -> Int64[Tensor, " steps"]:
        """Numbers in [0, n). SampleError names the first step, counted from `start`, that is no choice."""
        if math.prod(raw.shape[1:]) != 1:
            raise SampleError(
                f"Each {what} has shape {list(raw.shape[1:])}; expected one whole number. "
                f"Correct the {what}s, or the tokenizer's {what} space."
            )
        numbers = raw.reshape(-1).astype(np.float64)
        wrong = ~((numbers == np.round(numbers)) & (numbers >= self.start) & (numbers < self.start + self.n))
        if wrong.any():
            step = int(wrong.argmax())
            raise SampleError(
                f"The {what} at step {start + step} is {numbers[step]:g}; expected a whole number from "
                f"{self.start} to {self.start + self.n - 1}. Correct it, or the tokenizer's {what} space."
            )
        return torch.from_numpy(numbers.astype(np.int64) - self.start)

    def values(self, rows: Int64[Tensor, " steps"]) -> Int64[np.ndarray, " steps"]:
        """The way back; TokenizerError if a row is no choice."""
        rows = rows.detach().cpu().reshape(-1)
        if rows.is_floating_point() or bool(((rows < 0) | (rows >= self.n)).any()):
            raise TokenizerError(f"Cannot decode {rows.dtype} {rows[:8].tolist()}; expected ids below {self.n}.")
        return rows.numpy().astype(np.int64) + self.start

    def sample(self, rng: np.random.Generator, steps: int) -> Int64[np.ndarray, " steps"]:
        return rng.integers(self.start, self.start + self.n, steps)


@dataclass(frozen=True)
class Box:
    """Real numbers of some shape, flattened.

    low, high: inclusive bounds, one for all or one for each number; None (null) is no bound. The shape is
    that of a bound when it is not given.
    """

    shape: Sequence[int] | None = None
    low: Bound = None
    high: Bound = None

    def __post_init__(self) -> None:
        given = next((bound for bound in (self.low, self.high) if isinstance(bound, Sequence)), ())
        shape = np.array(given, dtype=object).shape if self.shape is None else self.shape
        object.__setattr__(self, "shape", tuple(shape))
        low, high = self.bounds
        if not (low <= high).all():
            raise ConfigError(f"A box has low={self.low}, high={self.high}; expected low <= high throughout.")

    @cached_property
    def bounds(self) -> tuple[Float[np.ndarray, " features"], Float[np.ndarray, " features"]]:
        return self._bound("low", -np.inf), self._bound("high", np.inf)

    @property
    def features(self) -> int:
        return math.prod(self.shape or ())

    def spec(self, name: str) -> StreamSpec:
        return StreamSpec.continuous(name, self.features)

    def rows(self, raw: np.ndarray, what: str, start: int) -> Float[Tensor, "steps features"]:
        """SampleError names the first step, counted from `start`, that is not finite or out of bounds."""
        if raw.shape[1:] not in (self.shape, (self.features,)):
            raise SampleError(
                f"Each {what} has shape {list(raw.shape[1:])}; expected {list(self.shape or ())}. "
                f"Correct the {what}s, or the tokenizer's {what} space."
            )
        low, high = self.bounds
        with np.errstate(over="ignore"):  # too large for float32 is infinite, and refused below
            rows = raw.reshape(len(raw), -1).astype(np.float32)
        wrong = ~(np.isfinite(rows) & (rows >= low) & (rows <= high))
        if wrong.any():
            step, place = (int(index) for index in np.argwhere(wrong)[0])
            raise SampleError(
                f"The {what} at step {start + step} is {rows[step, place]:g} in place {place}; expected a "
                f"finite number from {low[place]:g} to {high[place]:g}. "
                f"Correct or clip it, or correct the tokenizer's {what} space."
            )
        return torch.from_numpy(rows)

    def values(self, rows: Float[Tensor, "steps features"]) -> Float[np.ndarray, "steps ..."]:
        """The way back, clipped to the bounds, of which a regression knows nothing."""
        numbers = rows.detach().cpu().float().numpy()
        if numbers.size % self.features or not np.isfinite(numbers).all():
            raise TokenizerError(
                f"Cannot decode rows of shape {list(numbers.shape)}; expected {self.features} finite numbers."
            )
        return numbers.reshape(-1, self.features).clip(*self.bounds).reshape(-1, *(self.shape or ()))

    def sample(self, rng: np.random.Generator, steps: int) -> Float[np.ndarray, "steps ..."]:
        """Uniform between two bounds, normal where one is missing."""
        low, high = self.bounds
        bounded = np.isfinite(low) & np.isfinite(high)
        uniform = rng.uniform(np.where(bounded, low, 0), np.where(bounded, high, 0), (steps, self.features))
        drawn = np.where(bounded, uniform, rng.normal(size=(steps, self.features)))
        return drawn.astype(np.float32).clip(low, high).reshape(steps, *(self.shape or ()))

    def _bound(self, side: str, missing: float) -> Float[np.ndarray, " features"]:
        given = getattr(self, side)
        try:
            bound = np.broadcast_to(np.asarray(given, dtype=np.float32), self.shape or ()).reshape(-1)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"A box of shape {self.shape} has {side}={given}: {error}.") from error
        if np.isinf(bound).any():  # settings are JSON, which has no infinity
            raise ConfigError(f"A box has {side}={given}; expected finite numbers, or null for no bound.")
        return np.where(np.isnan(bound), np.float32(missing), bound)
