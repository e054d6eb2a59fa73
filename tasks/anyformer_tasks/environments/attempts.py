"""Gymnasium's environments, and an episode under way in one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from anyformer.episode import Episode
from anyformer.errors import ConfigError, PluginError, SampleError, nearest

if TYPE_CHECKING:
    import gymnasium
    from gymnasium.envs.registration import EnvSpec


def make_env(env_id: str | EnvSpec, **settings: Any) -> gymnasium.Env:
    """A registered environment, or one as a specification says. ConfigError for an unknown name, PluginError for one
    that is not installed.

    settings: of `gymnasium.make`, such as render_mode.
    """
    import gymnasium
    from gymnasium.error import DependencyNotInstalled, Error, NamespaceNotFound

    if isinstance(env_id, str) and ":" in env_id:  # gymnasium would import the module before it
        raise ConfigError(f"env={env_id!r} names a module; expected an environment that is registered already.")
    try:
        return gymnasium.make(env_id, disable_env_checker=True, **settings)  # it would double the time of a step
    except (DependencyNotInstalled, NamespaceNotFound, ImportError) as error:
        raise PluginError(
            f"The environment {env_id!r} is not installed ({error}); pip install the package that provides it."
        ) from error
    except Error as error:
        raise ConfigError(
            f"Gymnasium has no environment {env_id!r} ({error}).{nearest(str(env_id), gymnasium.registry)}"
        ) from error


class Wish(NamedTuple):
    """An attempt that is to be made: from the start state of this seed, for a return of `target`; filmed or not."""

    seed: int
    target: float = 0.0
    filmed: bool = False

    @property
    def rendering(self) -> dict[str, str]:
        """The settings of its environment."""
        return {"render_mode": "rgb_array"} if self.filmed else {}


class Attempt:
    """One episode under way.

    target: the return that it should reach; what is still wanted is this less the rewards so far.
    """

    def __init__(self, env: gymnasium.Env, seed: int, target: float = 0.0) -> None:
        self.env, self.seed, self.target = env, seed, target
        self.observations = [env.reset(seed=seed)[0]]
        self.actions: list[Any] = []
        self.rewards: list[float] = []
        self.terminated = self.truncated = False
        self.frames: list[Any] = [env.render()] if env.render_mode == "rgb_array" else []

    def __len__(self) -> int:
        """Steps taken."""
        return len(self.actions)

    @property
    def going(self) -> bool:
        return not (self.terminated or self.truncated)

    @property
    def wanted(self) -> float:
        return self.target - sum(self.rewards)

    def step(self, action: Any) -> None:
        observation, reward, self.terminated, self.truncated, _ = self.env.step(action)
        if not math.isfinite(reward):  # gymnasium passes it on
            name = self.env.spec.id if self.env.spec else type(self.env.unwrapped).__name__
            raise SampleError(
                f"The environment {name} gave the reward {reward} at step {len(self)}; expected a number."
            )
        self.observations.append(observation)
        self.actions.append(action)
        self.rewards.append(float(reward))
        if self.frames:
            self.frames.append(self.env.render())

    def episode(self, start: int = 0) -> Episode:
        """All steps from `start` on."""
        return Episode(
            np.array(self.observations[start:]),
            np.array(self.actions[start:]),
            np.array(self.rewards[start:]),
            bool(self.terminated),
            bool(self.truncated),
            start,
        )


class Here:
    """Attempts whose environments are in this process. A context: they are closed with it."""

    def __init__(self, env_id: str, wishes: Sequence[Wish]) -> None:
        self.attempts = [Attempt(make_env(env_id, **wish.rendering), wish.seed, wish.target) for wish in wishes]

    def step(self, actions: Mapping[Attempt, Any]) -> None:
        one_by_one(actions)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for attempt in self.attempts:
            attempt.env.close()


def one_by_one(actions: Mapping[Attempt, Any]) -> None:
    """Each attempt goes on by its action."""
    for attempt, action in actions.items():
        attempt.step(action)


def any_action(space: gymnasium.Space, rng: np.random.Generator) -> Any:
    """An action drawn evenly from a Discrete space or a Box, normally where a Box has no bounds."""
    from gymnasium import spaces

    known = discrete_or_box(space)
    if isinstance(known, spaces.Discrete):
        return int(known.start + rng.integers(known.n))
    bounded = np.isfinite(known.low) & np.isfinite(known.high)
    even = rng.uniform(np.where(bounded, known.low, 0), np.where(bounded, known.high, 1))
    return np.where(bounded, even, rng.normal(size=known.shape)).astype(known.dtype).clip(known.low, known.high)


def discrete_or_box(space: gymnasium.Space) -> gymnasium.spaces.Discrete | gymnasium.spaces.Box:
    """The space itself; ConfigError for one of another kind."""
    from gymnasium import spaces

    if isinstance(space, spaces.Discrete | spaces.Box):
        return space
    raise ConfigError(f"The space {space} is a {type(space).__name__}; expected Box or Discrete. Wrap the environment.")
