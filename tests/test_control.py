"""Control in any environment: recording, episodes in files, cloning, frames, and scores that mean what they say."""

from __future__ import annotations

import json

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import anyformer as af
from anyformer.cli import main
from anyformer.contracts import SPLITS
from anyformer.episode import Episode
from anyformer.errors import ConfigError, SampleError
from anyformer.testing import check_task, check_tokenizer
from anyformer_tasks.control import Control, Recording, cloning, episodes
from anyformer_tasks.control.cloning import Clone
from anyformer_tasks.control.experts import EXPERTS
from anyformer_tasks.control.policies import Policy, record
from anyformer_tasks.control.task import best
from anyformer_tasks.environments.attempts import Attempt, make_env
from anyformer_tokenizers.rl import TrajectoryTokenizer


class Lights(gymnasium.Env):
    """The action that names the quarter of the picture which is lit earns 1; eight steps."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    observation_space = spaces.Box(0, 255, (16, 16, 1), np.uint8)
    action_space = spaces.Discrete(4)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._next(), {}

    def step(self, action):
        self.steps += 1
        return self._next(), float(action == self.lit), False, self.steps == 8, {}

    def render(self):
        return np.repeat(self._picture(), 3, axis=2)

    def _next(self):
        self.seen_lit, self.lit = getattr(self, "lit", 0), int(self.np_random.integers(4))
        return self._picture()

    def _picture(self):
        picture = np.zeros((16, 16, 1), np.uint8)
        row, column = divmod(self.lit, 2)
        picture[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 255
        return picture


gymnasium.register("Lights-v0", entry_point=Lights)


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    """Clones that are not judged need not be good."""
    monkeypatch.setattr(cloning, "STEPS", 20)


@pytest.fixture(scope="module")
def mixed() -> list[Episode]:
    policies = [Policy.of(text) for text in ("random", "noisy:0.1x5", "expert")]
    return record("Pendulum-v1", policies, range(6))


def same(one: Episode, other: Episode) -> bool:
    steps = len(one)
    return (
        np.allclose(one.observations[:steps], other.observations[:steps])
        and np.array_equal(np.asarray(one.actions), np.asarray(other.actions))
        and np.allclose(one.rewards, other.rewards, atol=1e-5)
        and (one.terminated, one.truncated) == (other.terminated, other.truncated)
    )


# --- policies -----------------------------------------------------------------------------------------------


def test_recordings_are_a_function_of_their_seeds(mixed):
    """The same episode alone as among others, whoever else takes turns."""
    again = record("Pendulum-v1", [Policy.of("noisy:0.1x5")], [1, 4])
    assert same(mixed[1], again[0]) and same(mixed[4], again[1]) and not same(mixed[1], mixed[4])


@pytest.mark.parametrize("env_id", sorted({*EXPERTS} - {"CartPole-v0"}))
def test_an_expert_is_better_than_noise_and_noise_than_chance(env_id):
    means = [
        np.mean([e.rewards.sum() for e in record(env_id, [Policy.of(text)], range(4))])
        for text in ("expert", "noisy:0.2x5", "random")
    ]
    assert means[0] > means[2] and means[0] >= means[1] >= means[2]


@pytest.mark.parametrize("text", ["noisy:1.5", "noisy:0.1x0", "random:0.5", "noisy:1.1.1"])
def test_a_policy_that_makes_no_sense_is_refused(text):
    with pytest.raises(ConfigError, match="expected"):
        Policy.of(text)


def test_an_environment_without_an_expert_says_what_there_is():
    with pytest.raises(ConfigError, match=r"CartPole-v1.*checkpoint"):
        record("Lights-v0", [Policy.of("noisy")], [0])


# --- files --------------------------------------------------------------------------------------------------


def test_episodes_come_back_from_a_flat_file(mixed, tmp_path):
    episodes.write(tmp_path, mixed)
    found = episodes.read(str(tmp_path))
    assert len(found) == len(mixed) and all(map(same, mixed, found))


def test_hdf5_as_in_d4rl_is_the_same(mixed, tmp_path):
    h5py = pytest.importorskip("h5py")
    episodes.write(tmp_path, mixed)
    with np.load(tmp_path / "episodes.npz") as flat, h5py.File(tmp_path / "some.hdf5", "w") as file:
        for name in flat:
            file[name] = flat[name]
        file["infos/goal"] = np.zeros(3)
    found = episodes.read("some.hdf5", str(tmp_path))
    assert len(found) == len(mixed) and all(map(same, mixed, found))


def test_a_minari_data_set_is_written_and_read_by_name(mixed, tmp_path, monkeypatch):
    """Minari itself reads what was written, and so do we, by name and by path."""
    minari = pytest.importorskip("minari")
    pytest.importorskip("h5py")
    path = episodes.write_minari(tmp_path, "pole/mixed-v0", "Pendulum-v1", mixed, range(6), ["random"])
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    theirs = minari.load_dataset("pole/mixed-v0")
    assert theirs.total_episodes == len(mixed) and theirs.total_steps == sum(map(len, mixed))
    for where in ("pole/mixed-v0", str(path)):
        found = episodes.read(where)
        assert len(found) == len(mixed) and all(map(same, mixed, found))
        assert [len(e.observations) for e in found] == [len(e) + 1 for e in mixed]


def test_starts_of_episodes_are_ends_of_those_before(tmp_path):
    """As stable-baselines wrote its experts: no flags but where an episode starts."""
    starts = np.array([True, False, False, True, False])
    np.savez(tmp_path / "e.npz", obs=np.arange(5.0)[:, None], actions=np.zeros((5, 1)), rewards=np.ones(5),
             episode_starts=starts)  # fmt: skip
    assert [len(e) for e in episodes.read(str(tmp_path / "e.npz"))] == [3, 2]


@pytest.mark.parametrize("broken", ["no rewards", "uneven", "no ends", "no zip", "missing"])
def test_a_broken_file_is_one_typed_error(broken, tmp_path):
    path = tmp_path / "e.npz"
    arrays = {
        "observations": np.zeros((4, 2)),
        "actions": np.zeros(4),
        "rewards": np.ones(4),
        "terminals": np.eye(4)[3],
    }
    if broken == "no rewards":
        del arrays["rewards"]
    elif broken == "uneven":
        arrays["terminals"] = np.ones(3)
    elif broken == "no ends":
        del arrays["terminals"]
    if broken == "no zip":
        path.write_bytes(b"not a file")
    elif broken != "missing":
        np.savez(path, **arrays)
    with pytest.raises(ConfigError, match="expected"):
        episodes.read(str(path))


# --- the task -----------------------------------------------------------------------------------------------


def test_the_contract_in_an_environment_of_boxes():
    task = Control("Pendulum-v1", ["random", "noisy:0.1x5"], episodes=6, held_out=2, targets=[-900, -200])
    rl = TrajectoryTokenizer(env="Pendulum-v1", return_scale=500, standard_actions=True)
    rl.fit(task.corpus("episode"))
    check_task(task, {"rl": rl}, samples=1)
    assert [metric.name for metric in task.metrics] == ["return@-900", "return@-200", "normalised"]


def test_files_take_the_place_of_recordings(tmp_path, mixed):
    """A tenth of a file's episodes is held out for each split; start states are as many as were asked for."""
    many = mixed * 4
    episodes.write(tmp_path / "own", many)
    task = Control("Pendulum-v1", sources=["own"], held_out=5, data_dir=str(tmp_path))
    assert [len(task._gathered[split]) for split in SPLITS] == [20, 5, 5]
    starts = [{s.cluster for s in task.examples(split)} for split in SPLITS]
    assert starts[1].isdisjoint(starts[2]) and all(int(seed) >= 0 for seed in starts[1] | starts[2])
    assert task._targets == (pytest.approx(max(float(e.rewards.sum()) for e in many), abs=1e-3),)


