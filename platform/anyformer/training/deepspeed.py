"""Moments, and the weights that they belong to, in parts over the ranks of a run: the first two stages of ZeRO
(arXiv:1910.02054 §5) by DeepSpeed's engine.

The engine exchanges gradients, clips and updates. Whether an update is made, and what a checkpoint holds, is said here,
so that a run may begin or go on with any other strategy, or with one process.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch.core.optimizer import _init_optimizers_and_lr_schedulers
from lightning.pytorch.plugins.precision import DeepSpeedPrecision
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, StrategyRegistry
from lightning.pytorch.strategies.strategy import Strategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.optim import Optimizer

from anyformer.errors import ConfigError, PluginError
from anyformer.training.gathered import Gathered
from anyformer.training.gradients import Gradients

STAGES = {"deepspeed": 2, "deepspeed_stage_1": 1, "deepspeed_stage_2": 2}  # by the strategy's name
PRECISIONS = ("32-true", "bf16-mixed")
THEIRS = ("optimizer", "scheduler", "fp16", "bf16", "offload_optimizer", "offload_param")
"""Settings of DeepSpeed by which it would do what a learner does, or keep elsewhere what a checkpoint holds."""


class DeepSpeed(Gathered, DeepSpeedStrategy):
    """`--trainer.strategy=deepspeed_stage_2`: every rank keeps all weights, and a part of what updates them."""

    def __init__(self, stage: int = 2, **more: Any) -> None:
        if find_spec("deepspeed") is None:
            raise PluginError(
                f"strategy=deepspeed_stage_{stage} needs DeepSpeed, which is not installed; pip install "
                "'anyformer[deepspeed]', or choose strategy=sharded."
            )
        settings: dict[str, Any] = {"overlap_comm": False, **more}  # backward passes are through by then
        super().__init__(stage=stage, **settings)
        config = self.config if isinstance(self.config, dict) else {}
        zero = config.get("zero_optimization") or {}
        if zero.get("stage") not in STAGES.values():
            raise _refused(f"stage={zero.get('stage')}; expected 1 or 2")
        for name in THEIRS:
            if name in config or name in zero:
                raise _refused(name)
        self._window = ExitStack()

    def setup_environment(self) -> None:
        DDPStrategy.setup_environment(self)  # DeepSpeed's own would have a GPU

    def setup_distributed(self) -> None:
        if self.root_device.type != "cpu":
            return super().setup_distributed()
        import deepspeed

        vars(deepspeed.ops)["__compatible_ops__"] = {}  # else it compiles an exchange of its own first
        reset_seed()
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    def setup(self, trainer: L.Trainer) -> None:
        refuse(trainer)
        self.precision_plugin = Autocast(trainer.precision, self.root_device)
        super().setup(trainer)

    def _format_config(self) -> None:
        """Lightning counts a window's batches and scales their losses; weights stay in float32, as elsewhere."""
        assert isinstance(self.config, dict) and self.lightning_module is not None
        trainer = self.lightning_module.trainer
        self.config |= {
            "train_micro_batch_size_per_gpu": 1,  # for the engine's log alone
            "gradient_accumulation_steps": 1,
            "gradient_clipping": trainer.gradient_clip_val or 0.0,
        }
        if trainer.precision == "bf16-mixed":
            self.config["torch_autocast"] = {
                "enabled": True, "dtype": "bfloat16",
                "lower_precision_safe_modules": [],  # whose gradients would be exchanged in bfloat16
            }  # fmt: skip

    def init_deepspeed(self) -> None:
        """The engine, which becomes `model`; only training needs it."""
        assert self.lightning_module is not None and self.model is not None
        if self.lightning_module.trainer.state.fn != TrainerFn.FITTING:
            return self.model_to_device()
        import deepspeed

        (optimizer,), self.lr_scheduler_configs = _init_optimizers_and_lr_schedulers(self.lightning_module)
        if not all(group["params"] for group in optimizer.param_groups):
            raise _refused("all matrices, or all else, frozen")  # the engine would leave that group out
        self.model, zero, _, _ = deepspeed.initialize(
            args=Namespace(device_rank=self.root_device.index or 0),
            config=self.config, model=self.model, optimizer=optimizer, dist_init_required=False,
        )  # fmt: skip
        self.optimizers = [zero]

    @property
    def handles_gradient_accumulation(self) -> bool:
        return False

    @property
    def gradients(self) -> EngineGradients:
        """See Learner.gradients."""
        return EngineGradients(self.optimizers[0])

    def backward(self, closure_loss: Tensor, optimizer: Optimizer | None, *more: Any, **named: Any) -> Tensor:
        """A window's gradients stay with their weights; behind its last batch ranks exchange them, weight by weight.
        The engine's second stage would do so as they come, and in what order they do depends on a rank's batch."""
        assert self.lightning_module is not None
        if not self.deepspeed_engine.inside_no_sync_ctxt:
            self._window.enter_context(self.deepspeed_engine.coalesce_grad_reduction())
        loss = super().backward(closure_loss, optimizer, *more, **named)
        if not self.lightning_module.trainer.fit_loop._should_accumulate():
            self._window.close()
        return loss

    @contextmanager
    def block_backward_sync(self) -> Generator[None]:
        """Within a window; `backward` sees to it."""
        yield

    def lightning_module_state_dict(self) -> dict[str, Any]:
        weights = Strategy.lightning_module_state_dict(self)
        return self.on_first_rank({name: weight.cpu() for name, weight in weights.items()})

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Numbered as the optimiser of one process numbers its weights; on rank 0 alone, but all ranks must ask."""
        state: dict[int, dict[str, Any]] = {}
        groups = []
        for numbers, weights, group, moments in _groups(getattr(optimizer, "_optimizer", optimizer)):
            groups.append({**group, "params": list(numbers)})
            for name, value in moments.items():
                found = self._whole(value, weights) if value.dim() else (value.clone() for _ in weights)
                for number, each in zip(numbers, found, strict=True):
                    if self.is_global_zero:
                        state.setdefault(number, {})[name] = each.cpu()
        return self.on_first_rank({"state": state, "param_groups": groups})

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        zero: Any = self.optimizers[0]
        given = checkpoint["optimizer_states"][0]
        state: dict[int, dict[str, Any]] = {}
        for n, (numbers, _, group, _) in enumerate(_groups(zero)):
            moments = [given["state"][number] for number in numbers if number in given["state"]]
            for name in moments[0] if moments else ():
                values = [of[name] for of in moments]
                own = self._part(values, group["params"][0].numel()) if values[0].dim() else values[0]
                state.setdefault(n, {})[name] = own
        groups = [{**group, "params": [n]} for n, group in enumerate(given["param_groups"])]
        zero.optimizer.load_state_dict({"state": state, "param_groups": groups})

    def _whole(self, part: Tensor, weights: Sequence[Tensor]) -> Iterator[Tensor]:
        """Of what lies end to end, as the weights do, each rank has a part as long as the others': gathered, in the
        shapes of the weights, one at a time."""
        begin = 0
        for weight in weights:
            found = torch.zeros(weight.numel(), dtype=part.dtype, device=part.device)
            first = self.global_rank * len(part) - begin  # where this rank's part begins, seen from the weight
            own = found[max(0, first) : max(0, first + len(part))]
            own.copy_(part[max(0, -first) :][: len(own)])
            torch.distributed.all_reduce(found)
            begin += weight.numel()
            yield found.view_as(weight)

    def _part(self, values: Sequence[Tensor], length: int) -> Tensor:
        """This rank's part of them, laid end to end; behind the last one there are zeros."""
        line = torch.cat([value.flatten() for value in values])
        own = line[self.global_rank * length :][:length]
        return torch.nn.functional.pad(own, (0, length - len(own)))

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        Strategy.load_model_state_dict(self, checkpoint, strict)
        engines: list[Any] = self.optimizers
        for zero in engines:
            zero.refresh_fp32_params()  # the engine updates a copy of its part


