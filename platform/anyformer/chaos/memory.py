"""A device whose memory holds batches of so many tokens."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import torch

from anyformer.chaos.tiny import KINDS, Process, Run
from anyformer.chaos.trial import Outcome, chance
from anyformer.errors import MemoryLimitError

PLACES = ("forward", "backward")


class Small(L.Callback):
    """Runs out of memory for a batch of more than `most` tokens."""

    def __init__(self, most: int, place: str) -> None:
        self.most, self.place = most, place

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.tokens, learner = batch.tokens, pl_module
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
        found = re.search(r"does not fit into .* Set token_budget=(\d+)", said)
        if found is None or not 0 < int(found[1]) < run.budget:
            return Outcome(f"With a budget of {run.budget} it ended with {status} and said: {said}", notes)
        run = replace(run, budget=int(found[1]))
    return Outcome(f"It never fitted; the last budget was {run.budget}.", notes)


def _one(run: Run, most: int, place: str) -> None:
    try:
        run.fit([Small(most, place)])
    except MemoryLimitError as error:
        (Path(run.folder) / "said.txt").write_text(str(error))
        raise SystemExit(7) from error
