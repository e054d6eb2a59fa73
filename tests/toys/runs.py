"""Small training runs over the toys, for this process and for the ones that tests start."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
from toys import TASKS, TOKENIZERS

import anyformer as af
from anyformer import registry

HERE = Path(__file__).parent
PATIENCE = 300  # seconds for another process on a loaded machine

warnings.filterwarnings("ignore", module="lightning|torch")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


@contextlib.contextmanager
def registered() -> Iterator[None]:
    """The toys by name, until the end of the block."""
    registry.tokenizers._registered |= TOKENIZERS
    registry.tasks._registered |= TASKS
    try:
        yield
    finally:
        for name in TOKENIZERS:
            registry.tokenizers._registered.pop(name, None)
        for name in TASKS:
            registry.tasks._registered.pop(name, None)


def mixture(**more: Any) -> af.Mixture:
    """Two modalities, unequal weights, a few samples a batch."""
    settings: dict[str, Any] = {
        "tokenizers": {"letters": {}, "dots": {}, "colour": {}},
        "tasks": {"words": {"weight": 2}, "quadrants": {}},
        "token_budget": 64,
    }
    return af.Mixture(**settings | more)


def learner(**more: Any) -> af.Learner:
    backbone = {"dim": 16, "heads": 2, "depth": 1, "dropout": 0.2}
    settings: dict[str, Any] = {"backbone": backbone, "lr": 1e-2, "schedule": {"warmup_steps": 3}}
    return af.Learner(**settings | more)


def trainer(folder: Path | str, steps: int, callbacks: list[L.Callback] | None = None, **more: Any) -> L.Trainer:
    """With checkpoints every three steps, unless the callbacks bring their own."""
    callbacks = callbacks or []
    own = [] if any(isinstance(c, af.Checkpoints) for c in callbacks) else [af.Checkpoints(every_n_train_steps=3)]
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "max_steps": steps,
        "default_root_dir": str(folder),
        "callbacks": [*own, *callbacks],
        "plugins": [af.CheckpointDirectory()],
        "logger": False,
        "limit_val_batches": 0,
        "enable_model_summary": False,
        "enable_progress_bar": False,
        "use_distributed_sampler": False,
    }
    return L.Trainer(**settings | more)


class At(L.Callback):
    """Does something when a step has been made."""

    def __init__(self, step: int, act) -> None:
        self.step, self.act = step, act

    def on_train_batch_end(self, trainer: L.Trainer, *rest) -> None:
        if trainer.global_step == self.step:
            self.act(trainer)


class Within(At):
    """Does something in the middle of the step behind `step`."""

    def on_train_batch_start(self, trainer: L.Trainer, *rest) -> None:
        super().on_train_batch_end(trainer)

    def on_train_batch_end(self, *rest) -> None:
        """Too late."""


def stop_at(step: int) -> At:
    """A regular end before `max_steps`, so that the schedule stays that of the whole run."""
    return At(step, lambda trainer: setattr(trainer, "should_stop", True))


def fit(folder: Path | str, steps: int, callbacks=None, resume: bool = False, data=None, **more: Any) -> af.Learner:
    """A trained learner. `data`: the mixture's settings; `more`: the trainer's."""
    learned = learner()
    trainer(folder, steps, callbacks, **more).fit(
        learned, datamodule=mixture(**data or {}), ckpt_path="last" if resume else None
    )
    return learned


def signalled(folder: str, steps: int, at: int, number: int, data: dict[str, Any], more: dict[str, Any]) -> None:
    """A process's whole life: a run that sends itself a signal in the middle of step `at` + 1."""
    torch.set_num_threads(1)
    with registered():
        fit(folder, steps, [Within(at, lambda trainer: os.kill(os.getpid(), number))], data=data, **more)


def rank(number: int, port: int, folder: str, steps: int, data: dict[str, Any], send: dict[int, int]) -> None:
    """A process's whole life: one of two ranks. `send`: step → signal, which this rank sends itself."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(number), "NODE_RANK": "0"}
    act = [At(step, lambda trainer, s=s: os.kill(os.getpid(), s)) for step, s in send.items()]
    with registered():
        learned = learner(backbone={"dim": 16, "heads": 2, "depth": 1})
        run = trainer(
            folder, steps, act, strategy="ddp", devices=2, limit_val_batches=1.0, val_check_interval=steps,
            check_val_every_n_epoch=None, num_sanity_val_steps=0,
        )  # fmt: skip
        run.fit(learned, datamodule=mixture(**data))
        losses = {name: float(value) for name, value in run.callback_metrics.items() if name.startswith("val/")}
        torch.save({"weights": learned.state_dict(), "losses": losses}, Path(folder) / f"rank{number}.pt")


def apart(
    number: int, port: int, folder: str, strategy: str, resume: bool, data: dict[str, Any], more: dict[str, Any]
) -> None:
    """A process's whole life: one of two ranks, whose checkpoint lies in `folder`. `more`: see `measured`."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(number), "NODE_RANK": "0"}
    with registered():
        seen = measured(folder, 6, resume, data, strategy=strategy, devices=2, **more)
        torch.save(seen, Path(folder) / f"rank{number}.pt")


def measured(
    folder: Path | str, steps: int, resume: bool, data: dict[str, Any], model: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    """A run's losses by micro-batch, task → (sum, count), and the held-out ones; a new run stops half-way. `model`: the
    learner's settings beside its backbone; `more`: the trainer's."""
    seen, learned = Seen(), learner(backbone={"dim": 16, "heads": 2, "depth": 2}, **model or {})
    run = trainer(
        folder, steps, [seen, *([] if resume else [stop_at(3)])], limit_val_batches=1.0, check_val_every_n_epoch=None,
        val_check_interval=3 * more.get("accumulate_grad_batches", 1), num_sanity_val_steps=0, gradient_clip_val=0.5,
        **more,
    )  # fmt: skip
    run.fit(learned, datamodule=mixture(**data), ckpt_path="last" if resume else None)
    held_out = {name: float(value) for name, value in run.callback_metrics.items() if name.startswith("val/")}
    kept = sum(getattr(p, "_local_tensor", p).numel() for p in learned.parameters())
    return {"losses": seen.losses, "held out": held_out, "kept": kept}


class Seen(L.Callback):
    """Keeps the losses of every micro-batch."""

    def __init__(self) -> None:
        self.losses: list[dict[str, tuple[float, float]]] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, *rest) -> None:
        self.losses.append({name: (float(loss.sum), loss.count) for name, loss in outputs["losses"].items()})


def preload() -> Any:
    """The context of processes that have Lightning imported already; only the first one waits for that."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["anyformer.training.learner"])
    return context


def start(target, *arguments: Any) -> multiprocessing.Process:
    """Run `target` in a new process."""
    process = preload().Process(target=target, args=arguments)
    process.start()
    return process


def end(process: multiprocessing.Process) -> int | None:
    """Its exit status, negative for a signal; a process that does not end is ended, and fails the test."""
    process.join(PATIENCE)
    if process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
        raise AssertionError(f"the process did not end within {PATIENCE} s")
    return process.exitcode


def weights(learned: af.Learner) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in learned.state_dict().items()}
