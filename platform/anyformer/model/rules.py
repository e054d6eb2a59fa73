"""What may be said, given what has been: rules that change the logits of a discrete stream before one value is chosen.

A rule is called as `rule(logits, said)`, float `[rows, vocab]` and each row's values of the stream so far, those of the
prompt among them, and gives new logits. Its answers are those of transformers' logits processors of like name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from anyformer.errors import ConfigError

Logits = Float[Tensor, "rows vocab"]
Histories = Sequence[Sequence[int]]
Rule = Callable[[Logits, Histories], Logits]


@dataclass(frozen=True)
class RepetitionPenalty:
    """Logits of values said before are divided by `strength`, negative ones multiplied (arXiv:1909.05858 §4.1)."""

    strength: float

    def __post_init__(self) -> None:
        if not self.strength > 0:
            raise ConfigError(f"A repetition penalty of {self.strength}; expected a number above 0, such as 1.2.")

    def __call__(self, logits: Logits, said: Histories) -> Logits:
        rows, values = _places([sorted(set(values)) for values in said], logits.device)
        had = logits[rows, values]
        return logits.index_put((rows, values), torch.where(had < 0, had * self.strength, had / self.strength))


@dataclass(frozen=True)
class NoRepeat:
    """No run of `size` values is said twice (arXiv:1705.04304 §2.5)."""

    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigError(f"No repeated run of {self.size} values; expected a size of at least 1.")

    def __call__(self, logits: Logits, said: Histories) -> Logits:
        places = _places([self._closing(list(values)) for values in said], logits.device)
        return logits.index_put(places, logits.new_tensor(-torch.inf))

    def _closing(self, values: list[int]) -> list[int]:
        """The values that would close a run that was there before."""
        runs = range(len(values) - self.size + 1)
        begun = values[len(values) - self.size + 1 :] if runs else []
        return sorted({values[at + self.size - 1] for at in runs if values[at : at + self.size - 1] == begun})


@dataclass(frozen=True)
class Allowed:
    """Only what `mask(said)`, bool `[rows, vocab]`, allows: a grammar, a list of names."""

    mask: Callable[[Histories], Bool[Tensor, "rows vocab"]]

    def __call__(self, logits: Logits, said: Histories) -> Logits:
        mask = self.mask(said)
        if mask.shape != logits.shape:
            raise ConfigError(f"A constraint gave a mask of {tuple(mask.shape)}; expected {tuple(logits.shape)}.")
        return logits.masked_fill(~mask.to(logits.device), -torch.inf)


@dataclass(frozen=True)
class Banned:
    """Values that are never said, such as padding."""

    values: tuple[int, ...]

    def __call__(self, logits: Logits, said: Histories) -> Logits:
        if not all(0 <= value < logits.shape[-1] for value in self.values):
            raise ConfigError(f"Banned values {self.values}; expected some from 0 to {logits.shape[-1] - 1}.")
        return logits.index_fill(-1, torch.tensor(self.values, dtype=torch.int64, device=logits.device), -torch.inf)


def _places(values: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows and columns of each row's values."""
    rows = [row for row, each in enumerate(values) for _ in each]
    columns = [value for each in values for value in each]
    rows, columns = torch.tensor([rows, columns], dtype=torch.int64).to(device).unbind(0)
    return rows, columns
