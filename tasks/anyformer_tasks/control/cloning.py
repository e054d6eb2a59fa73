"""Cloning without a memory: a small feed-forward network from the state to the action that was recorded there, which
knows no returns. The simpler method that a sequence model is held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from anyformer.episode import Episode
from anyformer_tasks.control.rollout import Step
from anyformer_tasks.environments.attempts import Attempt, discrete_or_box, one_by_one

if TYPE_CHECKING:
    import gymnasium

HIDDEN, STEPS, BATCH, RATE = 64, 2000, 256, 2e-3


@dataclass(frozen=True)
class Clone:
    """mean, deviation: of the training states. space: of actions."""

    network: nn.Sequential
    mean: torch.Tensor
    deviation: torch.Tensor
    space: gymnasium.spaces.Discrete | gymnasium.spaces.Box

    @classmethod
    def of(cls, episodes: Sequence[Episode], env: gymnasium.Env, seed: int = 0) -> Clone:
        """Trained on every step of these episodes."""
        from gymnasium import spaces

        rows = np.concatenate([_rows(e.observations[: len(e)], env.observation_space) for e in episodes])
        states = torch.from_numpy(rows)
        done = torch.from_numpy(np.concatenate([np.asarray(e.actions).reshape(len(e), -1) for e in episodes]))
        acts = discrete_or_box(env.action_space)
        discrete = isinstance(acts, spaces.Discrete)
        wanted = done[:, 0].long() - int(acts.start) if discrete else done.float()
        mean, deviation = states.mean(0), states.std(0).clamp(min=1e-4)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            width = int(acts.n) if discrete else wanted.shape[1]
            layers = nn.Linear(states.shape[1], HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU()
            network = nn.Sequential(*layers, nn.Linear(HIDDEN, width))
            _train(network, (states - mean) / deviation, wanted, F.cross_entropy if discrete else F.mse_loss)
        return cls(network, mean, deviation, acts)

    @torch.no_grad()
    def play(self, attempts: Sequence[Attempt], step: Step = one_by_one) -> list[Episode]:
        """Act in all attempts until each is over. step: how the environments go on."""
        while going := [attempt for attempt in attempts if attempt.going]:
            rows = [_rows(np.asarray(one.observations[-1])[None], one.env.observation_space) for one in going]
            said = self.network((torch.from_numpy(np.concatenate(rows)) - self.mean) / self.deviation)
            step({attempt: self._action(row) for attempt, row in zip(going, said, strict=True)})
        return [attempt.episode() for attempt in attempts]

    def _action(self, said: torch.Tensor) -> Any:
        from gymnasium import spaces

        if isinstance(self.space, spaces.Box):
            return said.numpy().reshape(self.space.shape).clip(self.space.low, self.space.high)
        return int(said.argmax()) + int(self.space.start)


def _train(network: nn.Sequential, states: torch.Tensor, wanted: torch.Tensor, loss_of: Any) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    with torch.enable_grad():
        for _ in range(STEPS):
            rows = torch.randint(len(states), (BATCH,))
            loss = loss_of(network(states[rows]), wanted[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def _rows(observations: np.ndarray, space: gymnasium.Space) -> np.ndarray:
    """float32[steps, features]; a Discrete state is one of n places."""
    from gymnasium import spaces

    flat = np.asarray(observations).reshape(len(observations), -1)
    if isinstance(space, spaces.Discrete):
        return np.eye(int(space.n), dtype=np.float32)[flat[:, 0].astype(np.int64) - int(space.start)]
    return flat.astype(np.float32)