def test_only_the_best_are_cloned_and_the_data_stay_what_they_were():
    task = Control("Pendulum-v1", ["random", "expert"], episodes=10, held_out=1, best=0.2)
    kept = {s.cluster for s in task.examples("train")}
    returns = {key: e.rewards.sum() for key, e in task._gathered["train"].items()}
    assert kept == set(sorted(returns, key=returns.get)[-2:])
    assert len(best(list(task._gathered["train"].values()), 0.01)) == 1


def test_scores_are_success_and_normalised_at_the_highest_target():
    task = Control("CartPole-v1", ["random"], targets=[20, 500], references=[20, 500])
    assert task._measured(500.0, 500) == {"return@500": 500.0, "success": 1.0, "normalised": 1.0}
    assert task._measured(20.0, 500) == {"return@500": 20.0, "success": 0.0, "normalised": 0.0}
    assert task._measured(33.0, 20) == {"return@20": 33.0}


def test_any_environment_has_a_normalised_score():
    """Without an expert the best that was recorded counts as 1; nothing does where it is no better than chance."""
    told = Control("Lights-v0", ["random"], episodes=20, held_out=1, targets=[8])
    chance, most = told._references
    assert 1 < chance < 3 < most and [metric.name for metric in told.metrics] == ["return@8", "normalised"]
    assert told._measured(most, 8)["normalised"] == 1 and told._measured(chance, 8)["normalised"] == 0
    told._best_recorded, told.elite = chance, 0.5
    del told._references
    assert [metric.name for metric in told.metrics] == ["return@8"]
    assert set(told.baselines()["return@8"]) == {"data mean", "cloning", "top 50 % cloning"}


