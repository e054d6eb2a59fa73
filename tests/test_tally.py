"""What a run tells of its tokens counts both axes: what an encoder reads is read."""

from __future__ import annotations

import pytest
import runs
import torch

import anyformer as af
from anyformer.batch import Example, pack
from anyformer.tokens import Tokens
from anyformer.training.tally import Tally


def example(task: str, length: int, source: int | None = None) -> Example:
    tokens = Tokens.of("text", torch.zeros(length, dtype=torch.int64))
    return Example(tokens, {}, source=None if source is None else example("", source), task=task)


def test_tokens_of_the_source_are_their_tasks():
    tally = Tally()
    tally.add(pack([example("told", 2, source=6), example("said", 4)], pad_to=10), {})
    assert tally.tokens == 16 and tally.task_tokens == {"told": 8, "said": 4}
    assert tally.share("told") == 2 * tally.share("said") == 0.5


@pytest.mark.usefixtures("toys")
def test_what_goes_before_the_first_step_slows_no_task_down(tmp_path):
    """Reading and recording take minutes, in which nothing is trained."""
    run, learner = runs.trainer(tmp_path, 2, log_every_n_steps=2), runs.learner()
    learner.tally.since -= 10_000
    run.fit(learner, datamodule=runs.mixture())
    assert all(float(run.callback_metrics[f"train/{name}/tokens_per_second"]) > 1 for name in ("words", "quadrants"))


@pytest.mark.usefixtures("toys")
def test_what_is_frozen_is_told_apart(tmp_path, capsys):
    run = runs.trainer(tmp_path, 1, [af.ProgressLines()], enable_progress_bar=True)
    run.fit(runs.learner(freeze=["backbone"]), datamodule=runs.mixture())
    assert "M frozen) on words, quadrants" in capsys.readouterr().err
