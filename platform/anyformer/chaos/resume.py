"""A run that is killed and goes on, against one that never was."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L

from anyformer.chaos.tiny import KINDS, STEPS, Process, Run
from anyformer.chaos.trial import Outcome, chance

MOMENTS = ("training", "validation", "inside a save", "epoch's edge", "any time")
COLD = 10  # every so-manieth trial starts its processes from nothing


class Death(L.Callback):
    """kill -9 at a moment of the run, or with any other signal."""

    def __init__(self, moment: str, rng: random.Random, number: int = signal.SIGKILL) -> None:
        self.moment, self.number = moment, number
        self.step, self.left = rng.randrange(STEPS), rng.randrange(1, 12)
        self.batch = rng.randrange(2)

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
        if self.moment == "training" and trainer.global_step == self.step:
            self.die()

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self.moment == "validation" and not trainer.sanity_checking and batch_idx == self.batch:
            if trainer.global_step >= 4 * (1 + self.step % 3):
                self.die()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if self.moment == "epoch's edge" and trainer.current_epoch >= self.step % 2:
            self.die()

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Saves sync files and folders; the run dies in one of these calls, or behind a rename."""
        if self.moment != "inside a save":
            return
        skipped = self.step % 4 * 9
        self.left += skipped
        for owner, name in ((os, "fsync"), (Path, "rename")):
            setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, call: Any) -> Any:
        def counted(*arguments: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                self.die()
            return call(*arguments)

        return counted

    def die(self) -> None:
        self.moment = "over"
        os.kill(os.getpid(), self.number)


def run(index: int, folder: Path) -> Outcome:
    """Killed at one moment, resumed, compared with the run that was not killed."""
    rng = chance("resume", index)
    kind, accumulation = list(KINDS)[index % len(KINDS)], (1, 4)[index // 5 % 2]
    cold = index % COLD == (index // COLD - 1) % COLD  # of each kind and accumulation in turn
    moment = "any time" if cold else MOMENTS[index // 10 % len(MOMENTS)]
    notes = {"start": "cold" if cold else "warm", "of": kind, "moment": moment, "accumulation": str(accumulation)}
    straight, parts = pair(folder, kind=kind, accumulation=accumulation)
    if (status := straight.start().wait()) != 0:
        return Outcome(f"The run that nobody killed ended with {status}.", notes)
    victim = parts.start(cold, lambda: [Death(moment, rng)])
    if moment == "any time":
        _kill_some_time(victim, parts, rng)
    if (status := victim.wait()) not in (-signal.SIGKILL, 0):
        return Outcome(f"The run that was to be killed ended with {status}.", notes)
    notes["killed"] = "no, it had ended" if status == 0 else "yes"
    return Outcome(goes_on(straight, parts, cold), notes)


def pair(folder: Path, **settings: Any) -> tuple[Run, Run]:
    """Two runs of the same settings in folders of their own."""
    folders = [folder / name for name in ("straight", "parts")]
    for one in folders:
        one.mkdir()
    first, second = (Run(str(one), **settings) for one in folders)
    return first, second


def goes_on(straight: Run, parts: Run, cold: bool = False, **changed: Any) -> str:
    """What differs when `parts` is resumed; empty if nothing does."""
    saved = parts.step()
    rest = replace(parts, resume=True, record="resumed.jsonl", **changed)
    if (status := rest.start(cold).wait()) != 0:
        return f"The resumed run ended with {status}; its checkpoint was of step {saved}."
    return differs(straight.records(), parts.records(), rest.records(), saved) or (
        "" if straight.weights() == rest.weights() else f"The final weights differ; resumed from step {saved}."
    )


def differs(golden: Sequence[list], before: Sequence[list], after: Sequence[list], saved: int) -> str:
    """Of each step's loss, samples and held-out losses. The resumed run begins at the step that was saved."""
    expected = [line for line in golden if _place(line) >= (saved, 0)]
    for line in before:
        if line not in golden:
            return f"Before it was killed, step {line[0]} gave {line[2]}, which is not the uninterrupted run's."
    if saved == STEPS:  # training was over
        return ""
    if [_place(line) for line in after if line[1] == "validation" and line[0] == saved]:
        expected = [line for line in golden if _place(line) >= (saved, -1)]
    elif due(golden, saved) and not due(before, saved):
        return f"The validation at step {saved} was never made."
    for one, other in zip(expected, after, strict=False):
        if one != other:
            return f"Resumed from step {saved}: expected {one}, got {other}."
    if len(expected) != len(after):
        return f"Resumed from step {saved}: expected {len(expected)} lines, got {len(after)}."
    return ""


def due(lines: Sequence[list], step: int) -> bool:
    """Whether a validation was made at this step."""
    return any(line[0] == step and line[1] == "validation" for line in lines)


def _place(line: list) -> tuple[int, int]:
    return line[0], -1 if line[1] == "validation" else line[1]


def _kill_some_time(victim: Process, of: Run, rng: random.Random) -> None:
    """From before the first step to behind the last one, in the middle of whatever is done then."""
    lines, pause = rng.randrange(0, 20), rng.uniform(0, 0.05)
    while not victim.ended() and len(of.records()) < lines:
        time.sleep(0.005)
    time.sleep(pause)
    if not victim.ended():
        os.kill(victim.pid, signal.SIGKILL)


def workers(index: int, folder: Path) -> Outcome:
    """Resumed with another number of data workers."""
    rng = chance("workers", index)
    first, then = ((2, 0), (0, 2))[index % 2]
    kind = list(KINDS)[index % len(KINDS)]
    notes = {"workers": f"{first}, then {then}", "of": kind}
    straight, parts = pair(folder, kind=kind, workers=0)
    if (status := straight.start().wait()) != 0:
        return Outcome(f"The run that nobody killed ended with {status}.", notes)
    victim = replace(parts, workers=first).start(callbacks=lambda: [Death("training", rng)])
    if (status := victim.wait()) != -signal.SIGKILL:
        return Outcome(f"The run that was to be killed ended with {status}.", notes)
    return Outcome(goes_on(straight, parts, workers=then), notes)
