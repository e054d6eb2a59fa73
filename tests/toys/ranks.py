"""Two ranks beside one process that accumulates two batches: what each of them trains on, and its losses by step."""

from __future__ import annotations

import socket
from collections import defaultdict
from pathlib import Path
from typing import Any

import runs
import torch

TASKS = {"words": {"shortest": 30, "longest": 30}, "quadrants": {"dots": 31}}
DATA = {"token_budget": 32, "tasks": TASKS}  # a sample a batch: each rank sees one modality


def two_ranks(folder: Path, strategy: str, resume: bool, **more: Any) -> list[dict]:
    """What each of them measured. more: settings, see `runs.measured`."""
    processes = [
        runs.start(runs.apart, r, port, str(folder), strategy, resume, DATA, more) for port in [free()] for r in (0, 1)
    ]
    assert [runs.end(process) for process in processes] == [0, 0]
    return [torch.load(folder / f"rank{r}.pt", weights_only=True) for r in (0, 1)]


def free() -> int:
    """A port."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def one_process(folder: Path, resume: bool, **more: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {"accumulate_grad_batches": 2, **more}
    return runs.measured(folder, 6, resume, DATA, **settings)


def steps(batches: list[list[dict]]) -> list[dict[str, float]]:
    """Mean loss of each task over all that belongs to a step."""
    found = []
    for batch in batches:
        sums, counts = defaultdict(float), defaultdict(float)
        for losses in batch:
            for task, (total, count) in losses.items():
                sums[task] += total
                counts[task] += count
        found.append({task: sums[task] / counts[task] for task in sums})
    return found


def by_ranks(ranks: list[dict]) -> list[dict[str, float]]:
    return steps([list(each) for each in zip(*(rank["losses"] for rank in ranks), strict=True)])


def by_one(seen: dict) -> list[dict[str, float]]:
    return steps([seen["losses"][at : at + 2] for at in range(0, len(seen["losses"]), 2)])
