"""What a family is told when it builds itself: sizes for the regime, changed config fields, random values by name."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from references.sharp import QUIET

REGIMES = ("ordinary", "sharp", "long")


@dataclass(frozen=True)
class Setting:
    """One build. Values depend on (seed, name) only: whatever a change leaves in place keeps its values."""

    seed: int = 0
    regime: str = "ordinary"
    change: Mapping[str, Any] = field(default_factory=dict)
    attempt: int = 0
    """Counts prompts that were drawn before and led to near ties; parameters do not depend on it."""

    def __post_init__(self) -> None:
        if self.regime not in REGIMES:
            raise ValueError(f"The regime is one of {', '.join(REGIMES)}; got {self.regime!r}.")

    def sized(self, usual: Any, long: Any) -> Any:
        """`long` in the long regime."""
        return long if self.regime == "long" else usual

    @property
    def loudness(self) -> float:
        """Of inputs that are fed in as numbers: quiet ones in the sharp regime let the first norm's epsilon show."""
        return QUIET if self.regime == "sharp" else 1.0

    def fields(self, **usual: Any) -> dict[str, Any]:
        """A config's or constructor's fields, the changed ones replaced."""
        return usual | dict(self.change)

    def parameter(self, name: str, shape: Sequence[int]) -> Tensor:
        """Standard normal values of a parameter."""
        return torch.randn(*shape, generator=_generator(self.seed, name))

    def normal(self, name: str, *shape: int) -> Tensor:
        """Standard normal values of an input."""
        return torch.randn(*shape, generator=_generator(self.seed, self.attempt, name))

    def integers(self, name: str, low: int, high: int, *shape: int) -> Tensor:
        """int64 in [low, high)."""
        return torch.randint(low, high, shape, generator=_generator(self.seed, self.attempt, name))

    def ragged(
        self, name: str, lengths: Sequence[int], high: int, pad: int = 0, left: bool = False
    ) -> tuple[Tensor, Tensor]:
        """(ids, mask), both int64[len(lengths), max(lengths)]; ids begin at 5, so that special ones are pads only."""
        mask = padding(lengths)
        if left:
            mask = mask.flip(1)
        return self.integers(name, 5, high, *mask.shape).masked_fill(mask == 0, pad), mask


def padding(lengths: Sequence[int]) -> Tensor:
    """int64[len(lengths), max(lengths)]: 1 where there is something, padded on the right."""
    return (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()


def _generator(*key: int | str) -> torch.Generator:
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
