"""Runs of two ranks: one dies, freezes or is told to end; and the same run with one rank."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L

from anyformer.chaos.tiny import Process, Run
from anyformer.chaos.trial import Outcome, chance
from anyformer.training.ranks import SignsOfLife, _is_gone

LONG = 2000  # steps, so that a run is still going when something happens to it
START = 600.0  # seconds for ranks to find each other, or workers to begin, on a busy machine
FAULTS = {"killed": signal.SIGKILL, "frozen": signal.SIGSTOP, "told to end": signal.SIGTERM}
LIMITS = {"killed": 10.0, "frozen": 60.0, "told to end": 20.0}  # seconds until no process is left


def run(index: int, folder: Path) -> Outcome:
    """Nobody waits for the other for ever, and the one that is missing is named."""
    rng = chance("ranks", index)
    fault, victim = list(FAULTS)[index % len(FAULTS)], index // 3 % 2
    notes = {"a rank is": fault, "rank": str(victim)}
    runs = [Run(str(folder), steps=LONG, record=f"rank{rank}.jsonl", kind="text") for rank in (0, 1)]
    processes = start(runs)
    lines, until = rng.randrange(3, 15), time.monotonic() + START
    while len(runs[victim].records()) < lines:
        if any(process.ended() for process in processes) or time.monotonic() > until:
            return Outcome(f"The ranks did not begin: {[process.status for process in processes]}.", notes)
        time.sleep(0.02)
    os.kill(processes[victim].pid, FAULTS[fault])
    seconds = ended_within(processes, LIMITS[fault])
    if seconds is None:
        said = " | ".join((folder / f"rank{rank}.txt").read_text()[-200:] for rank in (0, 1))
        return Outcome(
            f"After {LIMITS[fault]:.0f} s there are still processes: {[p.status for p in processes]}; they said {said}",
            notes,
        )
    notes["ended within"] = f"{5 * (1 + int(seconds // 5))} s"
    statuses = [process.status for process in processes]
    if fault == "told to end":
        told = runs[0].step()
        reached = min(1 + max(line[0] for line in run.records() if line[1] == 0) for run in runs)
        if statuses != [143, 143] or told != reached:
            return Outcome(f"They ended with {statuses}, with step {told} saved and {reached} made.", notes)
        return Outcome(notes=notes)
    said = (folder / f"rank{1 - victim}.txt").read_text()
    if statuses[victim] != -signal.SIGKILL or statuses[1 - victim] == 0 or f"rank {victim} " not in said:
        return Outcome(f"They ended with {statuses}; the other one said: {said[-300:]}", notes)
    return Outcome("" if _is_gone(processes[victim].pid) else "The lost rank is still there.", notes)


class Stop(L.Callback):
    """A regular end after so many steps, so that the schedule stays that of the whole run."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        trainer.should_stop = trainer.global_step >= self.step


def start(runs: Sequence[Run], more: Callable[[int], Sequence[L.Callback]] = lambda rank: ()) -> list[Process]:
    """A process for each rank's run, with callbacks of its own."""

    def fit(rank: int) -> None:
        runs[rank].fit([SignsOfLife(), *more(rank)], strategy="ddp", devices=2, num_sanity_val_steps=0)

    return both(fit, Path(runs[0].folder))


