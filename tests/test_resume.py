"""A run that stops and goes on, however it stopped, ends with the very weights of one that never did."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import runs
import torch

import anyformer as af
from anyformer.errors import CheckpointError, ConfigError, NonFiniteError

pytestmark = pytest.mark.usefixtures("toys")

STEPS = 9
SHAPES = [
    pytest.param({}, {}, id="endless"),
    pytest.param({"epoch_steps": 4}, {}, id="epochs"),
    pytest.param({}, {"accumulate_grad_batches": 2}, id="accumulated"),
    pytest.param({"epoch_steps": 4}, {"accumulate_grad_batches": 2}, id="epochs-accumulated"),
]


def step_of(checkpoint: Path) -> int:
    return json.loads((checkpoint / "manifest.json").read_text())["step"]


def assert_equal(first: af.Learner, second: af.Learner) -> None:
    for (name, one), (_, other) in zip(first.state_dict().items(), second.state_dict().items(), strict=True):
        assert torch.equal(one, other), f"{name} differs by {(one - other).abs().max():.2e}"


@pytest.mark.parametrize(("data", "more"), SHAPES)
@pytest.mark.parametrize("stop", [4, 5])
def test_stopped_and_resumed_equals_straight(tmp_path, data, more, stop):
    """Dropout, order, schedule and optimiser go on as if nothing had happened, at an epoch's end (4) and inside one."""
    straight = runs.fit(tmp_path / "straight", STEPS, data=data, **more)
    first = runs.fit(tmp_path / "parts", STEPS, [runs.stop_at(stop)], data=data, **more)
    assert step_of(tmp_path / "parts" / "last") == stop
    with pytest.raises(AssertionError):
        assert_equal(straight, first)
    second = runs.fit(tmp_path / "parts", STEPS, resume=True, data=data, **more)
    assert_equal(straight, second)


def test_max_steps_may_be_raised(tmp_path):
    """The schedule is the resumed run's own, so a finished run can be continued."""
    runs.fit(tmp_path, 4)
    longer = runs.fit(tmp_path, 6, resume=True)
    assert longer.trainer.global_step == 6
    assert longer.rate.total_steps == 6


@pytest.mark.parametrize(("data", "more"), SHAPES[2:])
def test_killed_and_resumed_equals_straight(tmp_path, data, more):
    """kill -9 within step 6: the checkpoint of step 3 is whole, and the run goes on from it to the same weights."""
    process = runs.start(runs.signalled, str(tmp_path / "parts"), STEPS, 5, signal.SIGKILL, data, more)
    assert runs.end(process) == -signal.SIGKILL
    assert step_of(tmp_path / "parts" / "last") == 3
    resumed = runs.fit(tmp_path / "parts", STEPS, resume=True, data=data, **more)
    assert_equal(runs.fit(tmp_path / "straight", STEPS, data=data, **more), resumed)


