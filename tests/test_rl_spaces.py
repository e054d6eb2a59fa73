"""The spaces of a trajectory: from gymnasium, from plain settings, and what is wrong with either."""

import json

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from anyformer.errors import ConfigError, PluginError
from anyformer_tasks.environments.attempts import make_env
from anyformer_tokenizers.rl import Episode, TrajectoryTokenizer


@pytest.mark.parametrize("env_id", ["CartPole-v1", "FrozenLake-v1", "Pendulum-v1", "MountainCarContinuous-v0"])
def test_an_environment_s_spaces_serve_its_episodes(env_id):
    """Box and Discrete, observed and acted, recorded from the environment itself; settings are plain JSON."""
    rl = TrajectoryTokenizer.for_env(env_id, name=env_id)
    env = gymnasium.make(env_id)
    env.action_space.seed(0)
    observations, actions, rewards = [env.reset(seed=0)[0]], [], []
    for _ in range(20):
        actions.append(env.action_space.sample())
        observation, reward, terminated, truncated, _ = env.step(actions[-1])
        observations.append(observation)
        rewards.append(reward)
        if terminated or truncated:
            break
    raw = Episode(np.array(observations), np.array(actions), np.array(rewards), terminated, truncated)
    rl.fit([raw])
    tokens = rl.encode(raw)
    assert sorted(tokens.streams) == sorted(f"{env_id}.{part}" for part in ("return", "state", "action"))
    assert env.action_space.contains(np.asarray(rl.action(tokens.streams[f"{env_id}.action"].values[0])))
    assert TrajectoryTokenizer(**json.loads(json.dumps(rl.config(), allow_nan=False))) == rl


def test_spaces_become_settings():
    """Discrete keeps its start; an action's infinite bound becomes null; observations have no bounds."""
    rl = TrajectoryTokenizer.from_spaces(
        spaces.Box(-1, 1, (2, 2)),
        spaces.Box(np.array([-np.inf, -0.1], np.float32), np.array([1, np.inf], np.float32)),
        return_scale=5.0,
    )
    assert rl.observation_space == {"type": "box", "shape": [2, 2]} and rl.return_scale == 5.0
    assert rl.action_space["low"][0] is None and rl.action_space["high"] == [1.0, None]
    beyond = Episode(np.full((1, 2, 2), 3.0), np.array([[-1e9, np.float32(-0.1)]]), np.ones(1))
    rl.fit([beyond])
    assert rl.encode(beyond).length == 3
    rl = TrajectoryTokenizer.from_spaces(spaces.Discrete(3, start=1), spaces.Discrete(2))
    assert rl.observation_space == {"type": "discrete", "n": 3, "start": 1}
    with pytest.raises(ConfigError, match="Tuple; expected Box or Discrete"):
        TrajectoryTokenizer.from_spaces(spaces.Tuple([spaces.Discrete(2)]), spaces.Discrete(2))


def test_an_environment_that_is_not_there_is_named():
    """A misspelt name gets the nearest one; a missing package is called missing."""
    with pytest.raises(ConfigError, match="Did you mean 'CartPole-v1'"):
        TrajectoryTokenizer.for_env("CartPol-v1")
    with pytest.raises(ConfigError, match="CartPole-v99"):
        TrajectoryTokenizer.for_env("CartPole-v99")
    with pytest.raises(ConfigError, match="no environment ''"):
        TrajectoryTokenizer.for_env("")
    with pytest.raises(PluginError, match=r"Nowhere/Maze-v0.*Install"):
        TrajectoryTokenizer.for_env("Nowhere/Maze-v0")


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"action_space": {"type": "discret", "n": 2}}, "Did you mean 'discrete'"),
        ({"action_space": {"n": 2}}, "space type"),
        ({"action_space": {"type": "discrete"}}, "discrete space cannot be made"),
        ({"action_space": {"type": "discrete", "n": 0}}, "n >= 1"),
        ({"action_space": {"type": "discrete", "n": 2.5}}, "n >= 1"),
        ({"action_space": {"type": "box", "size": 3}}, "box space cannot be made"),
        ({"action_space": {"type": "box", "shape": [2], "low": [0, 0, 0]}}, "low"),
        ({"action_space": {"type": "box", "shape": [1], "low": 1, "high": 0}}, "low <= high"),
        ({"action_space": {"type": "box", "shape": [1], "high": float("inf")}}, "null"),
        ({"action_space": {"type": "box", "shape": [1], "low": "zero"}}, "low=zero"),
        ({"observation_space": {"type": "box", "shape": [0]}}, "at least 1"),
        ({"observation_space": "box"}, "settings such as"),
        ({"return_scale": 0.0}, "return_scale"),
        ({"return_scale": float("nan")}, "return_scale"),
    ],
)
def test_wrong_settings_are_named(wrong, says):
    """At construction, not at the first episode."""
    with pytest.raises(ConfigError, match=says):
        TrajectoryTokenizer(**wrong)


def test_an_environments_name_imports_no_module(tmp_path, monkeypatch):
    """Gymnasium imports what stands before a colon, and the name may come with a checkpoint."""
    (tmp_path / "payload.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="names a module"):
        TrajectoryTokenizer.for_env("payload:CartPole-v1")
    with pytest.raises(ConfigError, match="names a module"):
        make_env("payload:CartPole-v1")
    assert not (tmp_path / "ran").exists()
