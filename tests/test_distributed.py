"""Two ranks train as one process would, whatever each of them sees of the mixture."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path

import pytest
import runs
import torch

pytestmark = pytest.mark.usefixtures("toys")

STEPS = 6


def mixed(words: float) -> dict:
    """Batches of one sample each, `words` times as many words as quadrants."""
    tasks = {"words": {"weight": words, "shortest": 30, "longest": 30}, "quadrants": {"dots": 31}}
    return {"token_budget": 32, "tasks": tasks}


def two_ranks(folder: Path, data: dict, send: dict[int, dict[int, int]]) -> list[int | None]:
    """Both ranks' exit statuses."""
    folder.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [runs.start(runs.rank, r, port, str(folder), STEPS, data, send.get(r, {})) for r in (0, 1)]
    return [runs.end(process) for process in processes]


def one_process(folder: Path, data: dict) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    learned = runs.learner(backbone={"dim": 16, "heads": 2, "depth": 1})
    run = runs.trainer(
        folder, STEPS, accumulate_grad_batches=2, limit_val_batches=1.0, val_check_interval=2 * STEPS,
        check_val_every_n_epoch=None, num_sanity_val_steps=0,
    )  # fmt: skip
    run.fit(learned, datamodule=runs.mixture(**data))
    losses = {name: float(value) for name, value in run.callback_metrics.items() if name.startswith("val/")}
    return learned.state_dict(), losses


@pytest.mark.parametrize("words", [1, 3], ids=["disjoint modalities", "steps without one modality"])
def test_two_ranks_equal_one_process(tmp_path, words):
    """With equal weights one rank has text alone and the other dots alone at every step: no rank waits for ever.

    Weights are equal on both ranks, and equal to one process that accumulates two batches: the same global order,
    the same counts. Held-out losses are those of the whole split, on both ranks.
    """
    assert two_ranks(tmp_path / "two", mixed(words), {}) == [0, 0]
    ranks = [torch.load(tmp_path / "two" / f"rank{r}.pt", weights_only=True) for r in (0, 1)]
    weights, losses = one_process(tmp_path / "one", mixed(words))
    for name, tensor in weights.items():
        assert torch.equal(ranks[0]["weights"][name], ranks[1]["weights"][name]), name
        assert torch.allclose(ranks[0]["weights"][name], tensor, rtol=0, atol=1e-5), name
    assert set(losses) == {"val/words", "val/quadrants"}
    for rank in ranks:
        assert rank["losses"] == pytest.approx(losses, rel=1e-4)


def test_a_signal_to_one_rank_stops_both_at_one_step(tmp_path):
    """A rank that went on alone would wait for the other for ever."""
    assert two_ranks(tmp_path, mixed(1), {1: {4: signal.SIGTERM}}) == [143, 143]
    assert json.loads((tmp_path / "last" / "manifest.json").read_text())["step"] in (4, 5)
