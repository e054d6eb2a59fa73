"""CartPole: reach the return one is asked for, learned from recorded episodes of mixed quality.

Gymnasium's CartPole-v1 (A. Barto, R. Sutton and C. Anderson, "Neuronlike Adaptive Elements That Can Solve
Difficult Learning Control Problems", 1983) gives a reward of 1 for each step that the pole stands, 500 at most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from anyformer.contracts import Metric
from anyformer_tasks.control import Control

ENV = "CartPole-v1"
TARGETS = (50, 200, 500)
POLICIES = ("noisy:1x10", "noisy:0.05x10", "noisy:0.02x10", "noisy:0.01x10", "noisy:0.005x10")
"""They lapse for 1 to 10 steps, which a standing pole survives or not; the first one acts at random."""


@dataclass
class CartPole(Control):
    """Control, with its own recordings and only the returns as metrics.

    The policies share a hand-written linear controller and differ in how often they lapse: they then hold a random
    button down. The controller alone would balance the pole for ever, but no recorded policy is free of lapses and none
    solves the task; their mean return is about 130.
    """

    policies: Sequence[str] = field(default_factory=lambda: list(POLICIES))
    episodes: int = 500
    targets: Sequence[float] = field(default_factory=lambda: list(TARGETS))

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return tuple(Metric(f"return@{target:g}", higher_is_better=True) for target in self._targets)

    def baselines(self) -> Mapping[str, Mapping[str, float]]:
        """The mean return of the episodes that were learned from, the same for every target."""
        returns = [float(episode.rewards.sum()) for episode in self._recorded["train"].values()]
        return {metric.name: {"data mean": float(np.mean(returns))} for metric in self.metrics}
