"""What a person sees while it trains, and training for a given time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, ProgressBar
from torch.utils.flop_counter import FlopCounterMode

from anyformer.batch import Batch
from anyformer.training.tally import Tally


class ProgressLines(ProgressBar):
    """One line every few seconds: step, tokens per second, each task's loss and share of the tokens.

    Lines rather than a bar, so that a terminal, a log file and a notebook show the same.
    """

    def __init__(self, every_seconds: float = 5.0) -> None:
        super().__init__()
        self.every_seconds = every_seconds
        self.enabled = True
        self.tally = Tally()

    def disable(self) -> None:
        self.enabled = False

    def enable(self) -> None:
        self.enabled = True

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.tally.clear()
        self._since = time.monotonic()
        every = list(pl_module.parameters())
        trained, held = (sum(p.numel() for p in every if p.requires_grad == learns) for learns in (True, False))
        frozen = f" ({held / 1e6:.2f} M frozen)" if held else ""
        self._say(f"training {trained / 1e6:.2f} M parameters{frozen} on {', '.join(pl_module.mixture.tasks)}")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.tally.add(batch, outputs["losses"])
        elapsed = time.monotonic() - self._since
        if elapsed >= self.every_seconds or batch_idx == 0:
            self._say(self._line(trainer, elapsed))
            self.tally.clear()
            self._since = time.monotonic()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.tally.tokens:
            self._say(self._line(trainer, time.monotonic() - self._since))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        losses = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
        if losses and not trainer.sanity_checking:
            self._say("validation  " + "  ".join(f"{k.removeprefix('val/')} {v:.3f}" for k, v in losses.items()))

    def _line(self, trainer: L.Trainer, elapsed: float) -> str:
        total = f"/{trainer.max_steps}" if trainer.max_steps > 0 else ""
        losses = "  ".join(
            f"{name} {value:.3f} ({self.tally.share(name):.0%})" for name, value in self.tally.means().items()
        )
        speed = self.tally.tokens / max(elapsed, 1e-9)
        return f"step {trainer.global_step}{total}  {speed:,.0f} tokens/s  {losses}"

    def _say(self, line: str) -> None:
        if self.enabled:
            print(line, file=sys.stderr, flush=True)


class Odometer(Callback):
    """How far training went: optimiser steps, tokens on both axes, and floating point operations.

    flops: of one batch, the last one, forward and backward, counted operation by operation (torch's own counter; it
    knows matrix products, convolutions and attention), times the tokens of all.
    """

    def __init__(self) -> None:
        self.steps, self.tokens, self.flops = 0, 0, 0.0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.steps, self._last = trainer.global_step, batch
        self.tokens += _tokens(batch)

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if self.tokens:
            with FlopCounterMode(display=False) as counter:
                pl_module.training_step(self._last, 0)["loss"].backward()
            pl_module.zero_grad()
            self.flops = counter.get_total_flops() / max(1, _tokens(self._last)) * self.tokens


def _tokens(batch: Batch) -> int:
    return batch.tokens + (0 if batch.source is None else batch.source.tokens)


class TimeBudget(Callback):
    """Train for so many minutes, whatever the machine's speed. clock: seconds of what; by default as they pass, or
    those that the processor spent (`time.process_time`).

    The schedule is stretched so that it ends when the time does: after each step its total is what the pace
    so far would reach. Two runs on unequal machines then differ in steps, not in the shape of their schedule.
    """

    def __init__(self, minutes: float, clock: Callable[[], float] | None = None) -> None:
        self.seconds, self.clock = minutes * 60, clock or (lambda: time.monotonic())

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start = self.clock()
        self._first = trainer.global_step

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        elapsed = trainer.strategy.broadcast(self.clock() - self._start)  # one clock for all ranks
        done = max(1, trainer.global_step - self._first)
        pl_module.rate.total_steps = self._first + max(done, round(done * self.seconds / max(elapsed, 1e-9)))
        if elapsed >= self.seconds:
            trainer.should_stop = True
