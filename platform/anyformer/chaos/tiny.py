"""Runs of a second: every modality, augmentation, dropout, validation, epochs; each step's loss on record."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import numpy as np
import torch

from anyformer import registry
from anyformer.contracts import Metric, Objective, Sample, Score, Split, Task, prepare
from anyformer.episode import Episode
from anyformer.objectives import NextToken, Prefix, ReturnConditioned
from anyformer.training import CheckpointDirectory, Checkpoints, Learner, Mixture

STEPS, EVERY, EPOCH = 13, 3, 5  # optimiser steps: in all, between checkpoints, in an epoch
RATE = 8000
WORDS = ("seven quick foxes", "over", "the lazy dog", "jumps", "brown")
TOKENIZERS: dict[str, dict[str, Any]] = {
    "characters": {},
    "image": {"channels": 1, "patch": 4},
    "audio": {"sample_rate": RATE, "mels": 8, "window": 128, "hop": 64, "low": 100, "high": 3000},
    "rl": {},
}


@dataclass
class Made(Task):
    """Samples that follow from their number."""

    size: int = 24

    fields: ClassVar[Mapping[str, str]] = {"text": "characters"}
    modality: ClassVar[str] = "text"
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("likelihood", higher_is_better=True),)

    def default_objective(self) -> Objective:
        return NextToken()

    def examples(self, split: Split) -> Sequence[Sample]:
        return [
            Sample(f"{split}-{i}", self.values(np.random.default_rng([len(split), i]), i)) for i in range(self.size)
        ]

    def values(self, rng: np.random.Generator, number: int) -> dict[str, Any]:
        return {"text": WORDS[number % 5]}

    def varied(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return replace(sample, values={**sample.values, "text": "".join(rng.permutation(list(sample.values["text"])))})

    def score(self, model: Any, samples: Sequence[Sample]) -> Iterator[Score]:
        """The mean likelihood of what is predicted."""
        prompts = [prepare("", self, model.tokenizers, sample, np.random.default_rng(0)) for sample in samples]
        for sample, (nats, count) in zip(samples, model.log_likelihoods(prompts), strict=True):
            yield Score(sample.id, "likelihood", float(np.exp(nats / count)))


@dataclass
class Pictures(Made):
    fields: ClassVar[Mapping[str, str]] = {"image": "image", "answer": "characters"}
    modality: ClassVar[str] = "image"

    def default_objective(self) -> Objective:
        return Prefix(target="answer")

    def values(self, rng: np.random.Generator, number: int) -> dict[str, Any]:
        return {"image": rng.integers(0, 255, (8, 8), dtype=np.uint8), "answer": WORDS[number % 5]}

    def varied(self, sample: Sample, rng: np.random.Generator) -> Sample:
        picture = np.roll(sample.values["image"], rng.integers(8), axis=1)
        return replace(sample, values={**sample.values, "image": picture})


@dataclass
class Sounds(Made):
    fields: ClassVar[Mapping[str, str]] = {"audio": "audio", "answer": "characters"}
    modality: ClassVar[str] = "audio"

    def default_objective(self) -> Objective:
        return Prefix(target="answer")

    def values(self, rng: np.random.Generator, number: int) -> dict[str, Any]:
        return {"audio": (rng.normal(0, 0.1, (1, 1600)).astype(np.float32), RATE), "answer": WORDS[number % 5]}

    def varied(self, sample: Sample, rng: np.random.Generator) -> Sample:
        sound, rate = sample.values["audio"]
        return replace(sample, values={**sample.values, "audio": (sound * np.float32(rng.uniform(0.5, 1)), rate)})


@dataclass
class Episodes(Made):
    fields: ClassVar[Mapping[str, str]] = {"episode": "rl"}
    modality: ClassVar[str] = "rl"

    def default_objective(self) -> Objective:
        return ReturnConditioned()

    def values(self, rng: np.random.Generator, number: int) -> dict[str, Any]:
        steps = 3 + number % 4
        states, actions = rng.normal(size=(steps, 4)).astype(np.float32), rng.integers(0, 2, steps)
        return {"episode": Episode(states, actions, np.ones(steps))}

    def varied(self, sample: Sample, rng: np.random.Generator) -> Sample:
        of = sample.values["episode"]
        noisy = (of.observations + rng.normal(0, 0.01, of.observations.shape)).astype(np.float32)
        return replace(sample, values={"episode": replace(of, observations=noisy)})


KINDS: dict[str, tuple[type[Task], ...]] = {
    "text": (Made,), "image": (Pictures,), "audio": (Sounds,), "rl": (Episodes,),
    "mixed": (Made, Pictures, Sounds, Episodes),
}  # fmt: skip
for task in KINDS["mixed"]:
    registry.register_task(f"chaos_{task.modality}")(task)


@dataclass(frozen=True)
class Run:
    """The settings of one process's training."""

    folder: str
    kind: str = "text"
    accumulation: int = 1
    workers: int = 0
    resume: bool = False
    record: str = "record.jsonl"
    budget: int = 96
    steps: int = STEPS
    dropout: float = 0.2
    patience: float = 120.0
    epoch: int = EPOCH

    def fit(self, callbacks: Sequence[L.Callback] = (), **trainer: Any) -> Learner:
        torch.set_num_threads(1)
        if self.workers:
            multiprocessing.set_forkserver_preload([__name__])  # once, instead of in each worker of each validation
        warnings.filterwarnings("ignore", module=r"lightning|torch")
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        settings: dict[str, Any] = {
            "accelerator": "cpu", "max_steps": self.steps, "default_root_dir": self.folder, "logger": False,
            "plugins": [CheckpointDirectory()], "enable_model_summary": False, "enable_progress_bar": False,
            "use_distributed_sampler": False, "accumulate_grad_batches": self.accumulation, "gradient_clip_val": 1.0,
            "val_check_interval": 4 * self.accumulation, "check_val_every_n_epoch": None, "limit_val_batches": 2,
            "num_sanity_val_steps": 1,
        }  # fmt: skip
        own = [Record(Path(self.folder) / self.record), Checkpoints(every_n_train_steps=EVERY), *callbacks]
        learner = self.learner()
        L.Trainer(**settings | trainer, callbacks=own).fit(
            learner, datamodule=self.mixture(), ckpt_path="last" if self.resume else None
        )
        return learner

    def learner(self) -> Learner:
        backbone = {"dim": 16, "heads": 2, "depth": 1, "dropout": self.dropout, "positions": {"type": "rotary"}}
        return Learner(backbone=backbone, lr=1e-2, schedule={"warmup_steps": 3})

    def mixture(self) -> Mixture:
        tasks = {f"chaos_{task.modality}": {} for task in KINDS[self.kind]}
        used = {kind for task in KINDS[self.kind] for kind in task.fields.values()}
        tokenizers = {name: settings for name, settings in TOKENIZERS.items() if name in used}
        return Mixture(
            tokenizers=tokenizers, tasks=tasks, token_budget=self.budget, epoch_steps=self.epoch, workers=self.workers,
            patience=self.patience,
            validation_tokens=200,
        )  # fmt: skip

    def start(self, cold: bool = False, callbacks: Callable[[], Sequence[L.Callback]] = tuple) -> Process:
        """In a new process: forked, or started from nothing (then without callbacks)."""
        if cold:
            given = json.dumps(vars(self))
            return Process(subprocess.Popen([sys.executable, "-m", "anyformer.chaos.tiny", given]).pid)
        return Process.forked(lambda: self.fit(callbacks()))

    def records(self) -> list[list[Any]]:
        """What each step and validation gave: [step, micro-batch, loss as hexadecimal, samples]."""
        file = Path(self.folder) / self.record
        lines = file.read_text().splitlines() if file.exists() else []
        return [json.loads(line) for line in lines if line.endswith("]")]

    def weights(self) -> str:
        """sha256 of the weights in `last`."""
        manifest = json.loads((Path(self.folder) / "last" / "manifest.json").read_text())
        return manifest["files"]["model.safetensors"]["sha256"]

    def step(self) -> int:
        """Of the checkpoint that a run goes on from: `last`, or the one before it if a kill has left that; else 0."""
        files = [Path(self.folder) / name / "manifest.json" for name in ("last", ".previous-last")]
        return next((json.loads(file.read_text())["step"] for file in files if file.exists()), 0)


@dataclass
class Process:
    """A run's process, waited for by us."""

    pid: int
    status: int | None = None

    @classmethod
    def forked(cls, work: Callable[[], Any]) -> Process:
        pid = os.fork()
        if pid:
            return cls(pid)
        code = 1
        try:
            work()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    def ended(self) -> bool:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status is not None

    def wait(self) -> int:
        """The exit status, negative for a signal."""
        if self.status is None:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status


class Record(L.Callback):
    """Writes down each micro-batch's loss and samples, and each validation's losses."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        micro = batch_idx % trainer.accumulate_grad_batches
        step = trainer.global_step - (micro == trainer.accumulate_grad_batches - 1)
        self._write([step, micro, float(outputs["loss"]).hex(), list(batch.keys)])

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            found = {name: float(v).hex() for name, v in trainer.callback_metrics.items() if name.startswith("val/")}
            self._write([trainer.global_step, "validation", found, []])

    def _write(self, line: list[Any]) -> None:
        with open(self.file, "a") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    Run(**json.loads(sys.argv[1])).fit()
