"""Episodes recorded into a folder, for others to learn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from anyformer.contracts import Study
from anyformer.errors import ConfigError
from anyformer.model import Model
from anyformer_tasks.control import episodes as files
from anyformer_tasks.control.policies import Policy, record


@dataclass
class Recording(Study):
    """What policies reach, and their episodes in `episodes.npz` of the folder `out`, the policies taking turns.

    env: a gymnasium environment of Box or Discrete spaces. policies: see anyformer_tasks.control.policies. episodes: in
    all. seed: of the first episode; each has the next one. target, context: of checkpoints: the return they are asked
    for, and the most steps they see. minari: also write a Minari data set of this name (`walker/mixed-v0`) below `out`.
    """

    env: str = "CartPole-v1"
    policies: Sequence[str] = ("random",)
    episodes: int = 100
    seed: int = 0
    target: float = 0.0
    context: int = 20
    minari: str | None = None

    asks_a_model: ClassVar[bool] = False

    def run(self, model: Model | None, out: Path | None) -> Sequence[Mapping[str, Any]]:
        """A row a policy."""
        policies = [Policy.of(text) for text in self.policies]
        if not policies or self.episodes < len(policies):
            raise ConfigError(
                f"A recording has {len(policies)} policies and episodes={self.episodes}; expected at least one policy, "
                "and an episode of each."
            )
        seeds = range(self.seed, self.seed + self.episodes)
        found = record(self.env, policies, seeds, self.target, self.context)
        if out is not None:
            files.write(out, found)
            if self.minari is not None:
                files.write_minari(out, self.minari, self.env, found, seeds, self.policies)
        rows = [(text, found[turn :: len(policies)]) for turn, text in enumerate(self.policies)]
        return [_row(text, mine) for text, mine in [*rows, ("all", found)]]


def _row(policy: str, episodes: Sequence) -> dict[str, Any]:
    returns = [float(np.sum(episode.rewards)) for episode in episodes]
    return {
        "policy": policy,
        "episodes": len(episodes),
        "steps": sum(map(len, episodes)),
        "mean return": float(np.mean(returns)),
        "lowest": min(returns),
        "highest": max(returns),
    }
