"""One of two ranks whose loss is not finite at one step: what a process of that run does from its start to its end."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import lightning as L
import runs
import torch
from ranks import free

from anyformer.errors import NonFiniteError


class SpoilLoss(L.Callback):
    """This rank's loss is NaN at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            plain = pl_module.losses

            def spoilt(forward: Any) -> Any:
                pl_module.losses = plain
                forward.hidden[:] *= float("nan")
                return plain(forward)

            pl_module.losses = spoilt


class SpoilGradient(SpoilLoss):
    """This rank's gradient of one weight is NaN at a step; its loss is not."""

    def on_train_batch_start(self, *rest: Any) -> None:
        """Too early."""

    def on_after_backward(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trainer.global_step == self.step:
            next(p.grad for p in pl_module.parameters() if p.grad is not None).view(-1)[0] = float("nan")


def rank(
    number: int, port: int, folder: str, steps: int, at: int, policy: dict[str, Any], strategy: str = "ddp",
    spoil: type[L.Callback] = SpoilLoss,
) -> None:  # fmt: skip
    """Rank 1 is the one that is spoilt. Writes what it was told and its weights."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(number), "NODE_RANK": "0"}
    with runs.registered():
        learned = runs.learner(not_finite=policy)
        run = runs.trainer(folder, steps, [spoil(at)] if number == 1 else [], strategy=strategy, devices=2)
        told = ""
        try:
            run.fit(learned, datamodule=runs.mixture())
        except NonFiniteError as error:
            told = str(error)
        weights = {name: getattr(value, "full_tensor", value.clone)() for name, value in learned.state_dict().items()}
        result = {"told": told, "dropped": learned.finite.dropped, "weights": weights}
        torch.save(result, Path(folder) / f"rank{number}.pt")


def both(
    folder: Path,
    strategy: str,
    policy: dict[str, Any],
    spoil: type[L.Callback] = SpoilLoss,
    steps: int = 6,
    at: int = 3,
) -> list[dict[str, Any]]:
    """What two ranks wrote; where the policy is to stop, one of them may have ended the other."""
    folder.mkdir()
    port = free()
    arguments = (port, str(folder), steps, at, policy, strategy, spoil)
    ranks = [runs.start(rank, number, *arguments) for number in (0, 1)]
    statuses = [runs.end(one) for one in ranks]
    assert policy["type"] == "stop" or statuses == [0, 0]
    return [torch.load(file) for file in sorted(folder.glob("rank*.pt"))]