def both(work: Callable[[int], Any], folder: Path) -> list[Process]:
    """Two ranks' processes; what they say is in `rank0.txt` and `rank1.txt`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [Process.forked(lambda rank=rank: _rank(work, rank, port, folder)) for rank in (0, 1)]


def _rank(work: Callable[[int], Any], rank: int, port: int, folder: Path) -> None:
    with open(folder / f"rank{rank}.txt", "wb") as file:
        os.dup2(file.fileno(), 2)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    work(rank)


def ended_within(processes: Sequence[Process], seconds: float) -> float | None:
    """After how many seconds none was left; None if one is there still."""
    began = time.monotonic()
    while not all(process.ended() for process in processes):
        if time.monotonic() - began > seconds:
            return None
        time.sleep(0.05)
    return time.monotonic() - began


def as_one(index: int, folder: Path) -> Outcome:
    """Two ranks, stopped, go on as one that accumulates two batches: the same samples, and losses to 1e-5."""
    kind = ("text", "image", "rl")[index % 3]
    notes = {"of": kind}
    (folder / "two").mkdir()
    (folder / "one").mkdir()
    two = [Run(str(folder / "two"), steps=9, record=f"rank{rank}.jsonl", kind=kind, dropout=0.0) for rank in (0, 1)]
    one = Run(str(folder / "one"), steps=9, accumulation=2, kind=kind, dropout=0.0)
    statuses = [process.wait() for process in start(two, lambda rank: [Stop(5)])] + [one.start().wait()]
    rest = replace(one, folder=str(folder / "two"), resume=True)
    if any(statuses) or rest.start().wait():
        return Outcome(f"The runs ended with {statuses}.", notes)
    expected = [line for line in one.records() if line[1] != "validation"]
    ranks = [[line for line in run.records() if line[1] != "validation"] for run in two]
    together = [line for pair in zip(*ranks, strict=True) for line in pair]
    after = [line for line in rest.records() if line[1] != "validation"]
    found = together + after
    if [line[3] for line in expected] != [line[3] for line in found]:
        return Outcome("The samples are others, or come in another order.", notes)
    worst = max(
        (_apart(a, b) for a, b in zip(_steps(expected, 2), _steps(together, 1) + _steps(after, 2), strict=True)),
        default=0.0,
    )
    notes["losses differ by"] = f"at most 1e{len(f'{1 / max(worst, 1e-9):.0f}') * -1 + 1}"
    return Outcome("" if worst <= 1e-5 else f"The losses differ by {worst:.1e}.", notes)


def _steps(lines: Sequence[list[Any]], accumulation: int) -> list[float]:
    """The loss of each step: of its two micro-batches, by whose number Lightning has divided it, or its two ranks."""
    losses = [float.fromhex(line[2]) * accumulation for line in lines]
    return [sum(pair) for pair in zip(losses[::2], losses[1::2], strict=True)]


def _apart(one: float, other: float) -> float:
    return abs(one - other) / max(1.0, abs(one))


def lost_worker(index: int, folder: Path) -> Outcome:
    """A data worker that is killed or frozen is named with its samples, and the run ends."""
    fault = ("killed", "frozen")[index % 2]
    notes = {"a worker is": fault}
    # one epoch, because the next one has other workers
    run = Run(str(folder), steps=LONG, epoch=LONG, workers=2, patience=60.0 if fault == "killed" else 20.0)
    process = Process.forked(lambda: _with_output(run))
    until = time.monotonic() + START
    while len(run.records()) < 3 + index % 5:
        if process.ended() or time.monotonic() > until:
            return Outcome(f"The run did not begin: {(folder / 'output.txt').read_text()[-300:]}", notes)
        time.sleep(0.02)
    workers = _workers_of(process.pid)
    if not workers:
        return Outcome("No worker was found.", notes)
    began = time.monotonic()
    os.kill(workers[index // 2 % len(workers)], FAULTS[fault])
    while not process.ended() and time.monotonic() - began < 40:
        time.sleep(0.05)
    said, seconds = (folder / "output.txt").read_text(), time.monotonic() - began
    if not process.ended() or "Data worker" not in said or "chaos_text 'train-" not in said:
        return Outcome(f"After {seconds:.0f} s: status {process.status}; it said: {said[-300:]}", notes)
    notes["ended within"] = f"{5 * (1 + int(seconds // 5))} s"
    time.sleep(1)
    left = [pid for pid in workers if not _is_gone(pid)]
    return Outcome(f"{len(left)} workers are left." if left else "", notes)


def _with_output(run: Run) -> None:
    with open(Path(run.folder) / "output.txt", "wb") as file:
        os.dup2(file.fileno(), 2)
    run.fit(limit_val_batches=0, num_sanity_val_steps=0)  # whose workers come and go


def _workers_of(pid: int) -> list[int]:
    """The processes whose parent's parent is `pid`: what its fork server has forked."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    return sorted(one for one, parent in parents.items() if parents.get(parent) == pid)
