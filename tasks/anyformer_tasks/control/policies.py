"""Who acts: at random, a scripted expert, or a checkpoint; and how often it lapses.

A policy is written `random`, `expert`, `noisy` (the expert, which lapses at one step in ten) or as a checkpoint's
directory; behind a colon may stand the chance of a lapse at each step, and for how many steps one lasts at most:
`noisy:0.05x10`, `runs/walker/last:0.2`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anyformer.episode import Episode
from anyformer.errors import ConfigError
from anyformer_tasks.control.experts import EXPERTS
from anyformer_tasks.control.rollout import play
from anyformer_tasks.environments.attempts import Attempt, any_action, make_env

if TYPE_CHECKING:
    import gymnasium

LAPSES = {"random": 1.0, "noisy": 0.1}
"""Chances of a lapse that a name means by itself; others never lapse."""


@dataclass(frozen=True)
class Policy:
    """name: "random", "expert", or a checkpoint's directory. lapse: the chance at each step that an action drawn by lot
    is held for 1 to `longest` steps."""

    name: str
    lapse: float = 0.0
    longest: int = 1

    @classmethod
    def of(cls, text: str) -> Policy:
        """As it is written; see above. ConfigError for a chance beyond [0, 1] or a lapse of no step."""
        told = re.fullmatch(r"(.+?)(?::([\d.]+)(?:x(\d+))?)?", str(text))
        if told is None:
            raise ConfigError(f"A policy is {text!r}; expected random, expert, noisy:0.1 or a checkpoint's directory.")
        name, lapse, longest = told[1], told[2], int(told[3] or 1)
        try:
            chance = LAPSES.get(name, 0.0) if lapse is None else float(lapse)
        except ValueError as error:
            raise ConfigError(f"The policy {text!r} lapses with {lapse}; expected a chance such as 0.1.") from error
        if not 0 <= chance <= 1 or longest < 1:
            raise ConfigError(f"The policy {text!r} lapses with {chance} for {longest} steps; expected 0 to 1, and 1.")
        if name == "random" and chance < 1:
            raise ConfigError(f"The policy {text!r} has nothing to do when it does not lapse; expected random:1.")
        return cls({"noisy": "expert"}.get(name, name), chance, longest)

    @property
    def is_scripted(self) -> bool:
        return self.name in ("random", "expert")

    def controller(self, env_id: str) -> Callable[[np.ndarray], Any]:
        """The scripted one of this environment; ConfigError where there is none."""
        if self.name == "random":
            return lambda _: None  # never asked: it lapses always
        if env_id not in EXPERTS:
            raise ConfigError(
                f"There is no scripted expert of {env_id!r}; expected one of {', '.join(EXPERTS)}. "
                "Use random, or a checkpoint's directory."
            )
        return EXPERTS[env_id]


class Lapses:
    """What is done in the place of what was meant, in one episode; drawn from its seed alone."""

    def __init__(self, policy: Policy, space: gymnasium.Space, seed: int) -> None:
        self.policy, self.space, self.rng = policy, space, np.random.default_rng(seed)
        self.action: Any = None
        self.held = 0

    def __call__(self, meant: Callable[[], Any]) -> Any:
        if self.held == 0 and self.rng.random() < self.policy.lapse:
            self.action = any_action(self.space, self.rng)
            self.held = int(self.rng.integers(1, self.policy.longest + 1))
        if self.held == 0:
            return meant()
        self.held -= 1
        return self.action


def record(
    env_id: str, policies: Sequence[Policy], seeds: Sequence[int], target: float = 0.0, context: int = 20
) -> list[Episode]:
    """An episode of each seed, the policies taking turns.

    target, context: of checkpoints: the return they are asked for, and the most steps they see.
    """
    found: dict[int, Episode] = {}
    for turn, policy in enumerate(policies):
        mine = seeds[turn :: len(policies)]
        acted = (
            _scripted(env_id, policy, mine) if policy.is_scripted else _learned(env_id, policy, mine, target, context)
        )
        found |= dict(zip(mine, acted, strict=True))
    return [found[seed] for seed in seeds]


def _scripted(env_id: str, policy: Policy, seeds: Sequence[int]) -> list[Episode]:
    env, controller, episodes = make_env(env_id), policy.controller(env_id), []
    for seed in seeds:
        attempt, lapses = Attempt(env, seed), Lapses(policy, env.action_space, seed)
        while attempt.going:
            attempt.step(lapses(lambda attempt=attempt: controller(attempt.observations[-1])))
        episodes.append(attempt.episode())
    env.close()
    return episodes


def _learned(env_id: str, policy: Policy, seeds: Sequence[int], target: float, context: int) -> list[Episode]:
    from anyformer.checkpoint import load

    model = load(Path(policy.name)).eval()
    attempts = [Attempt(make_env(env_id), seed, target) for seed in seeds]
    lapses = [Lapses(policy, attempt.env.action_space, seed) for attempt, seed in zip(attempts, seeds, strict=True)]
    kinds = [name for name, one in model.tokenizers.items() if hasattr(one, "observe")]
    if len(kinds) != 1:
        raise ConfigError(f"The checkpoint {policy.name} has {kinds or 'no'} tokenizers of trajectories; expected one.")
    tokenizer = model.tokenizers[kinds[0]]
    return play(model, tokenizer, f"{tokenizer.name}.action", attempts, context, lapses)
