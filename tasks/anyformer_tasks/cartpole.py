"""CartPole: reach the return one is asked for, learned from recorded episodes of mixed quality.

Gymnasium's CartPole-v1 (A. Barto, R. Sutton and C. Anderson, "Neuronlike Adaptive Elements That Can Solve
Difficult Learning Control Problems", 1983) gives a reward of 1 for each step that the pole stands, 500 at most.
A sample is a segment of an episode with its place in it, {"episode": Episode}.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from anyformer.contracts import SPLITS, Metric, Objective, Sample, Score, Split, Task
from anyformer.episode import Episode
from anyformer.errors import ConfigError
from anyformer.objectives import ReturnConditioned
from anyformer_tasks.rollout import Attempt, make_env, play

if TYPE_CHECKING:
    from anyformer.model import Model

ENV = "CartPole-v1"
TARGETS = (50, 200, 500)
LAPSES = (1.0, 0.05, 0.02, 0.01, 0.005)
"""The recorded policies: chances per step of a lapse. The first one acts at random."""
LONGEST_LAPSE = 10  # steps


@dataclass
class CartPole(Task):
    """Return-conditioned control, scored by acting.

    episodes: recorded for training, in equal parts by each policy of `LAPSES`; held_out: for each held-out split.
    context: steps in a training segment and the most a model sees while it acts. seed: draws everything.

    The policies share a hand-written linear controller and differ in how often they lapse: they then hold a random
    button down for 1 to 10 steps, which a standing pole survives or not. The controller alone would balance it for
    ever, but no recorded policy is free of lapses and none solves the task; their mean return is about 130.
    """

    episodes: int = 500
    held_out: int = 50
    context: int = 20
    seed: int = 0

    fields: ClassVar[Mapping[str, str]] = {"episode": "rl"}
    modality: ClassVar[str] = "control"
    metrics: ClassVar[tuple[Metric, ...]] = tuple(Metric(f"return@{t}", higher_is_better=True) for t in TARGETS)

    def __post_init__(self) -> None:
        if min(self.episodes, self.held_out) < 1 or self.context < 2:
            raise ConfigError(
                f"CartPole has episodes={self.episodes}, held_out={self.held_out} and context={self.context}; "
                "expected at least 1 episode of each kind and a context of at least 2 steps."
            )

    def default_objective(self) -> Objective:
        return ReturnConditioned(field="episode", action="rl.action")

    def examples(self, split: Split) -> Sequence[Sample]:
        """Segments, clustered by their episode's seed.

        In training they cover every episode and overlap by half a context, as the contexts of a rollout do.
        Of a held-out episode there is one segment, drawn by its seed, so that n samples are n start states.
        """
        return [
            Sample(f"{seed}-{start}", {"episode": cut(episode, start, self.context)}, cluster=str(seed))
            for seed, episode in self._recorded[split].items()
            for start in (self._starts(episode) if split == "train" else self._one_start(seed, episode))
        ]

    def score(self, model: Model, samples: Sequence[Sample]) -> Iterator[Score]:
        """The return reached for each target, from the start state of the sample's own seed."""
        wishes = [(sample, target) for target in TARGETS for sample in samples]
        attempts = [Attempt(make_env(ENV), int(sample.cluster), target) for sample, target in wishes]
        episodes = play(model, model.tokenizers["rl"], "rl.action", attempts, self.context)
        shown_so_far = Counter()
        for (sample, target), episode in zip(wishes, episodes, strict=True):
            shown_so_far[target] += 1
            shown = {"episode": episode, "target": target} if shown_so_far[target] <= 3 else {}
            yield Score(sample.id, f"return@{target}", float(episode.rewards.sum()), 1.0, sample.cluster, shown)

    def baselines(self) -> Mapping[str, Mapping[str, float]]:
        """The mean return of the episodes that were learned from, the same for every target."""
        returns = [float(episode.rewards.sum()) for episode in self._recorded["train"].values()]
        return {metric.name: {"data mean": float(np.mean(returns))} for metric in self.metrics}

    @cached_property
    def _recorded(self) -> dict[Split, dict[int, Episode]]:
        """Whole episodes by seed; a policy's turn comes every `len(LAPSES)` seeds."""
        env = make_env(ENV)
        sizes = {"train": self.episodes, "validation": self.held_out, "test": self.held_out}
        seeds = itertools.count(self.seed * 1_000_000)
        return {
            split: {
                seed: record(env, seed, LAPSES[turn % len(LAPSES)])
                for turn, seed in enumerate(itertools.islice(seeds, sizes[split]))
            }
            for split in SPLITS
        }

    def _starts(self, episode: Episode) -> range:
        step = self.context // 2
        return range(0, max(1, len(episode) - step), step)

    def _one_start(self, seed: int, episode: Episode) -> list[int]:
        return [int(np.random.default_rng(seed).choice(self._starts(episode)))]


def record(env, seed: int, lapse: float) -> Episode:
    """One episode of the linear controller that lapses with this chance at each step."""
    attempt, rng = Attempt(env, seed), np.random.default_rng(seed)
    button = held = 0
    while attempt.going:
        if held == 0 and rng.random() < lapse:
            button, held = int(rng.integers(2)), int(rng.integers(1, LONGEST_LAPSE + 1))
        attempt.step(button if held else controlled(attempt.observations[-1]))
        held = max(0, held - 1)
    return attempt.episode()


def controlled(observation: np.ndarray) -> int:
    """Push towards where the pole falls, and a little towards where the cart drifts, which leans the pole back."""
    position, velocity, angle, turning = observation
    return int(0.1 * position + 0.3 * velocity + angle + 0.6 * turning > 0)


def cut(episode: Episode, start: int, steps: int) -> Episode:
    """At most `steps` steps from `start` on, which know what return follows them."""
    stop = min(start + steps, len(episode))
    is_end = stop == len(episode)
    return Episode(
        episode.observations[start : stop + 1],
        episode.actions[start:stop],
        episode.rewards[start:stop],
        episode.terminated and is_end,
        episode.truncated and is_end,
        episode.start + start,
        episode.return_after + float(episode.rewards[stop:].sum()),
    )
