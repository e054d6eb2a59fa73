"""A device whose memory holds batches of so many tokens, and one rank's among several."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import torch

from anyformer.chaos.several import LONG, START, ended_within, start
from anyformer.chaos.tiny import KINDS, Process, Run
from anyformer.chaos.trial import Outcome, chance
from anyformer.errors import MemoryLimitError

PLACES = ("forward", "backward")
ALONE = 30
SAID = re.compile(r"does not fit into .* Set token_budget=(\d+)")


class Small(L.Callback):
    """Runs out of memory for a batch of more than `most` tokens, from a step on."""

    def __init__(self, most: int, place: str, step: int = 0) -> None:
        self.most, self.place, self.step = most, place, step

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.tokens, learner = batch.tokens if trainer.global_step >= self.step else 0, pl_module
        if not hasattr(self, "plain"):
            self.plain = learner.losses
            learner.losses = self._losses

    def on_before_backward(self, trainer: L.Trainer, pl_module: Any, loss: torch.Tensor) -> None:
        if self.place == "backward" and self.tokens > self.most:
            loss.register_hook(_out_of_memory)

    def _losses(self, forward: Any) -> Any:
        if self.place == "forward" and self.tokens > self.most and forward.hidden.requires_grad:
            _out_of_memory()
        return self.plain(forward)


def _out_of_memory(*rest: Any) -> Any:
    raise torch.OutOfMemoryError("Tried to allocate more than there is.")


def run(index: int, folder: Path) -> Outcome:
    """The first `ALONE` trials have one process, the others two."""
    return _alone(index, folder) if index < ALONE else _one_of_two(index, folder)


def _alone(index: int, folder: Path) -> Outcome:
    """The run says what would fit, and with that it trains."""
    rng = chance("memory", index)
    kind, place, most = list(KINDS)[index % len(KINDS)], PLACES[index % 2], rng.randrange(60, 90)
    notes = {"within": place}
    run = Run(str(folder), kind=kind, steps=4)
    for tried in range(1, 7):
        status = Process.forked(lambda run=run: _one(run, most, place)).wait()
        if status == 0:
            return Outcome(notes=notes | {"runs": str(tried)})
        said = (folder / "said.txt").read_text() if status == 7 else ""
        found = SAID.search(said)
        if found is None or not 0 < int(found[1]) < run.budget:
            return Outcome(f"With a budget of {run.budget} it ended with {status} and said: {said}", notes)
        run = replace(run, budget=int(found[1]))
    return Outcome(f"It never fitted; the last budget was {run.budget}.", notes)


def _one_of_two(index: int, folder: Path) -> Outcome:
    """One rank runs out: both end within seconds, both say what would fit, and with that both train."""
    rng = chance("memory", index)
    place, victim, step = PLACES[index % 2], index // 2 % 2, rng.randrange(4)
    kind, most = ("text", "image", "rl")[index % 3], rng.randrange(30, 70)
    notes = {"within": place, "ranks": "2, of which one runs out"}
    for name in ("first", "second"):
        (folder / name).mkdir()
    runs = [Run(str(folder / "first"), kind=kind, steps=LONG, record=f"rank{rank}.jsonl") for rank in (0, 1)]
    small = [Small(most, place, step)]
    processes = start(runs, lambda rank: small if rank == victim else [])
    seconds, statuses = ended_within(processes, START), [process.status for process in processes]
    said = [(folder / "first" / f"rank{rank}.txt").read_text() for rank in (0, 1)]
    found = [SAID.search(" ".join(text.split())) for text in said]
    if seconds is None or 0 in statuses or not all(found):
        return Outcome(f"They ended with {statuses} and said: {' | '.join(text[-300:] for text in said)}", notes)
    budget = int(found[victim][1])  # ty: ignore[not-subscriptable]
    rest = [replace(run, folder=str(folder / "second"), budget=budget, steps=2) for run in runs]
    statuses = [process.wait() for process in start(rest)]
    return Outcome("" if statuses == [0, 0] else f"With a budget of {budget} they ended with {statuses}.", notes)


def _one(run: Run, most: int, place: str) -> None:
    try:
        run.fit([Small(most, place)])
    except MemoryLimitError as error:
        (Path(run.folder) / "said.txt").write_text(str(error))
        raise SystemExit(7) from error
