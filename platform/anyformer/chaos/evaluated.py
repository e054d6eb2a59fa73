"""An evaluation that is killed and started again, and one in another order."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from anyformer import checkpoint
from anyformer.chaos import tiny
from anyformer.chaos.tiny import Process, Run
from anyformer.chaos.trial import Outcome, chance
from anyformer.evaluation import evaluate
from anyformer.model import Model

TASKS = {"first": tiny.Made, "second": tiny.Pictures, "third": tiny.Sounds, "fourth": tiny.Made}
CLOSE = 1e-5  # relative, between orders of samples and tasks


def run(index: int, folder: Path) -> Outcome:
    """Killed while it scores a sample, it ends with the report of one that was not killed."""
    rng = chance("evaluation", index)
    entries = {name: {"type": f"chaos_{task.modality}", "size": 8} for name, task in TASKS.items()}
    at = rng.randrange(1, 8 * len(TASKS))
    notes = {"killed in": list(TASKS)[at // 8]}
    if (status := Process.forked(lambda: _train(folder)).wait()) != 0:
        return Outcome(f"The model was not made ({status}).", notes)
    statuses = [
        Process.forked(work).wait()
        for work in (
            lambda: _evaluate(folder, "straight", entries),
            lambda: _evaluate(folder, "parts", entries, at),
            lambda: _evaluate(folder, "parts", entries),
            lambda: _evaluate(folder, "order", dict(reversed(entries.items())), turned=True),
        )
    ]
    if statuses != [0, -signal.SIGKILL, 0, 0]:
        return Outcome(f"The evaluations ended with {statuses}.", notes)
    if _report(folder / "straight") != _report(folder / "parts"):
        return Outcome(f"Killed at sample {at}, its report is another one.", notes)
    if (folder / "straight" / "samples.jsonl").read_bytes() != (folder / "parts" / "samples.jsonl").read_bytes():
        return Outcome(f"Killed at sample {at}, its scores are others.", notes)
    scores, others = _scores(folder / "straight"), _scores(folder / "order")
    if scores.keys() != others.keys():
        return Outcome("In another order there are other samples.", notes)
    worst = max(abs(scores[key] - others[key]) / max(1e-6, abs(scores[key])) for key in scores)
    return Outcome("" if worst <= CLOSE else f"In another order scores differ by {worst:.1e}, relatively.", notes)


def _train(folder: Path) -> None:
    mixture = Run(str(folder), kind="mixed").mixture()
    mixture.setup()
    torch.manual_seed(0)
    model = Model(mixture.tokenizers, {"dim": 16, "heads": 2, "depth": 1}, mixture.heads())
    checkpoint.save(model, folder / "model")


def _evaluate(folder: Path, name: str, entries: Mapping[str, Any], die_at: int = 0, turned: bool = False) -> None:
    torch.set_num_threads(1)
    left = [die_at]

    def counted(self: tiny.Made, model: Any, samples: Any) -> Any:
        for score in plain(self, model, samples[::-1] if turned else samples):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            yield score

    plain = tiny.Made.score
    for task in tiny.KINDS["mixed"]:
        task.score = counted  # ty: ignore[invalid-assignment]
    evaluate(
        checkpoint.load(folder / "model"), {"tasks": entries}, folder / name,
        checkpoint=str(folder / "model"), commit="the same",
    )  # fmt: skip


def _report(folder: Path) -> Any:
    """Without what tells of time."""
    content = json.loads((folder / "report.json").read_text())
    return _timeless(content)


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            k: _timeless(v) for k, v in value.items() if k not in ("created", "seconds", "sha256", "samples_sha256")
        }
    return [_timeless(item) for item in value] if isinstance(value, list) else value


def _scores(folder: Path) -> dict[tuple[str, str], float]:
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    return {(line["task"], line["id"]): line["score"] for line in lines}
