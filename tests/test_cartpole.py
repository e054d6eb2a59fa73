"""The CartPole task and its rollouts: honest data, segments that know their place, contexts as trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anyformer.contracts import SPLITS
from anyformer.episode import Episode
from anyformer.errors import ConfigError, PluginError
from anyformer.tokens import Stream, Tokens
from anyformer_tasks.cartpole import ENV, TARGETS, CartPole
from anyformer_tasks.control.experts import balanced
from anyformer_tasks.control.rollout import play
from anyformer_tasks.control.task import cut
from anyformer_tasks.environments.attempts import Attempt, make_env


@pytest.fixture(scope="module")
def task() -> CartPole:
    return CartPole(episodes=100, held_out=10)


def whole(steps: int) -> Episode:
    return Episode(np.arange(4.0 * (steps + 1)).reshape(-1, 4), np.arange(steps) % 2, np.ones(steps), True)


# --- data ---------------------------------------------------------------------------------------------------


def test_the_recorded_mean_is_at_most_150():
    """What is asked for must be far better than what was recorded."""
    returns = [episode.rewards.sum() for episode in CartPole()._recorded["train"].values()]
    assert 80 < np.mean(returns) <= 150 and np.quantile(returns, 0.8) < 350


def test_no_recorded_policy_solves_the_task():
    """CartPole-v1 counts as solved at a mean of 475 (gymnasium's reward_threshold)."""
    returns = np.array([e.rewards.sum() for e in CartPole()._recorded["train"].values()]).reshape(-1, 5)
    assert (returns.mean(0) < 400).all() and np.all(np.diff(returns.mean(0)) > 0)


def test_examples_are_a_function_of_the_settings(task):
    twin, other = CartPole(**task.config()), CartPole(episodes=100, held_out=10, seed=1)
    for split in SPLITS:
        first, second = task.examples(split), twin.examples(split)
        assert [s.id for s in first] == [s.id for s in second]
        assert np.array_equal(first[3].values["episode"].observations, second[3].values["episode"].observations)
    assert {s.cluster for s in other.examples("test")}.isdisjoint({s.cluster for s in task.examples("test")})


def test_no_episode_is_in_two_splits(task):
    seeds = [{s.cluster for s in task.examples(split)} for split in SPLITS]
    assert len(set.union(*seeds)) == sum(map(len, seeds)) == 120
    assert len(task.examples("test")) == 10, "one sample for each held-out start state"


@given(st.integers(1, 60), st.data())
def test_a_segment_has_the_returns_to_go_of_its_episode(steps, data):
    start, most = data.draw(st.integers(0, steps - 1)), data.draw(st.integers(1, 20))
    episode = whole(steps)
    segment = cut(episode, start, most)
    stop = start + len(segment)
    assert len(segment) == min(most, steps - start) and segment.start == start
    assert np.array_equal(segment.returns_to_go(), episode.returns_to_go()[start:stop])
    assert np.array_equal(segment.actions, episode.actions[start:stop])
    assert segment.terminated == (stop == steps) and len(segment.observations) == len(segment) + 1


def test_training_segments_cover_every_step(task):
    for seed, episode in task._recorded["train"].items():
        mine = [s.values["episode"] for s in task.examples("train") if s.cluster == str(seed)]
        steps = {t for segment in mine for t in range(segment.start, segment.start + len(segment))}
        assert steps == set(range(len(episode)))
        assert max(map(len, mine)) <= task.context


def test_the_data_mean_is_the_baseline_of_every_target(task):
    returns = [episode.rewards.sum() for episode in task._recorded["train"].values()]
    assert task.baselines() == {f"return@{t}": {"data mean": pytest.approx(np.mean(returns))} for t in TARGETS}


@pytest.mark.parametrize("wrong", [{"episodes": 0}, {"held_out": 0}, {"context": 1}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match="expected"):
        CartPole(**wrong)


# --- rollouts -----------------------------------------------------------------------------------------------


class Trajectories:
    """Tokens that can be read: each slot's value is what it means."""

    def encode(self, episode: Episode) -> Tokens:
        returns = episode.returns_to_go()
        parts = [
            tokens
            for i, action in enumerate(episode.actions)
            for tokens in (self.observe(returns[i], episode.observations[i], episode.start + i),
                           self.act(action, episode.start + i))
        ]  # fmt: skip
        return joined(parts)

    def observe(self, return_to_go, observation, timestep) -> Tokens:
        values = torch.tensor(np.array([return_to_go, *observation]))[None]
        return Tokens({"seen": Stream.whole(values)}, 1, torch.tensor([[timestep]]))

    def act(self, action, timestep) -> Tokens:
        return Tokens({"done": Stream.whole(torch.tensor([action]))}, 1, torch.tensor([[timestep]]))

    def action(self, values) -> int:
        return int(values[0])


def joined(parts: list[Tokens]) -> Tokens:
    streams, at = {}, 0
    for part in parts:
        for name, stream in part.streams.items():
            streams.setdefault(name, []).append(stream.shifted(at))
        at += part.length
    return Tokens(
        {name: Stream.joined(pieces) for name, pieces in streams.items()},
        at,
        torch.cat([part.positions for part in parts]),
    )


class Controller:
    """A model that reads the last state, stops balancing when the return wanted is reached, and remembers what
    it was shown."""

    def __init__(self) -> None:
        self.sessions: list[list[list[Tokens]]] = []

    def session(self, count: int) -> Controller:
        self.sessions.append([[] for _ in range(count)])
        return self

    def append(self, tokens) -> None:
        for history, new in zip(self.sessions[-1], tokens, strict=True):
            if new is not None:
                history.append(new)

    def sample(self, stream: str) -> torch.Tensor:
        assert stream == "done"
        return torch.tensor([self.choose(history[-1].streams["seen"].values[-1]) for history in self.sessions[-1]])

    def choose(self, seen: torch.Tensor) -> int:
        wanted, *observation = seen.tolist()
        return balanced(np.array(observation)) if wanted > 10 else 0


@pytest.fixture
def played():
    model = Controller()
    wishes = [(seed, target) for target in (30, 60, 600) for seed in (3, 4)]
    attempts = [Attempt(make_env(ENV), seed, target) for seed, target in wishes]
    return model, play(model, Trajectories(), "done", attempts, context=8), wishes


def test_rollouts_end_with_their_episode_and_follow_the_wanted_return(played):
    """The return still wanted falls with each reward, so a model that gives up near zero ends near its target."""
    _, episodes, wishes = played
    for episode, (_, target) in zip(episodes, wishes, strict=True):
        assert abs(episode.rewards.sum() - min(target, 500)) < 15
        assert episode.terminated != episode.truncated and episode.truncated == (target == 600)
        assert len(episode.observations) == len(episode.actions) + 1


def test_a_rollout_equals_the_same_actions_in_a_fresh_environment(played):
    """Side by side, sequences must not leak into each other."""
    _, episodes, wishes = played
    for episode, (seed, _) in zip(episodes, wishes, strict=True):
        env = make_env(ENV)
        observations = [env.reset(seed=seed)[0]] + [env.step(int(a))[0] for a in episode.actions]
        assert np.array_equal(episode.observations, np.array(observations))


def test_the_context_is_as_trained(played):
    """At most 8 steps, at least 4 once there were as many, contiguous, with the returns wanted at the time."""
    model, episodes, _ = played
    longest = 0
    for number, session in enumerate(model.sessions):
        for tokens in (joined(history) for history in session if history):
            steps = tokens.positions[:, 0].unique().tolist()
            longest = max(longest, len(steps))
            assert steps == list(range(steps[0], steps[0] + len(steps))) and len(steps) <= 8
            assert steps[0] == 4 * number
            assert tokens.streams["seen"].slots.tolist() == list(range(0, tokens.length, 2))
            wanted = tokens.streams["seen"].values[:, 0]
            assert torch.equal(wanted.diff(), -torch.ones(len(steps) - 1, dtype=wanted.dtype))
    assert longest == 8
    shown = joined(model.sessions[1][0]).streams["seen"].values[:, 1:]
    assert np.array_equal(shown.numpy(), episodes[0].observations[4:12].astype(np.float64))


def test_scores_are_returns_for_each_sample_and_target(task, monkeypatch):
    """The held-out seeds are the start states, and a few episodes are shown."""
    from anyformer_tasks.control import task as control

    def pretend(model, tokenizer, stream, attempts, context, step):
        assert stream == "rl.action" and context == task.context
        return [whole(int(attempt.target) // 10) for attempt in attempts]

    monkeypatch.setattr(control, "play", pretend)
    model = Controller()
    model.tokenizers = {"rl": Trajectories()}
    samples = task.examples("test")
    scores = list(task.score(model, samples))
    assert len(scores) == len(samples) * len(TARGETS)
    for target in TARGETS:
        mine = [score for score in scores if score.metric == f"return@{target}"]
        assert [(s.id, s.cluster) for s in mine] == [(s.id, s.cluster) for s in samples]
        assert {s.value for s in mine} == {target // 10} and 0 < sum(bool(s.shown) for s in mine) <= 3


def test_an_environment_that_is_missing_is_named_with_its_cure():
    with pytest.raises(PluginError, match="pip install"):
        make_env("no_such_package_here/Pole-v0")
    with pytest.raises(ConfigError, match="Did you mean 'CartPole-v1'"):
        make_env("CartPol-v1")


def test_a_context_of_one_step_is_refused():
    with pytest.raises(ConfigError, match="at least 2"):
        play(Controller(), Trajectories(), "done", [], context=1)
