"""Hand-written controllers of gymnasium's classic control problems: good, deterministic, and a line or two each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Controller = Callable[[np.ndarray], Any]
"""From an observation to an action."""


def balanced(observation: np.ndarray) -> int:
    """CartPole. Push towards where the pole falls, and a little towards where the cart drifts, which leans the pole
    back."""
    position, velocity, angle, turning = observation
    return int(0.1 * position + 0.3 * velocity + angle + 0.6 * turning > 0)


def swung_up(observation: np.ndarray) -> np.ndarray:
    """Pendulum. Bring its energy to that of standing still upright (Åström and Furuta, "Swinging up a pendulum by
    energy control", 2000), then hold it there."""
    cosine, sine, turning = (float(value) for value in observation)
    if cosine > 0.8:
        torque = -(10 * np.arctan2(sine, cosine) + 2 * turning)
    else:
        energy = turning**2 / 6 + 5 * cosine  # per unit of m l²: a third of ω² / 2, and g / 2l times the height
        torque = 2.0 * np.sign(turning or 1.0) * np.sign(5.0 - energy)
    return np.array([np.clip(torque, -2, 2)], dtype=np.float32)


def pumped(observation: np.ndarray) -> int:
    """Acrobot. Turn the lower link on in the direction in which it turns: energy goes in."""
    return 2 if observation[5] > 0 else 0


def rocked(observation: np.ndarray) -> int:
    """MountainCar. Push in the direction of motion: energy goes in."""
    return 2 if observation[1] > 0 else 0


def rocked_smoothly(observation: np.ndarray) -> np.ndarray:
    """MountainCarContinuous, likewise."""
    return np.array([1.0 if observation[1] > 0 else -1.0], dtype=np.float32)


EXPERTS: dict[str, Controller] = {
    "CartPole-v0": balanced,
    "CartPole-v1": balanced,
    "Pendulum-v1": swung_up,
    "Acrobot-v1": pumped,
    "MountainCar-v0": rocked,
    "MountainCarContinuous-v0": rocked_smoothly,
}
"""By environment."""
