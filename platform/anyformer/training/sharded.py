"""Weights, gradients and moments in parts over the ranks of a run (ZeRO stage 3, arXiv:1910.02054 §5; FSDP2 of torch).

Each block is gathered when it is needed and let go again; what lies outside blocks (embedders, heads, the last norm)
is gathered for a whole step. A checkpoint is the same directory that one process writes and reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import lightning as L
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch import Tensor
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from anyformer.errors import ConfigError
from anyformer.training.gathered import Gathered

if TYPE_CHECKING:
    from anyformer.training.learner import Learner

PRECISIONS = ("32-true", "bf16-mixed")  # a scaler of float16 would have to agree on what it drops
STEPS = ("training_step", "validation_step", "test_step", "predict_step")  # in which weights are read


class Sharded(Gathered, ModelParallelStrategy):
    """`--trainer.strategy=sharded`: every rank keeps a part of each weight, of its gradient and of its moments."""

    def __init__(self, **more: Any) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False, **more)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Whole weights, on rank 0 alone; all ranks must ask."""
        assert self.model is not None
        return self.on_first_rank({name: whole(value) for name, value in self.model.state_dict().items()})

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Numbered as the optimiser of one process numbers its weights."""
        state = getattr(optimizer, "_optimizer", optimizer).state_dict()
        moments = {n: {name: whole(value) for name, value in of.items()} for n, of in state["state"].items()}
        return self.on_first_rank({**state, "state": moments})

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.model is not None
        ours, given = self.model.state_dict(), checkpoint["state_dict"]
        self.model.load_state_dict(
            {name: part(value, ours[name]) if name in ours else value for name, value in given.items()}, strict=strict
        )

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            owners = dict(enumerate(p for group in optimizer.param_groups for p in group["params"]))
            moments = {n: {name: part(v, owners[n]) for name, v in of.items()} for n, of in state["state"].items()}
            optimizer.load_state_dict({**state, "state": moments})


def whole(value: Any) -> Any:
    """A tensor that ranks keep in parts, gathered; anything else as it is."""
    return value.full_tensor().cpu() if isinstance(value, DTensor) else value


def part(value: Any, like: Tensor) -> Any:
    """This rank's part of a tensor that all ranks have, where `like` is kept in parts and has its shape."""
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    value = value.to(like.device, like.dtype)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def shard(learner: Learner, trainer: L.Trainer) -> None:
    """Keep a learner's weights in parts, if its trainer's strategy says so; ConfigError for what cannot be so yet."""
    if not isinstance(trainer.strategy, Sharded) or isinstance(learner, FSDPModule):
        return
    _refuse(learner, trainer)
    mesh = trainer.strategy.device_mesh["data_parallel"]
    learner.model.to(trainer.strategy.root_device)
    stacks = [stack for stack in (learner.model.backbone, learner.model.encoder) if stack is not None]
    for stack in stacks:
        for block in getattr(stack, "blocks", ()):
            fully_shard(block, mesh=mesh)
    fully_shard(learner, mesh=mesh)
    for step in STEPS:
        register_fsdp_forward_method(learner, step)


def _refuse(learner: Learner, trainer: L.Trainer) -> None:
    """Each rank must gather the same weights in the same order, or all wait for ever."""
    told = {
        f"precision={trainer.precision}": trainer.precision not in PRECISIONS,
        "lora": learner.adapters is not None,
        "several tasks, one of which trains a model beside this one": bool(len(learner.beside))
        and len(learner.mixture.tasks) > 1,
    }
    for what, found in told.items():
        if found:
            raise ConfigError(f"strategy=sharded cannot be with {what}. Leave it out, or choose strategy=ddp.")


StrategyRegistry.register("sharded", Sharded, description=Sharded.__doc__ or "")