class Autocast(DeepSpeedPrecision):
    """As `ddp` has it: weights in float32, and what torch deems safe computed in bfloat16."""

    def __init__(self, precision: Any, device: torch.device) -> None:
        super().__init__(precision)
        self._device = device

    def convert_input(self, data: Any) -> Any:
        return data

    @contextmanager
    def forward_context(self) -> Generator[None]:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.precision == "bf16-mixed"):
            yield

    def backward(self, tensor: Tensor, model: L.LightningModule, optimizer: Any, *more: Any, **named: Any) -> None:
        model.backward(tensor, *more, **named)  # the engine listens to it


class EngineGradients(Gradients):
    """Once they are exchanged each rank has a part of them, with the engine's optimiser."""

    def __init__(self, zero: Any) -> None:
        super().__init__()
        self._zero = zero

    def norm(self) -> Tensor:
        return self._zero.scaled_global_norm()

    def unsound(self) -> Tensor | None:
        for group, parts in self._zero.averaged_gradients.items():
            for weight, part in zip(self._zero.params_in_partition[group], parts, strict=False):  # and padding
                if not bool(part.isfinite().all()):
                    return weight
        return None

    def clip(self, most: float) -> None:
        """The engine does so itself."""

    def drop(self) -> None:
        """The engine leaves out an update whose norm is not finite, on all ranks."""
        for parts in self._zero.averaged_gradients.values():
            for part in parts:
                part.fill_(float("nan"))


def _groups(zero: Any) -> Iterator[tuple[range, list[Tensor], dict[str, Any], dict[str, Tensor]]]:
    """For each group of the engine's optimiser: the numbers of its weights, these, the group, whose one weight is this
    rank's part of them, and that one's moments."""
    begin = 0
    for weights, group in zip(zero.bit16_groups, zero.optimizer.param_groups, strict=True):
        numbers = range(begin, begin + len(weights))
        yield numbers, weights, group, dict(zero.optimizer.state.get(group["params"][0], {}))
        begin = numbers.stop


def refuse(trainer: L.Trainer) -> None:
    """ConfigError for what the engine does not do, or not as it is done elsewhere."""
    told = {
        f"precision={trainer.precision}": trainer.precision not in PRECISIONS,
        "gradient_clip_algorithm=value": trainer.gradient_clip_algorithm == "value",
    }
    for what, found in told.items():
        if found:
            raise _refused(what)


def _refused(what: str) -> ConfigError:
    return ConfigError(f"strategy=deepspeed cannot be with {what}. Leave it out, or choose strategy=ddp.")


def require_ours(strategy: Any) -> None:
    """ConfigError for what only Lightning's own strategy of DeepSpeed does. strategy: its name will do, for where the
    package is not even there."""
    theirs = isinstance(strategy, DeepSpeedStrategy) and not isinstance(strategy, DeepSpeed)
    if theirs or (str(strategy).startswith("deepspeed") and strategy not in STAGES):
        name = strategy if isinstance(strategy, str) else type(strategy).__name__
        raise ConfigError(
            f"strategy={name} cannot be: expected auto, ddp, sharded, {' or '.join(sorted(STAGES)[1:])}. Choose "
            "strategy=sharded, which keeps in parts what DeepSpeed's third stage does."
        )


for name, stage in STAGES.items():
    StrategyRegistry.register(name, DeepSpeed, DeepSpeed.__doc__ or "", override=True, stage=stage)
