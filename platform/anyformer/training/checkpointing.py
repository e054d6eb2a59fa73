"""Checkpoint directories for Lightning: where they are written, when, and what a signal does."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import CheckpointIO

from anyformer import checkpoint as directory
from anyformer.errors import CheckpointError, ConfigError

PREFIX = "_model."  # the learner's attribute: a checkpoint names weights as the model does
BESIDE = "beside"  # in the trainer's state: weights that are no part of the model, such as a generator's


class CheckpointDirectory(CheckpointIO):
    """Lightning's checkpoints as anyformer directories: `Trainer(plugins=[CheckpointDirectory()])`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        if "state_dict" not in checkpoint:
            raise CheckpointError(
                "Strategies that spawn or fork their ranks hand bare weights back when training has ended; the run's "
                "checkpoints are written, but no model can return to this process. Use strategy='ddp' in a script."
            )
        state = dict(checkpoint)
        learned = state.pop("state_dict")
        weights = {name.removeprefix(PREFIX): tensor for name, tensor in learned.items() if name.startswith(PREFIX)}
        state[BESIDE] = {name: tensor for name, tensor in learned.items() if not name.startswith(PREFIX)}
        own = state.pop("anyformer", None)
        if own is None:
            raise CheckpointError(f"{path}: only an anyformer Learner can be written as a checkpoint directory.")
        _continue_last_epoch(state)
        directory.write(path, weights, own["config"], own["files"], state, step=state.get("global_step", 0))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        path = directory.sound(path)
        state, weights = directory.trainer_of(path)
        beside = state.pop(BESIDE, {})
        state["state_dict"] = {**beside, **{PREFIX + name: tensor for name, tensor in weights.items()}}
        state["anyformer"] = {"path": str(path)}
        return state

    def remove_checkpoint(self, path: str | Path) -> None:
        directory.remove(path)


class Checkpoints(ModelCheckpoint):
    """Keeps `<default_root_dir>/last` up to date: every so many steps, when training ends, and on a signal.

    SIGTERM, SIGUSR1 and SIGINT only set a flag; at the next step's end the checkpoint is written and the process
    exits with 128 + the signal's number. `fit --ckpt_path last` goes on from it. Every setting of Lightning's
    ModelCheckpoint works too, for instance `monitor="val/digits", save_top_k=3`.
    """

    FILE_EXTENSION = ""

    def __init__(self, dirpath: str | None = None, every_n_train_steps: int = 500, save_top_k: int = 0, **more) -> None:
        self._received: int | None = None
        self._handlers: dict[int, Any] = {}
        super().__init__(
            dirpath, every_n_train_steps=every_n_train_steps, save_last=True, save_top_k=save_top_k,
            enable_version_counter=False, **more,
        )  # fmt: skip

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if not isinstance(_innermost(trainer.strategy.checkpoint_io), CheckpointDirectory):
            raise ConfigError("Checkpoints are directories; give the trainer plugins=[CheckpointDirectory()] as well.")
        if sum(isinstance(callback, Checkpoints) for callback in trainer.checkpoint_callbacks) > 1:
            raise ConfigError("The trainer has two Checkpoints callbacks; expected one, since both would own `last`.")
        self._settle(trainer)
        if trainer.is_global_zero:
            directory.sweep(self.dirpath or ".")
        super().setup(trainer, pl_module, stage)

    def _find_last_checkpoints(self, trainer: L.Trainer) -> set[str]:
        self._settle(trainer)  # `ckpt_path="last"` is looked up before `setup`
        try:
            return {str(directory.resolve(Path(self.dirpath or ".") / self.CHECKPOINT_NAME_LAST))}
        except CheckpointError:
            return super()._find_last_checkpoints(trainer)

    def _settle(self, trainer: L.Trainer) -> None:
        if self.dirpath is None:
            self.dirpath = str(Path(trainer.default_root_dir or ".").absolute())

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._received = None
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
                self._handlers[number] = signal.signal(number, self._note)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0 and self._told_to_stop(trainer):
            self._save_now(trainer)
            raise SystemExit(128 + (self._received or signal.SIGTERM))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._save_now(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._give_back()
        super().on_exception(trainer, pl_module, exception)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().teardown(trainer, pl_module, stage)
        self._give_back()

    def _give_back(self) -> None:
        """Signals mean again what they meant before training."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._received == number:
            raise KeyboardInterrupt  # asked twice: do not wait for the step's end
        self._received = number

    def _told_to_stop(self, trainer: L.Trainer) -> bool:
        """Whether any rank has received a signal: all of them must stop at the same step."""
        here = self._received is not None
        return here if trainer.world_size == 1 else trainer.strategy.reduce_boolean_decision(here, all=False)

    def _save_now(self, trainer: L.Trainer) -> None:
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))


def _innermost(io: CheckpointIO) -> CheckpointIO:
    """The plugin that writes, behind any that wrap it (Lightning's AsyncCheckpointIO)."""
    while (inner := getattr(io, "checkpoint_io", None)) is not None:
        io = inner
    return io


def _continue_last_epoch(state: dict[str, Any]) -> None:
    """Let a run that has ended go on like one that was interrupted behind its last batch.

    Once the last epoch is counted as complete, Lightning begins another one with the old one's batch number, and
    takes that one's first batch for its last: the update would come before its window is full.
    """
    loop = state["loops"]["fit_loop"]
    epochs, batches = loop["epoch_progress"], loop["epoch_loop.batch_progress"]
    if not epochs["current"]["completed"] == epochs["current"]["ready"] > 0:
        return
    for counts in (epochs["total"], epochs["current"]):
        counts["completed"] = counts["processed"] = counts["ready"] - 1
    for counts in (batches["total"], batches["current"]):
        counts["completed"] = counts["ready"] - 1
