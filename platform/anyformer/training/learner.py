"""The Lightning module: one shared pass, one loss per task, summed by weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from anyformer.architecture import read
from anyformer.batch import SLOTS, Batch, Counts
from anyformer.checkpoint import begin_with, changes, check_tokenizers, describe, load, tokenizer_files
from anyformer.contracts import Loss
from anyformer.errors import ConfigError
from anyformer.model import ForwardPass, Model
from anyformer.model.parts import freeze
from anyformer.training.adapters import Adapters, layers, merged, parted
from anyformer.training.checkpointing import PREFIX
from anyformer.training.data import Mixture
from anyformer.training.deepspeed import require_ours
from anyformer.training.finite import make_policy
from anyformer.training.gradients import Gradients
from anyformer.training.memory import Room
from anyformer.training.mixture import keyed
from anyformer.training.ranks import SignsOfLife
from anyformer.training.schedules import make_schedule
from anyformer.training.sharded import shard
from anyformer.training.tally import Tally, Term, task_means

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")  # weights stay in float32; the others need casts of the batch
ENDLESS = 10**9  # steps: the schedule of a run that only a clock ends hardly falls


class Learner(L.LightningModule):
    """Trains a model on a `Mixture`.

    backbone: the backbone's settings; the model is built from them and the mixture's tokenizers when training starts.
    preset: an architecture to build it like (a name of `anyformer list models`, a YAML file, or what such a file would
    hold); `backbone` then says what is to differ. Give `model` instead to go on with one that exists. tie, scale: see
    Model; a preset says both itself.
    start: a checkpoint whose weights the model begins with: a weight of the same name must have the same shape, and
    what the checkpoint lacks (a new head) begins at random. Give the mixture the same `start`, for its tokenizers.
    start_layers: which blocks of that checkpoint the backbone's begin with, counted from 0; by default the first.
    start_parts: the parts that begin with it, named as for `freeze`; by default all.
    freeze: parts that are not trained: `backbone`, `encoder`, `embed`, `embed.text`, `head.label`, or what lies within,
    `backbone.blocks.0`. freeze_norms: the norms there too. lora: `{"rank": 8, ...}`, see Adapters.
    lr, betas, weight_decay: of fused AdamW; weights with two or more axes decay, norms and biases do not.
    schedule: `{"type": "warmup_cosine" | "inverse_square_root" | "constant", ...}`.
    compile: the back end of torch.compile ("inductor") that fuses what blocks do token by token; by default none does.
    not_finite: what to do about a NaN or an infinity, before it reaches a weight: `{"type": "stop"}` (default),
    `{"type": "skip", "most": 10}` or `{"type": "roll_back", "every": 100, "most": 3}`.
    """

    def __init__(
        self,
        backbone: dict[str, Any] | None = None,
        model: Model | None = None,
        preset: str | dict[str, Any] | None = None,
        start: str | None = None,
        start_layers: list[int] | None = None,
        start_parts: list[str] | None = None,
        freeze: list[str] | None = None,
        freeze_norms: bool = False,
        lora: dict[str, Any] | None = None,
        tie: bool = True,
        scale: bool = True,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.1,
        schedule: dict[str, Any] | None = None,
        compile: str | None = None,
        not_finite: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if (backbone is None and preset is None) == (model is None):
            raise ConfigError(
                "A learner needs either backbone settings or a preset, or an existing model, not both or neither."
            )
        if model is not None and start is not None:
            raise ConfigError("A learner that is given a model has its weights already; leave `start` out.")
        self.preset, self.start = None if preset is None else read(preset), start
        self.start_layers, self.start_parts = start_layers or [], start_parts or []
        self.freeze_parts, self.freeze_norms = freeze or [], freeze_norms
        self.adapters = None if lora is None else Adapters.of(lora)
        self.backbone, self.tie, self.scale, self._model = backbone or {}, tie, scale, model
        self.lr, self.betas, self.weight_decay = lr, tuple(betas), weight_decay
        self.schedule, self.compiler = schedule or {"type": "warmup_cosine"}, compile
        self.finite = make_policy(not_finite or {})
        self.tally, self.held_out = Tally(), Tally()
        self.room = Room()
        self.beside, self._joined = nn.ModuleList(), None
        self._gradients = Gradients()
        self._window: list[Batch] = []  # the micro-batches since the last update

    def __setattr__(self, name: str, value: Any) -> None:
        """Lightning notes which hook it is in 40 times a step, and a module looks long at what it is given."""
        if name == "_current_fx_name":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    @property
    def mixture(self) -> Mixture:
        """The data module in use."""
        mixture = getattr(self.trainer, "datamodule", None)
        if not isinstance(mixture, Mixture):
            raise ConfigError("A learner trains on a Mixture; pass it to the trainer as `datamodule`.")
        return mixture

    @property
    def model(self) -> Model:
        """The model, once training has started or one was given."""
        if self._model is None:
            raise ConfigError("The learner has no model yet: it is built when the trainer starts.")
        return self._model

    @property
    def gradients(self) -> Gradients:
        """What the next update is made of, wherever the strategy keeps it."""
        return getattr(self.trainer.strategy, "gradients", self._gradients)

    def configure_model(self) -> None:
        if self.trainer.precision not in PRECISIONS:
            raise ConfigError(f"precision={self.trainer.precision!r}; expected one of {', '.join(PRECISIONS)}.")
        if self._model is not None:
            self._check_same_tokenizers(self._model)
        else:
            with torch.random.fork_rng():
                torch.manual_seed(self._key("weights"))
                self._model = self._new_model(self.mixture)
            if self.start is not None:
                begin_with(self._model, self.start, self.start_layers, self.start_parts)
        self._settle_what_trains(self._model)
        if self._joined is not self.mixture:
            self.beside, self._joined = self._new_beside(self._model), self.mixture
        if self.compiler is not None:
            self._model.compile_blocks(self.compiler)
        require_ours(self.trainer.strategy)
        shard(self, self.trainer)

    def _settle_what_trains(self, model: Model) -> None:
        if self.freeze_parts:
            freeze(model, self.freeze_parts, self.freeze_norms)
        if self.adapters is not None and not any(layers(model)):
            with torch.random.fork_rng():
                torch.manual_seed(self._key("adapters"))
                self.adapters.attach(model)

    def _new_beside(self, model: Model) -> nn.ModuleList:
        """What the objectives have trained with the model."""
        found = []
        for name, task in self.mixture.tasks.items():
            specs = {field: self.mixture.tokenizers[kind].streams for field, kind in task.fields.items()}
            with torch.random.fork_rng():
                torch.manual_seed(self._key("beside", name))
                found.append(task.objective.beside(model, specs, load))
        return nn.ModuleList(module for module in found if module is not None)

    def _new_model(self, mixture: Mixture) -> Model:
        if self.preset is not None:
            return Model.like(self.preset, mixture.tokenizers, mixture.heads(), self.backbone)
        return Model(mixture.tokenizers, self.backbone, mixture.heads(), self.tie, self.scale)

    def _check_same_tokenizers(self, model: Model) -> None:
        for name, tokenizer in self.mixture.tokenizers.items():
            theirs = model.tokenizers.get(name)
            if theirs is None or theirs.fingerprint() != tokenizer.fingerprint():
                told = "" if theirs is None else f" ({'; '.join(changes(theirs, tokenizer))})"
                raise ConfigError(
                    f"The model was made with {'another' if theirs else 'no'} tokenizer {name!r} than the mixture's"
                    f"{told}. Give the mixture the model's own: Mixture(tokenizers=model.tokenizers, ...)."
                )

    def configure_callbacks(self) -> list[Callback]:
        """What every run of several ranks has, unless the trainer was given its own."""
        own = any(isinstance(callback, SignsOfLife) for callback in vars(self.trainer)["callbacks"])
        return [] if own or self.trainer.world_size == 1 else [SignsOfLife()]

    def configure_optimizers(self) -> Any:
        trained = [p for p in self.parameters() if p.requires_grad]  # looked for once: it takes as long as a layer
        self._gradients = Gradients(trained)
        decayed = [p for p in trained if p.dim() >= 2]
        others = [p for p in trained if p.dim() < 2]
        groups = [
            {"params": decayed, "weight_decay": self.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, fused=True)
        steps = self.trainer.estimated_stepping_batches  # without an end: infinity, or -1
        self.rate = make_schedule(self.schedule, int(steps) if 0 < steps < ENDLESS else ENDLESS)
        # a plain function has no state: a resumed run follows its own settings, so max_steps may be raised
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.rate(step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_start(self) -> None:
        self.tally.clear()  # what went before the first step is not its time

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        accumulation = self.trainer.accumulate_grad_batches
        # dropout depends on (seed, step, rank) alone, so a resumed step drops what the first one dropped
        _seed(self._key("dropout", self.global_step, batch_idx % accumulation, self.global_rank), self.device)
        if batch_idx % accumulation == 0:
            self._window.clear()
            self.finite.begin(self)
        self._window.append(batch)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """It is made in the memory of the processor."""
        return batch if device.type == "cpu" else super().transfer_batch_to_device(batch, device, dataloader_idx)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        with self.room.needed(batch):
            return self._step(batch)

    def backward(self, loss: Tensor, *more: Any, **named: Any) -> None:
        with self.room.needed(self._window[-1]):
            super().backward(loss, *more, **named)
        self.room.fitted(self._window[-1])

    def _step(self, batch: Batch) -> dict[str, Any]:
        forward = ForwardPass(self.model, batch)
        losses = self.losses(forward)
        counts = self._counts_everywhere(batch.counts)
        weights = self.mixture.loss_weights
        terms = [
            _times(loss.mean(counts[t]), weights[t]) for t, loss in losses.items() if any(counts.get(t, {}).values())
        ]
        total = torch.stack(terms).sum() if terms else forward.hidden.sum() * 0
        if self.trainer.world_size > 1:  # all ranks must use the same weights, or the gradient exchange waits for ever
            total = total + sum(parameter.sum() * 0 for parameter in self.beside.parameters())
        # Lightning divides by the accumulation and averages over ranks; the counts have done both already
        scale = self.trainer.accumulate_grad_batches * self.trainer.world_size
        total = _times(total, scale)
        if forward.balance:
            total = total + torch.stack(forward.balance).sum()  # of this micro-batch: a plain mean
        return {"loss": total, "losses": self.finite.sound(batch, total, losses)}

    def losses(self, forward: ForwardPass) -> dict[str, Loss]:
        """Each present task's loss, from one shared pass; of those that all ranks must compute together, absent or not,
        in the same order everywhere."""
        there, ranks = forward.batch.targets, self.trainer.world_size if self.training else 1
        objectives = {name: task.objective for name, task in self.mixture.tasks.items()}
        asked = [name for name, objective in objectives.items() if name in there or (objective.coupled and ranks > 1)]
        return {name: objectives[name].loss(forward, there.get(name, {})) for name in asked}

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self.tally.add(batch, outputs["losses"])
        stepped = (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0
        if stepped and self.trainer._logger_connector.should_update_logs and self.tally.tokens:
            self._tell(self.tally)
            self.tally.clear()

    def _tell(self, seen: Tally) -> None:
        """Loggers and callbacks, as Lightning's LearningRateMonitor does it. What `self.log` is given once it goes
        through again at every step."""
        found = {f"train/{name}": value for name, value in seen.means().items()}
        found |= {f"train/{name}/share": seen.share(name) for name in seen.task_tokens}
        found |= {f"train/{name}/tokens_per_second": seen.speed(name) for name in seen.task_tokens}
        found |= {"train/tokens": float(seen.tokens), "lr": self.lr * self.rate(self.global_step - 1)}
        told = dict(zip(found, torch.tensor([*found.values()]).unbind(), strict=True))
        self.trainer._logger_connector.log_metrics(told)
        self.trainer.callback_metrics.update(told)

    def on_validation_epoch_start(self) -> None:
        self.held_out.clear()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._judge(batch, batch_idx, self.trainer.val_dataloaders)

    def on_validation_epoch_end(self) -> None:
        self._log_held_out("val")

    def on_test_epoch_start(self) -> None:
        self.held_out.clear()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._judge(batch, batch_idx, self.trainer.test_dataloaders)

    def on_test_epoch_end(self) -> None:
        self._log_held_out("test")

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Mean loss per task of a batch, and which samples it held."""
        return {
            "keys": batch.keys,
            **{name: float(loss.mean()) for name, loss in self.losses(ForwardPass(self.model, batch)).items()},
        }

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.gradients.complete()

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        """As `optimizer.zero_grad()`, which takes nine times as long over a small model."""
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None) -> None:
        """Lightning calls this before every update, clipping or not."""
        gradients = self.gradients
        norm = gradients.norm()
        if not self.finite.agrees(self, optimizer, norm, self._window):
            return
        if gradient_clip_val and gradient_clip_algorithm in (None, "norm"):
            if not norm.item() + 1e-6 <= gradient_clip_val:  # else they would all be multiplied by 1
                gradients.clip(gradient_clip_val)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A run goes on only with the tokenizers it began with; CheckpointError says what differs."""
        check_tokenizers(checkpoint["anyformer"]["path"], self.mixture.tokenizers)
        checkpoint["state_dict"] = parted(checkpoint["state_dict"], self.model, PREFIX)
        self.finite.restore(checkpoint.get("not_finite", {}))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if "state_dict" in checkpoint:
            checkpoint["state_dict"] = merged(self.model, checkpoint["state_dict"], PREFIX)
        checkpoint["anyformer"] = {
            "config": describe(self.model), "files": tokenizer_files(self.model.tokenizers)
        }  # fmt: skip
        checkpoint["not_finite"] = self.finite.state()

    def _key(self, *keys: int | str) -> int:
        """A seed that depends on the mixture's seed and these keys alone."""
        return int(keyed(self.mixture.seed, *keys).integers(2**62))

    def _judge(self, batch: Batch, batch_idx: int, loader: Any) -> None:
        """A rank goes along with the others through batches that are not its own."""
        losses = self.losses(ForwardPass(self.model, batch))
        if batch_idx < loader.sampler.own:
            self.held_out.add(batch, losses)

    def _log_held_out(self, stage: str) -> None:
        """Each task's mean over all ranks; a rank may have seen batches of some tasks only."""
        sums, counts = self._everywhere(self.held_out.sums), self._everywhere(self.held_out.counts)
        for name, mean in task_means(sums, counts).items():
            self.log(f"{stage}/{name}", mean, batch_size=1)

    def _counts_everywhere(self, counts: Counts) -> Counts:
        """The optimiser step's predicted values per task and stream, over all ranks."""
        if self.trainer.world_size == 1:
            return counts
        found = self._everywhere({(task, name): n for task, of in counts.items() for name, n in of.items()})
        return {task: {name: found[task, name] for name in (SLOTS, *self.model.specs)} for task in self.mixture.tasks}

    def _everywhere(self, numbers: Mapping[Term, float | Tensor]) -> dict[Term, float]:
        """Numbers by task and by what was counted, summed over all ranks; 0 for what is not among them."""
        terms = [(task, over) for task in self.mixture.tasks for over in (None, SLOTS, *self.model.specs)]
        here = torch.tensor([float(numbers.get(term, 0.0)) for term in terms], device=self.device)
        return dict(zip(terms, self.trainer.strategy.reduce(here, reduce_op="sum").tolist(), strict=True))


def _times(loss: Tensor, factor: float) -> Tensor:
    """A product with 1 changes nothing, and takes as long as any, forward and backward."""
    return loss if factor == 1 else factor * loss


def _seed(seed: int, device: torch.device) -> None:
    """Of the generators that a step draws from. `torch.manual_seed` asks every kind of device, which takes as long as a
    layer where one is not in use."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)
