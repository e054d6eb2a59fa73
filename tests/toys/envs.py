"""Environments for tests, and for the processes that step them: this file imports no torch."""

from __future__ import annotations

import os

import gymnasium
import numpy as np
from gymnasium import spaces

FATAL = 13
"""The seed with which `Mortal` ends its process at the third step."""


class Restless(gymnasium.Env):
    """Eight steps in which the least difference between two actions grows a hundredfold at each."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    observation_space = spaces.Box(-1, 1, (3,), np.float64)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed, self.steps, self.place = seed, 0, self.np_random.uniform(-1, 1, 3)
        return self.place.copy(), {}

    def step(self, action):
        self.steps += 1
        self.place = np.sin(100 * self.place + action + self.np_random.uniform(size=3))
        return self.place.copy(), self.place[0], False, self.steps == 8, {}

    def render(self):
        return np.full((8, 8, 3), 100 + self.steps, np.uint8)


class Mortal(Restless):
    def step(self, action):
        if self.seed == FATAL and self.steps == 2:
            os._exit(7)
        return super().step(action)


class Faulty(Restless):
    def step(self, action):
        raise KeyError("what an environment raises")


gymnasium.register("Restless-v0", entry_point="envs:Restless")
gymnasium.register("Mortal-v0", entry_point="envs:Mortal")
gymnasium.register("Faulty-v0", entry_point="envs:Faulty")
