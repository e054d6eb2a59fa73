"""The Lightning module: one shared pass, one loss per task, summed by weight."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch

from anyformer.batch import Batch
from anyformer.checkpoint import describe, tokenizer_files
from anyformer.contracts import Loss
from anyformer.errors import ConfigError, NonFiniteError
from anyformer.model import ForwardPass, Model
from anyformer.training.data import Mixture
from anyformer.training.mixture import keyed
from anyformer.training.schedules import make_schedule
from anyformer.training.tally import Tally


class Learner(L.LightningModule):
    """Trains a model on a `Mixture`.

    backbone: the backbone's settings; the model is built from them and the mixture's tokenizers when training
    starts. Give `model` instead to go on with one that exists.
    lr, betas, weight_decay: of fused AdamW; weights with two or more axes decay, norms and biases do not.
    schedule: `{"type": "warmup_cosine" | "inverse_square_root" | "constant", ...}`.
    """

    def __init__(
        self,
        backbone: dict[str, Any] | None = None,
        model: Model | None = None,
        tie: bool = True,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.1,
        schedule: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if (backbone is None) == (model is None):
            raise ConfigError("A learner needs either backbone settings or an existing model, not both or neither.")
        self.backbone, self.tie, self.model = backbone, tie, model
        self.lr, self.betas, self.weight_decay = lr, tuple(betas), weight_decay
        self.schedule = schedule or {"type": "warmup_cosine"}
        self.tally = Tally()

    @property
    def mixture(self) -> Mixture:
        """The data module in use."""
        mixture = getattr(self.trainer, "datamodule", None)
        if not isinstance(mixture, Mixture):
            raise ConfigError("A learner trains on a Mixture; pass it to the trainer as `datamodule`.")
        return mixture

    def configure_model(self) -> None:
        if self.model is None:
            with torch.random.fork_rng():
                torch.manual_seed(self._key("weights"))
                self.model = Model(self.mixture.tokenizers, self.backbone, self.mixture.heads(), self.tie)

    def configure_optimizers(self) -> dict[str, Any]:
        decayed = [p for p in self.parameters() if p.requires_grad and p.dim() >= 2]
        others = [p for p in self.parameters() if p.requires_grad and p.dim() < 2]
        groups = [
            {"params": decayed, "weight_decay": self.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, fused=True)
        self.rate = make_schedule(self.schedule, self.trainer.estimated_stepping_batches)
        # a plain function has no state: a resumed run follows its own settings, so max_steps may be raised
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.rate(step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # dropout depends on (seed, step, rank) alone, so a resumed step drops what the first one dropped
        torch.manual_seed(self._key("dropout", self.global_step, batch_idx, self.global_rank))

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        losses = self.losses(batch)
        counts = self._counts_everywhere(batch.counts)
        weights = self.mixture.loss_weights
        total = torch.stack([weights[t] * loss.sum / counts[t] for t, loss in losses.items()]).sum()
        if not bool(torch.isfinite(total)):
            raise self._not_finite(losses, batch)
        # Lightning divides by the accumulation and averages over ranks; the counts have done both already
        scale = self.trainer.accumulate_grad_batches * self.trainer.world_size
        return {"loss": total * scale, "losses": losses}

    def losses(self, batch: Batch) -> dict[str, Loss]:
        """Each present task's loss, from one shared pass."""
        forward = ForwardPass(self.model, batch)
        return {name: self.mixture.tasks[name].objective.loss(forward, t) for name, t in batch.targets.items()}

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self.tally.add(batch, outputs["losses"])
        if self.trainer._logger_connector.should_update_logs and self.tally.tokens:
            self.log_dict(
                {f"train/{name}": value for name, value in self.tally.means().items()}
                | {"train/tokens": float(self.tally.tokens), "lr": self.optimizers().param_groups[0]["lr"]},
                batch_size=len(batch),
            )
            self.tally.clear()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._log_losses("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._log_losses("test", batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Mean loss per task of a batch, and which samples it held."""
        return {"keys": batch.keys, **{name: float(loss.sum) / loss.count for name, loss in self.losses(batch).items()}}

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None) -> None:
        if gradient_clip_val and gradient_clip_algorithm in (None, "norm"):
            norm = torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)
            if not bool(torch.isfinite(norm)):
                raise NonFiniteError(
                    f"The gradient's norm is {float(norm)} at step {self.global_step}; the update was not applied. "
                    "Lower lr, or look at the last batch."
                )
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["anyformer"] = {
            "config": describe(self.model), "files": tokenizer_files(self.model.tokenizers)
        }  # fmt: skip

    def _key(self, *keys: int | str) -> int:
        """A seed that depends on the mixture's seed and these keys alone."""
        return int(keyed(self.mixture.seed, *keys).integers(2**62))

    def _log_losses(self, stage: str, batch: Batch) -> None:
        for name, loss in self.losses(batch).items():
            self.log(
                f"{stage}/{name}", loss.sum / loss.count, batch_size=int(loss.count),
                on_step=False, on_epoch=True, sync_dist=True, add_dataloader_idx=False,
            )  # fmt: skip

    def _counts_everywhere(self, counts: dict[str, float]) -> dict[str, float]:
        """The optimiser step's predicted values per task, over all ranks."""
        if self.trainer.world_size == 1:
            return counts
        names = list(self.mixture.tasks)
        here = torch.tensor([counts.get(name, 0.0) for name in names], device=self.device)
        return dict(zip(names, self.trainer.strategy.reduce(here, reduce_op="sum").tolist(), strict=True))

    def _not_finite(self, losses: dict[str, Loss], batch: Batch) -> NonFiniteError:
        bad = [name for name, loss in losses.items() if not bool(torch.isfinite(loss.sum))]
        keys = [key for task, key in zip(batch.tasks, batch.keys, strict=True) if task in bad]
        return NonFiniteError(
            f"The loss of {', '.join(bad) or 'the mixture'} is not finite at step {self.global_step}; the update was not "
            f"applied. Samples in the batch: {', '.join(keys[:8])}{' …' if len(keys) > 8 else ''}. Lower lr, or mend them."
        )

