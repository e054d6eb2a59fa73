"""A reward that is no number would make a whole episode's return none: the environment is named instead."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest

from anyformer.errors import SampleError
from anyformer_tasks.environments.attempts import Attempt


class Broken(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, **settings: Any) -> tuple[np.ndarray, dict]:
        return np.zeros(2, np.float32), {}

    def step(self, action: float) -> tuple[np.ndarray, float, bool, bool, dict]:
        return np.zeros(2, np.float32), action, False, False, {}


@pytest.mark.parametrize("reward", [float("nan"), float("inf"), float("-inf")])
def test_a_reward_that_is_no_number_is_an_error(reward):
    attempt = Attempt(Broken(), 0)
    attempt.step(1.0)
    with pytest.raises(SampleError, match=r"Broken gave the reward (nan|-?inf) at step 1"):
        attempt.step(reward)
