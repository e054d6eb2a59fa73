"""Acting in gymnasium environments with a session: many episodes side by side, each with a return it should reach.

Each step appends what is new to every sequence (the last action, the return still wanted, the state) and samples
the next action (Decision Transformer, arXiv:2106.01345, Algorithm 1). The model never sees more steps than it was
trained on: when the context is full, a fresh session reads the last half of it again, because a cut cache is not
a shorter context.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from anyformer.episode import Episode
from anyformer.errors import ConfigError, PluginError, nearest
from anyformer.tokens import Tokens

if TYPE_CHECKING:
    import gymnasium

    from anyformer.contracts import Tokenizer
    from anyformer.model import Model


def make_env(env_id: str) -> gymnasium.Env:
    """A registered environment. ConfigError for an unknown name, PluginError for one that is not installed."""
    import gymnasium
    from gymnasium.error import DependencyNotInstalled, Error, NamespaceNotFound

    try:
        return gymnasium.make(env_id, disable_env_checker=True)  # it would double the time of a step
    except (DependencyNotInstalled, NamespaceNotFound, ImportError) as error:
        raise PluginError(
            f"The environment {env_id!r} is not installed ({error}); pip install the package that provides it."
        ) from error
    except Error as error:
        raise ConfigError(
            f"Gymnasium has no environment {env_id!r} ({error}).{nearest(env_id, gymnasium.registry)}"
        ) from error


class Attempt:
    """One episode under way.

    target: the return that it should reach; what is still wanted is this less the rewards so far.
    """

    def __init__(self, env: gymnasium.Env, seed: int, target: float = 0.0) -> None:
        self.env, self.target = env, target
        self.observations = [env.reset(seed=seed)[0]]
        self.actions: list[Any] = []
        self.rewards: list[float] = []
        self.terminated = self.truncated = False

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
        self.observations.append(observation)
        self.actions.append(action)
        self.rewards.append(float(reward))

    def episode(self, start: int = 0) -> Episode:
        """All steps from `start` on."""
        return Episode(
            np.array(self.observations[start:]),
            np.array(self.actions[start:]),
            np.array(self.rewards[start:]),
            self.terminated,
            self.truncated,
            start,
        )


def play(model: Model, tokenizer: Tokenizer, stream: str, attempts: Sequence[Attempt], context: int) -> list[Episode]:
    """Act greedily in all attempts until each is over.

    stream: the action stream. context: the most steps the model may see, at least 2.
    """
    if context < 2:
        raise ConfigError(f"A rollout has context={context}; expected at least 2 steps.")
    going = [attempt for attempt in attempts if attempt.going]
    while going:
        _play_until_full(model, tokenizer, stream, going, context)
        going = [attempt for attempt in going if attempt.going]
    return [attempt.episode() for attempt in attempts]


def _play_until_full(model: Model, tokenizer: Any, stream: str, attempts: Sequence[Attempt], context: int) -> None:
    """One session: what its attempts remember, then as many steps as the context still holds."""
    session = model.session(len(attempts))
    remembered = min(context // 2, len(attempts[0]))
    news = [_remembered(tokenizer, attempt, remembered) for attempt in attempts]
    for _ in range(context - remembered):
        session.append(
            [
                _behind(before, tokenizer.observe(one.wanted, one.observations[-1], len(one))) if one.going else None
                for one, before in zip(attempts, news, strict=True)
            ]
        )
        said = session.sample(stream)
        for index, attempt in enumerate(attempts):
            if attempt.going:
                action = tokenizer.action(said[index : index + 1])
                news[index] = tokenizer.act(action, len(attempt))
                attempt.step(action)
        if not any(attempt.going for attempt in attempts):
            return


def _remembered(tokenizer: Any, attempt: Attempt, steps: int) -> Tokens | None:
    """The last steps, with the returns that were wanted when they were taken."""
    if not steps:
        return None
    return tokenizer.encode(replace(attempt.episode(len(attempt) - steps), return_after=attempt.wanted))


def _behind(before: Tokens | None, tokens: Tokens) -> Tokens:
    """`tokens` after `before`, both at their own positions."""
    if before is None:
        return tokens
    streams = dict(before.streams)
    for name, stream in tokens.streams.items():
        moved = stream.shifted(before.length)
        streams[name] = type(stream).joined([streams[name], moved]) if name in streams else moved
    positions = torch.cat([before.positions, tokens.positions])
    return Tokens(streams, before.length + tokens.length, positions)