@pytest.mark.parametrize(
    "wrong", [{"best": 0.0}, {"elite": 1.5}, {"context": 1}, {"references": [1.0]}, {"policies": []}]
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match="expected"):
        Control("CartPole-v1", **{"policies": ["random"], **wrong})


def test_a_clone_of_an_expert_does_what_it_does(monkeypatch):
    monkeypatch.setattr(cloning, "STEPS", 300)
    env = make_env("CartPole-v1")
    clone = Clone.of(record("CartPole-v1", [Policy.of("noisy:0.05x3")], range(30)), env)
    played = clone.play([Attempt(make_env("CartPole-v1"), seed) for seed in (100, 101)])
    assert min(e.rewards.sum() for e in played) > 100


# --- tokens -------------------------------------------------------------------------------------------------


def test_without_returns_nothing_tells_a_good_episode_from_a_bad_one():
    rl = TrajectoryTokenizer(returns=False)
    raw = rl.example(np.random.default_rng(0))
    rl.fit([raw])
    check_tokenizer(rl, [rl.example(np.random.default_rng(seed)) for seed in range(3)])
    poor = Episode(raw.observations, raw.actions, raw.rewards * 0)
    tokens, others = rl.encode(raw), rl.encode(poor)
    assert sorted(tokens.streams) == ["rl.action", "rl.state"] and tokens.length == 2 * len(raw) == rl.length(raw)
    assert tokens.streams["rl.state"].slots.tolist() == list(range(0, tokens.length, 2))
    assert all(torch.equal(stream.values, others.streams[name].values) for name, stream in tokens.streams.items())
    assert rl.observe(7.0, raw.observations[0], 0).length == 1


def test_standard_actions_are_standard_and_come_back_within_their_bounds(mixed):
    rl = TrajectoryTokenizer(env="Pendulum-v1", standard_actions=True)
    assert not rl.fitted
    rl.fit(mixed)
    values = torch.cat([rl.encode(e).streams["rl.action"].values for e in mixed])
    assert abs(values.mean()) < 1e-3 and abs(values.std() - 1) < 1e-3
    assert rl.action(values[:1]) == pytest.approx(mixed[0].actions[0], abs=1e-5)
    assert rl.action(torch.tensor([99.0])) == pytest.approx(np.array([2.0]))
    twin = TrajectoryTokenizer(**json.loads(json.dumps(rl.config())))
    twin.restore(rl.state())
    assert twin.fingerprint() == rl.fingerprint()