@pytest.mark.parametrize(("data", "more"), SHAPES[::3])
def test_terminated_writes_its_step_and_resumes(tmp_path, data, more):
    """SIGTERM in the middle of step 5: that step is finished and written, status 143, exact resume."""
    process = runs.start(runs.signalled, str(tmp_path / "parts"), STEPS, 4, signal.SIGTERM, data, more)
    assert runs.end(process) == 128 + signal.SIGTERM
    assert step_of(tmp_path / "parts" / "last") == 5
    resumed = runs.fit(tmp_path / "parts", STEPS, resume=True, data=data, **more)
    assert_equal(runs.fit(tmp_path / "straight", STEPS, data=data, **more), resumed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
def test_other_signals_finish_the_step_too(tmp_path, number):
    """Ctrl-C and a scheduler's warning: the step is finished and written, the status is 128 + the signal."""
    with pytest.raises(SystemExit) as end:
        runs.fit(tmp_path, STEPS, [runs.Within(4, lambda trainer: os.kill(os.getpid(), number))])
    assert end.value.code == 128 + number
    assert step_of(tmp_path / "last") == 5


def test_ctrl_c_twice_does_not_wait(tmp_path):
    """A step that hangs can still be left; the last good checkpoint stays."""

    def press(trainer):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises((SystemExit, KeyboardInterrupt)):
        runs.fit(tmp_path, STEPS, [runs.Within(4, press)])
    assert step_of(tmp_path / "last") == 3
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning leaves it ignored


def test_a_crash_between_the_renames_loses_nothing(tmp_path):
    """Only `.previous-last` is left: `ckpt_path="last"` goes on from it rather than from nothing."""
    straight = runs.fit(tmp_path / "straight", STEPS)
    runs.fit(tmp_path / "parts", STEPS, [runs.stop_at(5)])
    shutil.rmtree(tmp_path / "parts" / ".previous-last")
    (tmp_path / "parts" / "last").rename(tmp_path / "parts" / ".previous-last")
    assert_equal(straight, runs.fit(tmp_path / "parts", STEPS, resume=True))
    assert step_of(tmp_path / "parts" / "last") == STEPS


def test_a_damaged_checkpoint_is_said_and_the_one_before_it_used(tmp_path):
    """Two are kept; a warning names both, for a model that is loaded as for a run that goes on; then both are sound."""
    straight = runs.fit(tmp_path / "straight", STEPS)
    runs.fit(tmp_path / "parts", STEPS, [runs.stop_at(5)])
    with open(tmp_path / "parts" / "last" / "model.safetensors", "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x7f")
    assert step_of(tmp_path / "parts" / ".previous-last") == 3
    said = r"parts/last: model.safetensors is damaged.*parts/.previous-last \(step 3\) is used instead"
    with pytest.warns(UserWarning, match=said):
        af.load(tmp_path / "parts")
    with pytest.warns(UserWarning, match=said):
        resumed = runs.fit(tmp_path / "parts", STEPS, resume=True)
    assert_equal(straight, resumed)
    assert af.checkpoint.sound(tmp_path / "parts" / ".previous-last")


def test_other_tokenizers_are_refused(tmp_path):
    """A run goes on only with the tokenizers it began with, and the error says what changed."""
    runs.fit(tmp_path, 4)
    changed = {"tokenizers": {"letters": {"lower": True}, "dots": {}, "colour": {}}}
    with pytest.raises(CheckpointError, match=r"'letters' differs .* lower was False and is True"):
        runs.fit(tmp_path, 6, resume=True, data=changed)


def test_tokenizers_fitted_on_other_data_are_refused(tmp_path):
    runs.fit(tmp_path, 4)
    few = {"tasks": {"words": {"size": 1}, "quadrants": {}}}
    with pytest.raises(CheckpointError, match=r"'letters' differs .* fitted on other data"):
        runs.fit(tmp_path, 6, resume=True, data=few)


def test_a_failed_run_keeps_its_checkpoint_and_gives_signals_back(tmp_path):
    """An error writes nothing over the last good checkpoint, and Ctrl-C means Ctrl-C again."""
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}

    def spoil(trainer):
        assert signal.getsignal(signal.SIGINT) != before[signal.SIGINT]
        next(trainer.lightning_module.parameters()).data.fill_(float("nan"))

    with pytest.raises(NonFiniteError):
        runs.fit(tmp_path, STEPS, [runs.At(5, spoil)])
    assert step_of(tmp_path / "last") == 3
    assert all(bool(p.isfinite().all()) for p in af.load(tmp_path).parameters())
    assert {n: signal.getsignal(n) for n in before} == before


def test_checkpoints_need_their_plugin(tmp_path):
    """Without it Lightning would write a pickle in the checkpoint's place."""
    with pytest.raises(ConfigError, match="CheckpointDirectory"):
        runs.fit(tmp_path, 2, plugins=[])


def test_bare_weights_are_refused_with_a_cure(tmp_path):
    """What Lightning's spawning launchers would have written as a pickle."""
    with pytest.raises(CheckpointError, match="strategy='ddp'"):
        af.CheckpointDirectory().save_checkpoint({"weight": torch.zeros(1)}, tmp_path / "x")
