"""Checkpoint directories for Lightning: where they are written, when, and what a signal does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import CheckpointIO

from anyformer import checkpoint as directory
from anyformer.errors import CheckpointError, ConfigError
from anyformer.training.signals import Signals

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

    SIGTERM, SIGUSR1 and SIGINT only set a flag; at the next step's end, or between two batches of a validation, the
    checkpoint is written and the process exits with 128 + the signal's number. `fit --ckpt_path last` goes on from it.
    Every setting of Lightning's ModelCheckpoint works too, for instance `monitor="val/digits", save_top_k=3`.
    """

    FILE_EXTENSION = ""

    def __init__(self, dirpath: str | None = None, every_n_train_steps: int = 500, save_top_k: int = 0, **more) -> None:
        self._signals = Signals()
        self._validated = False  # since the last batch
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
        if stage == "fit":  # others may read beside a run that is writing
            if trainer.is_global_zero:
                directory.sweep(self.dirpath or ".")
            self._signals.listen(trainer)
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
        self._signals.trains = True

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._validated = False

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self._stop_if_told(trainer)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if trainer.world_size == 1:  # ranks may have different numbers of batches, so they could not agree here
            self._stop_if_told(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._validated = True
        super().on_validation_end(trainer, pl_module)
        self._stop_if_told(trainer)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if not self._validated and _validation_is_due(trainer):
            _begin_with_validation(checkpoint["loops"]["fit_loop"])
        checkpoint["batches_per_step"] = trainer.accumulate_grad_batches

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """With another number of ranks a step has another number of batches on each; the steps are the same."""
        before, now = checkpoint.get("batches_per_step"), trainer.accumulate_grad_batches
        if before not in (None, now):
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
            for counts in (progress["total"], progress["current"]):
                behind = counts["completed"] < counts["processed"]
                counts |= {name: -(-count // before) * now for name, count in counts.items()}
                counts["completed"] = counts["processed"] - behind  # saved at a batch's end, it was not yet counted

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._save_now(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._signals.give_back()
        super().on_exception(trainer, pl_module, exception)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().teardown(trainer, pl_module, stage)
        self._signals.give_back()

    def _stop_if_told(self, trainer: L.Trainer) -> None:
        """Save and exit once any rank has received a signal: all of them must stop at the same step."""
        if not self._signals.trains or not _at_step_end(trainer):
            return
        told = self._signals.received is not None
        if trainer.world_size > 1:
            told = trainer.strategy.reduce_boolean_decision(told, all=False)
        if told:
            self._save_now(trainer)
            raise SystemExit(self._signals.status)

    def _save_now(self, trainer: L.Trainer) -> None:
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))


def _innermost(io: CheckpointIO) -> CheckpointIO:
    """The plugin that writes, behind any that wrap it (Lightning's AsyncCheckpointIO)."""
    while (inner := getattr(io, "checkpoint_io", None)) is not None:
        io = inner
    return io


def _at_step_end(trainer: L.Trainer) -> bool:
    """Not between two micro-batches of one step, whose gradients no checkpoint holds."""
    return trainer.fit_loop.epoch_loop.batch_progress.current.ready % trainer.accumulate_grad_batches == 0


def _validation_is_due(trainer: L.Trainer) -> bool:
    """Whether validation comes before the next batch."""
    fetcher = trainer.fit_loop._data_fetcher
    return fetcher is not None and not trainer.should_stop and trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)


def _begin_with_validation(loop: dict[str, Any]) -> None:
    """Let a run that goes on validate first, and on everything: as if it had been interrupted behind the last training
    batch, before the first held-out batch had passed. Lightning would leave out what was due."""
    for counts in (loop["epoch_loop.batch_progress"]["total"], loop["epoch_loop.batch_progress"]["current"]):
        counts["completed"] = counts["processed"]
    progress = loop["epoch_loop.val_loop.batch_progress"]
    progress["current"] |= {"ready": 1, "started": 1, "processed": 0, "completed": 0}
    done = progress["total"]["completed"]
    progress["total"] |= {"ready": done + 1, "started": done + 1, "processed": done}
    progress["is_last_batch"] = False


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
