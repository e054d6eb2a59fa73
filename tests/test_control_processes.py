"""Environments in other processes: what is reached there is reached here, bit by bit, and nobody is left behind."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys

import envs
import numpy as np
import pytest
import torch

import anyformer as af
from anyformer.errors import ConfigError, ProcessError
from anyformer_tasks.cartpole import CartPole
from anyformer_tasks.control import Control, cloning
from anyformer_tasks.environments.attempts import Here, Wish
from anyformer_tasks.environments.processes import Processes
from anyformer_tokenizers.rl import TrajectoryTokenizer

TINY = {"dim": 16, "depth": 1, "heads": 2}


def task(env: str, processes: int, **more) -> Control:
    return Control(
        env, ["random"], episodes=4, held_out=5, targets=[0.5, 1], context=6, processes=processes, success=1,
        references=[0, 1], **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def model() -> af.Model:
    """Untrained: its actions follow from what it sees, which is all that is needed."""
    rl = TrajectoryTokenizer(env="Restless-v0")
    rl.fit(task("Restless-v0", 0).corpus("episode"))
    torch.manual_seed(0)
    return af.Model({"rl": rl}, TINY, ["rl.action"]).eval()


@pytest.fixture
def children():
    """The processes that this test has started and that live; none may at its end."""
    others = {one.pid for one in multiprocessing.active_children()}
    mine = lambda: [one for one in multiprocessing.active_children() if one.pid not in others]  # noqa: E731
    yield mine
    assert not mine()


def told(scores) -> list[tuple]:
    return [(s.id, s.metric, s.value, s.cluster, sorted(s.shown)) for s in scores]


def test_scores_and_baselines_are_the_same_in_any_number_of_processes(model, monkeypatch, children):
    """Bit by bit, in an environment that lets no difference pass; filmed episodes too."""
    monkeypatch.setattr(cloning, "STEPS", 5)
    here, far = (task("Restless-v0", processes, film=True) for processes in (0, 2))
    samples = here.examples("test")
    mine, theirs = (list(one.score(model, samples)) for one in (here, far))
    assert told(mine) == told(theirs) and len({s.value for s in mine if s.metric == "return@1"}) == 5
    films = [[s.shown["episode"].film for s in scores if "episode" in s.shown] for scores in (mine, theirs)]
    assert films[0] == films[1] and len(films[0]) == 6
    assert here.baselines() == far.baselines()


def test_attempts_in_processes_are_those_in_this_one(children):
    """More processes than wishes too; attempts that are over are left alone."""
    wishes = [Wish(3), Wish(4, filmed=True), Wish(5)]
    actions = np.random.default_rng(0).uniform(-1, 1, (8, 3, 1)).astype(np.float32)
    with Here("Restless-v0", wishes) as here, Processes("Restless-v0", wishes, 5) as far:
        assert len(children()) == 3
        for number, row in enumerate(actions):
            for stage in (here, far):
                stage.step({a: action for i, (a, action) in enumerate(zip(stage.attempts, row, strict=True))
                            if number < 4 or i != 1})  # fmt: skip
    for one, other in zip(here.attempts, far.attempts, strict=True):
        mine, theirs = one.episode(), other.episode()
        assert np.array_equal(mine.observations, theirs.observations) and np.array_equal(mine.rewards, theirs.rewards)
        assert mine.truncated == theirs.truncated and len(mine) == len(theirs)
        assert np.array_equal(one.frames, other.frames)
    assert [len(one.frames) for one in far.attempts] == [0, 5, 0] and [a.going for a in far.attempts] == [0, 1, 0]


def test_a_process_that_dies_is_named_and_takes_the_others_with_it(children):
    with pytest.raises(ProcessError, match=r"Process 1 of 2 that step Mortal-v0 .*exit code 7.*states 13\b"):
        with Processes("Mortal-v0", [Wish(1), Wish(envs.FATAL), Wish(2)], 2) as stage:
            for _ in range(3):
                stage.step({attempt: np.zeros(1, np.float32) for attempt in stage.attempts})


def test_what_an_environment_raises_is_raised_here(children):
    with pytest.raises(KeyError, match="what an environment raises"), Processes("Faulty-v0", [Wish(0)], 1) as stage:
        stage.step({stage.attempts[0]: np.zeros(1, np.float32)})


def test_a_process_of_environments_imports_no_torch():
    """It starts in a moment and is small."""
    code = "import sys; import anyformer_tasks.environments.processes; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_less_than_no_process_is_refused():
    with pytest.raises(ConfigError, match="processes=-1"):
        task("Restless-v0", -1)


def test_metrics_of_the_pole_are_those_of_its_targets():
    """A row for every return that is asked for, and no other."""
    pole = CartPole(episodes=5, held_out=2, targets=[30, 90.5])
    assert [metric.name for metric in pole.metrics] == ["return@30", "return@90.5"] == list(pole.baselines())