def test_frames_are_patches_inside_the_trajectory():
    """Six slots a step: the return, four patches, the action; bytes come back exactly."""
    rl = TrajectoryTokenizer(observation_space={"type": "frames", "shape": [16, 16, 1], "patch": 8},
                             action_space={"type": "discrete", "n": 4})  # fmt: skip
    examples = [rl.example(np.random.default_rng(seed)) for seed in range(3)]
    check_tokenizer(rl, examples)
    tokens, steps = rl.encode(examples[0]), len(examples[0])
    assert rl.fitted and tokens.length == 6 * steps
    assert tokens.streams["rl.state"].slots.tolist() == [s for s in range(6 * steps) if s % 6 in (1, 2, 3, 4)]
    assert tokens.positions[:, 0].tolist() == [s // 6 for s in range(6 * steps)]
    assert np.array_equal(rl.decode(tokens).observations, examples[0].observations[:steps])
    assert TrajectoryTokenizer(env="Lights-v0").observation_space == {
        "type": "frames",
        "shape": [16, 16, 1],
        "patch": 16,
    }
    with pytest.raises(SampleError, match="uint8"):
        rl.observe(1.0, np.zeros((16, 16, 1)), 0)
    with pytest.raises(ConfigError, match="multiples of the patch"):
        TrajectoryTokenizer(observation_space={"type": "frames", "shape": [16, 10, 1], "patch": 8})


def test_an_embedder_of_frames_sees_each_patch_by_itself():
    from anyformer_tokenizers.rl.frames import PatchedFrames

    torch.manual_seed(0)
    embed = PatchedFrames((4, 6, 3), 2, dim=5)
    frames = torch.rand(2, 4 * 6 * 3)
    before = embed(frames, torch.tensor([[2, 12]])).view(2, 6, 5)
    changed = frames.view(2, 4, 6, 3).clone()
    changed[1, 2, 5, 0] += 1  # the last patch of the second frame
    moved = (embed(changed.flatten(1), torch.tensor([[2, 12]])).view(2, 6, 5) - before).abs().amax(-1) > 1e-6
    assert moved.nonzero().tolist() == [[1, 5]]


# --- from one end to the other ------------------------------------------------------------------------------


def test_a_model_learns_from_frames_is_filmed_and_recorded(tmp_path, capsys):
    """Record at random, learn to play from what is seen, be shown as a moving picture, act as a policy."""
    with pytest.raises(SystemExit) as end:
        main(["record", "--env", "Lights-v0", "--episodes", "60", "--out", str(tmp_path / "own")])
    assert not end.value.code and "mean return" in capsys.readouterr().out
    from anyformer.training import Checkpoints
    from anyformer.training.experiment import Experiment

    space = {"type": "frames", "shape": [16, 16, 1], "patch": 8}
    task = {"type": "control", "env": "Lights-v0", "sources": ["own"], "targets": [2, 8], "context": 8,
            "held_out": 4, "film": True, "success": 6, "references": [2, 8], "data_dir": str(tmp_path)}  # fmt: skip
    model = {"backbone": {"dim": 32, "depth": 1, "heads": 2}, "lr": 3e-3}
    data = {"tokenizers": {"rl": {"observation_space": space, "action_space": {"type": "discrete", "n": 4},
                                  "return_scale": 8}}, "tasks": {"lights": task}, "token_budget": 800}  # fmt: skip
    experiment = Experiment(model, data, {"max_steps": 5, "accelerator": "cpu", "enable_progress_bar": False})
    experiment.train(experiment.mixture(), tmp_path, [Checkpoints(every_n_train_steps=10**9)])
    report = af.evaluate(af.load(tmp_path / "last"), {"tasks": {"lights": task}})
    found = {result.metric: result for result in report.results}
    assert set(found) == {"return@2", "return@8", "success", "normalised"}
    assert all(result.value is not None for result in found.values()), [r.error for r in report.results]
    assert set(found["return@8"].baselines) == {"data mean", "cloning", "top 10 % cloning"}
    films = [part.content for one in report.exhibits for part in one.parts if part.mime == "image/gif"]
    assert films and all(film.startswith(b"GIF89a") for film in films)
    rows = Recording("Lights-v0", [f"{tmp_path / 'last'}:0.5", "random"], episodes=4, context=8).run(None, None)
    assert [row["episodes"] for row in rows] == [2, 2, 4]
