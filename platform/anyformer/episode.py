"""A raw trajectory: what a control task records and a trajectory tokenizer encodes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Episode:
    """An episode, or a segment of one.

    observations: [steps or steps + 1, ...] (the last one may be what followed the last action);
    actions: [steps, ...]; rewards: float[steps]. A segment keeps its place through `start`, the timestep of its
    first observation, and `return_after`, the undiscounted return that follows its last step, so that its
    returns-to-go and timesteps equal those of the whole episode. film: what it looked like, an animated GIF.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminated: bool = False
    truncated: bool = False
    start: int = 0
    return_after: float = 0.0
    film: bytes | None = None

    def __len__(self) -> int:
        """Steps, that is actions taken."""
        return len(self.actions)

    def returns_to_go(self) -> np.ndarray:
        """float64[steps]: the sum of rewards from each step on, to the end of the whole episode."""
        rewards = np.asarray(self.rewards, dtype=np.float64)
        return np.cumsum(rewards[::-1])[::-1] + self.return_after
