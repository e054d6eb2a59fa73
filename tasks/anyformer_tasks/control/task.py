"""Control: reach the return one is asked for, in any gymnasium environment of Box or Discrete spaces, learned from
episodes that others have recorded."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from anyformer.contracts import SPLITS, Metric, Objective, Sample, Score, Split, Task
from anyformer.episode import Episode
from anyformer.errors import ConfigError, PluginError
from anyformer.objectives import ReturnConditioned
from anyformer_tasks.control import episodes as files
from anyformer_tasks.control.cloning import Clone
from anyformer_tasks.control.experts import EXPERTS
from anyformer_tasks.control.film import gif
from anyformer_tasks.control.policies import Policy, record
from anyformer_tasks.control.rollout import play
from anyformer_tasks.environments.attempts import Here, Wish, make_env

if TYPE_CHECKING:
    from anyformer.model import Model
    from anyformer_tasks.environments.processes import Processes

SHOWN = 3  # episodes of each target
HELD_OUT = 10  # of so many episodes in a file, one is held out for each held-out split
REFERENCE_SEEDS = range(900_000_000, 900_000_050)


@dataclass
class Control(Task):
    """Return-conditioned control (Decision Transformer, arXiv:2106.01345), scored by acting.

    A sample is a segment of an episode with its place in it, {"episode": Episode}. A tokenizer of trajectories without
    returns makes the same task cloning; `best` chooses what is cloned.

    env: a gymnasium environment. policies: who is recorded, taking turns (`noisy:0.05`, see
    anyformer_tasks.control.policies); episodes: how many are. sources: episodes that are there already, files or Minari
    data sets (see anyformer_tasks.control.episodes), below `data_dir`. best: the part of training episodes, by return,
    that is kept. elite: the part that the better of the clones beside the model learns from. targets: the returns that
    are asked for; by default the best that was recorded. context: steps in a training segment and the most a model sees
    while it acts. held_out: start states in each held-out split. success: the return from which an episode counts as
    one, by default what gymnasium calls solved. references: the returns that count as 0 and 1 in the normalised score,
    by default the mean of a random policy, and that of the scripted expert or, where there is none, the best that was
    recorded. film: show episodes as moving pictures too. processes: in which environments are stepped while a model or
    a clone acts, which changes nothing but the time; 0 steps them in this one. seed: of recording and of start states.
    """

    env: str = "CartPole-v1"
    policies: Sequence[str] = field(default_factory=list)
    episodes: int = 200
    sources: Sequence[str] = field(default_factory=list)
    best: float = 1.0
    elite: float = 0.1
    targets: Sequence[float] = field(default_factory=list)
    context: int = 20
    held_out: int = 50
    success: float | None = None
    references: Sequence[float] = field(default_factory=list)
    film: bool = False
    processes: int = 0
    seed: int = 0
    data_dir: str | None = None

    fields: ClassVar[Mapping[str, str]] = {"episode": "rl"}
    modality: ClassVar[str] = "control"

    def __post_init__(self) -> None:
        parts = self.best, self.elite
        if min(self.episodes, self.held_out) < 1 or self.context < 2 or not 0 < min(parts) <= max(parts) <= 1:
            raise ConfigError(
                f"control has episodes={self.episodes}, held_out={self.held_out}, context={self.context}, "
                f"best={self.best} and elite={self.elite}; expected at least 1 episode of each kind, a context of at "
                "least 2 steps, and parts above 0, at most 1."
            )
        if not self.policies and not self.sources:
            raise ConfigError("control has neither policies to record nor sources to read; expected one of them.")
        if self.processes < 0:
            raise ConfigError(f"control has processes={self.processes}; expected a number, or 0 for this one alone.")
        if len(self.references) not in (0, 2):
            raise ConfigError(f"control has references={self.references}; expected the returns that are 0 and 1.")
        _ = self._policies  # a wrong one is refused at once

    def default_objective(self) -> Objective:
        return ReturnConditioned(field="episode", action="rl.action")

    @property
    def metrics(self) -> tuple[Metric, ...]:  # ty: ignore[incompatible-property-override]
        """The return by target; of the highest target also success and the normalised score, where there are such."""
        names = [f"return@{target:g}" for target in self._targets]
        names += ["success"] * (self._threshold is not None) + ["normalised"] * (self._references is not None)
        return tuple(Metric(name, higher_is_better=True) for name in names)

    def examples(self, split: Split) -> Sequence[Sample]:
        """Segments, clustered by their episode.

        In training they cover every episode and overlap by half a context, as the contexts of a rollout do, so an
        episode counts by its length. Of a held-out episode there is one segment, drawn by its seed, so that n samples
        are n start states: the cluster is the seed that the environment starts with.
        """
        return [
            Sample(f"{key}-{start}", {"episode": cut(episode, start, self.context)}, cluster=key)
            for key, episode in self._recorded[split].items()
            for start in (self._starts(episode) if split == "train" else self._one_start(key, episode))
        ]

    def score(self, model: Model, samples: Sequence[Sample]) -> Iterator[Score]:
        """The return reached for each target, from the start state of the sample's own seed."""
        wishes = [(sample, target) for target in self._targets for sample in samples]
        filmed = SHOWN if self.film else 0
        asked = [
            Wish(int(sample.cluster), target, number % len(samples) < filmed)
            for number, (sample, target) in enumerate(wishes)
        ]
        with self._stage(asked) as stage:
            episodes = play(model, model.tokenizers["rl"], "rl.action", stage.attempts, self.context, step=stage.step)
        shown_so_far = Counter()
        for (sample, target), attempt, episode in zip(wishes, stage.attempts, episodes, strict=True):
            shown_so_far[target] += 1
            if attempt.frames:
                episode = replace(episode, film=gif(attempt.frames))
            shown = {"episode": episode, "target": target} if shown_so_far[target] <= SHOWN else {}
            for metric, value in self._measured(float(episode.rewards.sum()), target).items():
                mine = shown if metric.startswith("return") else {}
                yield Score(sample.id, metric, value, 1.0, sample.cluster, mine)

    def baselines(self) -> Mapping[str, Mapping[str, float]]:
        """What was recorded, on average, and clones without a memory of everything and of the elite, which act from the
        same start states; the same for every target."""
        recorded = list(self._gathered["train"].values())
        methods = {"data mean": [float(np.sum(episode.rewards)) for episode in recorded]}
        env = make_env(self.env)
        for name, part in (("cloning", 1.0), (f"top {100 * self.elite:g} % cloning", self.elite)):
            clone = Clone.of(best(recorded, part), env, self.seed)
            with self._stage([Wish(int(key)) for key in self._gathered["test"]]) as stage:
                methods[name] = [float(e.rewards.sum()) for e in clone.play(stage.attempts, stage.step)]
        found: dict[str, dict[str, float]] = {metric.name: {} for metric in self.metrics}
        for method, returns in methods.items():
            measured = [self._measured(value, target) for target in self._targets for value in returns]
            for metric, values in found.items():
                values[method] = float(np.mean([one[metric] for one in measured if metric in one]))
        return found

    def _measured(self, value: float, target: float) -> dict[str, float]:
        """A return by every metric of the task that it says something of."""
        names, measured = [metric.name for metric in self.metrics], {f"return@{target:g}": value}
        if target == max(self._targets):
            if "success" in names and self._threshold is not None:
                measured["success"] = float(value >= self._threshold)
            if "normalised" in names and self._references is not None:
                nothing, everything = self._references
                measured["normalised"] = (value - nothing) / (everything - nothing)
        return measured

    def _stage(self, wishes: Sequence[Wish]) -> Here | Processes:
        """Where the wishes are tried."""
        from gymnasium.error import DependencyNotInstalled

        try:
            if not self.processes:
                return Here(self.env, wishes)
            from anyformer_tasks.environments.processes import Processes

            return Processes(self.env, wishes, self.processes)
        except DependencyNotInstalled as error:
            raise PluginError(f"{self.env} cannot be filmed ({error}). Install that, or set film: false.") from error

    @cached_property
    def _policies(self) -> list[Policy]:
        return [Policy.of(text) for text in self.policies]

    @cached_property
    def _targets(self) -> tuple[float, ...]:
        if self.targets:
            return tuple(float(target) for target in self.targets)
        return (self._best_recorded,)

    @cached_property
    def _threshold(self) -> float | None:
        spec = make_env(self.env).spec
        return self.success if self.success is not None or spec is None else spec.reward_threshold

    @cached_property
    def _references(self) -> tuple[float, float] | None:
        """What counts as 0 and as 1; None where nothing recorded is better than chance."""
        if self.references:
            return float(self.references[0]), float(self.references[1])
        if self.env in EXPERTS:
            return self._reached("random"), self._reached("expert")
        nothing, everything = self._reached("random"), self._best_recorded
        return (nothing, everything) if everything > nothing else None

    def _reached(self, policy: str) -> float:
        episodes = record(self.env, [Policy.of(policy)], REFERENCE_SEEDS)
        return float(np.mean([episode.rewards.sum() for episode in episodes]))

    @cached_property
    def _best_recorded(self) -> float:
        return max(float(np.sum(episode.rewards)) for episode in self._gathered["train"].values())

    @cached_property
    def _recorded(self) -> dict[Split, dict[str, Episode]]:
        """What is learned from and asked about: of training episodes only the best."""
        whole = self._gathered["train"]
        kept = {id(episode) for episode in best(list(whole.values()), self.best)}
        return {**self._gathered, "train": {key: episode for key, episode in whole.items() if id(episode) in kept}}

    @cached_property
    def _gathered(self) -> dict[Split, dict[str, Episode]]:
        """Whole episodes; in held-out splits by the seed that the environment starts with."""
        sizes = {"train": self.episodes, "validation": self.held_out, "test": self.held_out}
        first, found = self.seed * 1_000_000, {}
        ready = self._from_sources()
        for split in SPLITS:
            seeds = range(first, first + sizes[split])
            if self._policies:
                acted = record(self.env, self._policies, seeds, max(self.targets, default=0.0), self.context)
            else:
                acted = [] if split == "train" else [ready[split][i % len(ready[split])] for i in range(len(seeds))]
            found[split] = {str(seed): episode for seed, episode in zip(seeds, acted, strict=False)}
            first += sizes[split]
        return {**found, "train": found["train"] | {f"file-{i}": e for i, e in enumerate(ready["train"])}}

    def _from_sources(self) -> dict[Split, list[Episode]]:
        """Every tenth episode is held out for validation and the one before it for the test; all, where there are too
        few."""
        every = [episode for source in self.sources for episode in files.read(source, self.data_dir)]
        if len(every) < HELD_OUT:
            return dict.fromkeys(SPLITS, every)
        tests = {HELD_OUT - 1: "validation", HELD_OUT - 2: "test"}
        split_of = [tests.get(number % HELD_OUT, "train") for number in range(len(every))]
        return {split: [e for e, mine in zip(every, split_of, strict=True) if mine == split] for split in SPLITS}

    def _starts(self, episode: Episode) -> range:
        step = self.context // 2
        return range(0, max(1, len(episode) - step), step)

    def _one_start(self, key: str, episode: Episode) -> list[int]:
        return [int(np.random.default_rng(int(key)).choice(self._starts(episode)))]


def best(episodes: Sequence[Episode], part: float) -> list[Episode]:
    """This part of the episodes, at least one: those of the highest returns, in their order."""
    count = max(1, math.ceil(part * len(episodes)))
    returns = [-float(np.sum(episode.rewards)) for episode in episodes]
    kept = np.sort(np.argsort(returns, kind="stable")[:count])
    return [episodes[i] for i in kept.tolist()]


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
