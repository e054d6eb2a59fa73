"""A training run with everything that makes one safe, and the same run with nothing of it."""

from __future__ import annotations

import time
from contextlib import nullcontext
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import lightning as L
import torch
from torch.utils.data import DataLoader

import anyformer as af
from anyformer.bench import Settings
from anyformer.contracts import Metric, Sample, Task
from anyformer.training.finite import RollBack, Stop
from anyformer.training.memory import Room
from anyformer.training.preparation import Windows
from anyformer.training.workers import Loader

FIRST = 0x4E00  # of a block of Unicode that has more characters than a vocabulary takes


class Letters(Task):
    """Documents of one length, of so many characters."""

    fields: ClassVar = {"text": "text"}
    modality = "text"
    metrics = (Metric("none", True),)

    def __init__(self, vocab: int, time: int) -> None:
        self.vocab, self.time = vocab, time

    def default_objective(self):
        return af.NextToken()

    def examples(self, split):
        rows = torch.randint(self.vocab, (64, self.time), generator=torch.Generator().manual_seed(1)).tolist()
        return [Sample(str(i), {"text": "".join(chr(FIRST + n) for n in row)}) for i, row in enumerate(rows)]

    def corpus(self, field):
        return ["".join(chr(FIRST + n) for n in range(self.vocab))]

    def score(self, model, samples):
        return iter(())


class Clock(L.Callback):
    """CPU milliseconds a step, from the end of the first one to that of the last."""

    def on_train_batch_end(self, trainer, module, outputs, batch, index) -> None:
        if index == 0:
            self.start = time.process_time()
        self.spent = (time.process_time() - self.start) / max(1, index) * 1e3


def watched(s: Settings) -> float:
    """Non-finite numbers are looked for, and what to go back to is kept; `last` is at hand, signals are waited for,
    a step that does not fit is told, and so is a worker that dies."""
    learner = af.Learner(_backbone(s), not_finite={"type": "roll_back", "every": 10**9})
    assert isinstance(learner.finite, RollBack)
    mixture = _mixture(s, af.Mixture)
    return _fitted(s, learner, mixture, [af.Checkpoints(every_n_train_steps=10**9)], Loader)


def bare(s: Settings) -> float:
    learner = af.Learner(_backbone(s))
    learner.finite, learner.room = Unchecked(), Roomy()
    return _fitted(s, learner, _mixture(s, Unwatched), [], DataLoader)


class Unchecked(Stop):
    def sound(self, batch, loss, losses):
        return dict(losses)

    def agrees(self, learner, optimizer, norm, window) -> bool:
        return True


class Roomy(Room):
    def needed(self, batch) -> Any:
        return nullcontext()

    def fitted(self, batch) -> None:
        pass


class Unwatched(af.Mixture):
    def _loader(self, preparation, sampler, ahead=None):
        context = "forkserver" if self.workers else None
        return DataLoader(
            Windows(preparation), None, num_workers=self.workers, multiprocessing_context=context, sampler=sampler
        )


def _backbone(s: Settings) -> dict[str, Any]:
    return {"dim": s.dim, "depth": s.depth, "heads": s.heads}


def _mixture(s: Settings, kind: type[af.Mixture]) -> af.Mixture:
    torch.manual_seed(0)
    if "bench_letters" not in af.list_tasks():
        af.register_task("bench_letters")(Letters)
    return kind(
        tokenizers={"text": {"type": "characters", "ends": False}},
        tasks={"bench_letters": {"vocab": s.vocab, "time": s.time}},
        token_budget=s.batch * s.time,
        workers=s.workers,
    )


def _fitted(s: Settings, learner: af.Learner, mixture: af.Mixture, callbacks: list, loader: type) -> float:
    with TemporaryDirectory() as folder:
        trainer = L.Trainer(
            accelerator="cpu", max_steps=s.steps, logger=False, enable_progress_bar=False, enable_model_summary=False,
            callbacks=[Clock(), *callbacks], enable_checkpointing=bool(callbacks), plugins=[af.CheckpointDirectory()],
            gradient_clip_val=1.0, limit_val_batches=0, default_root_dir=folder,
        )  # fmt: skip
        trainer.fit(learner, datamodule=mixture)
        assert type(trainer.train_dataloader) is loader
        return trainer.callbacks[0].spent
