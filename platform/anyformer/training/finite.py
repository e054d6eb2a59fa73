"""What a run does about a loss or a gradient that is NaN or infinite: stop, skip the update, or roll back.

It is found before the update is applied, and all ranks agree on it, so none goes on alone. What was not applied is
written into the checkpoint; whether a number is finite follows from the step, so a resumed run drops the same updates.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from anyformer.batch import Batch
from anyformer.contracts import Loss
from anyformer.errors import ConfigError, NonFiniteError, unknown
from anyformer.training.gathered import Gathered

if TYPE_CHECKING:
    from anyformer.training.learner import Learner

SHOWN = 8  # samples that a message names


@dataclass(frozen=True)
class Finding:
    """What is not finite, in which samples, and on which rank (in words, where there are several)."""

    what: str
    samples: str
    of_gradient: bool = False
    where: str = ""


class Stop:
    """NonFiniteError ends the run, on every rank. most: how many updates may be dropped before."""

    def __init__(self, most: int = 0) -> None:
        if most < 0:
            raise ConfigError(f"not_finite has {most=}; expected 0 or more updates.")
        self.most = most
        self.dropped: list[str] = []
        self._found: Finding | None = None

    def begin(self, learner: Learner) -> None:
        """Before the first micro-batch of an update."""
        self._found = None

    def sound(self, batch: Batch, loss: Tensor, losses: Mapping[str, Loss]) -> dict[str, Loss]:
        """A micro-batch's losses; none where one is not finite, which is remembered."""
        if math.isfinite(loss.item()):  # of one number quicker than torch.isfinite
            return dict(losses)
        bad = [name for name, of in losses.items() if not bool(torch.isfinite(of.mean()))] or list(losses)
        self._found = self._found or Finding(f"The loss of {', '.join(bad)}", _named([batch], bad))
        return {}

    def agrees(self, learner: Learner, optimizer: Optimizer, norm: Tensor, window: Sequence[Batch]) -> bool:
        """Whether the update may be applied; if not, its gradients are gone, on all ranks."""
        scaled = getattr(learner.trainer.precision_plugin, "scaler", None) is not None
        if self._found is None and not scaled and not math.isfinite(norm.item()):  # fp16's scaler drops these itself
            self._found = _of_gradient(learner, window)
        found = self._everywhere(learner)
        if found is None:
            return True
        told = (
            f"{found.what} is not finite{found.where} at step {learner.global_step}; the update was not applied. "
            f"Samples: {found.samples}."
        )
        self.dropped.append(told)
        if len(self.dropped) > self.most:
            raise NonFiniteError(f"{told}{self._exhausted()} Lower lr, or mend them.")
        self.mend(learner, optimizer)
        if learner.global_rank == 0:
            warnings.warn(f"{told} {self._mended()}: {len(self.dropped)} of at most {self.most}.", stacklevel=2)
        if not scaled:
            learner.gradients.drop()
        return False

    def mend(self, learner: Learner, optimizer: Optimizer) -> None:
        """What is to be done beside leaving the update out."""

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"dropped": list(self.dropped)}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.dropped = [str(told) for told in state.get("dropped", [])]

    def _everywhere(self, learner: Learner) -> Finding | None:
        """What was found on any rank; the same on all of them."""
        here, ranks = self._found, learner.trainer.world_size
        if ranks == 1 or not learner.trainer.strategy.reduce_boolean_decision(here is not None, all=False):
            return here
        told: list[Finding | None] = [None] * ranks
        torch.distributed.all_gather_object(told, here)
        found = [replace(one, where=f" on rank {rank}") for rank, one in enumerate(told) if one is not None]
        losses = [one for one in found if not one.of_gradient]
        if losses:  # one rank's loss spoils the gradient of them all
            return losses[0]
        samples = "; ".join(f"rank {rank}: {one.samples}" for rank, one in enumerate(told) if one is not None)
        return replace(found[0], samples=samples, where="")

    def _exhausted(self) -> str:
        return f" not_finite allows most={self.most} of them." if self.most else ""

    def _mended(self) -> str:
        return "Skipped"


class Skip(Stop):
    """The update is left out and the next batch is taken. most: how often, in the whole run.

    NonFiniteError after that, and where the forward pass has spoilt a buffer, such as a running mean.
    """

    def __init__(self, most: int = 10) -> None:
        super().__init__(most)

    def mend(self, learner: Learner, optimizer: Optimizer) -> None:
        for name, buffer in learner.named_buffers():
            if buffer.is_floating_point() and bool(buffer.isnan().any()):
                raise NonFiniteError(
                    f"{self.dropped[-1]} Its forward pass spoilt {name!r}, which skipping cannot mend; "
                    "choose not_finite={'type': 'roll_back'}."
                )


class RollBack(Stop):
    """Weights, buffers and the optimiser's state become again what they were at the last step that `every` divides; the
    batches since then are passed over, and the schedule goes on (arXiv:2204.02311 §5.1). most: how often, in the run.

    A checkpoint holds that state too, so it is twice as large.
    """

    def __init__(self, most: int = 3, every: int = 100) -> None:
        super().__init__(most)
        if every < 1:
            raise ConfigError(f"not_finite has {every=}; expected 1 or more steps.")
        self.every = every
        self._kept: dict[str, Any] = {}

    def begin(self, learner: Learner) -> None:
        super().begin(learner)
        step, trainer = learner.global_step, learner.trainer
        if not self._kept or (step % self.every == 0 and self._kept["step"] != step):
            weights = trainer.strategy.lightning_module_state_dict()
            moments = trainer.strategy.optimizer_state(trainer.optimizers[0])
            self._kept = deepcopy({"step": step, "weights": weights, "optimizer": moments})

    def mend(self, learner: Learner, optimizer: Optimizer) -> None:
        """The rate is the schedule's again before the next update."""
        strategy = learner.trainer.strategy
        kept = strategy.everywhere(self._kept) if isinstance(strategy, Gathered) else self._kept
        strategy.load_model_state_dict({"state_dict": kept["weights"]})
        strategy.load_optimizer_state_dict({"optimizer_states": [deepcopy(kept["optimizer"])]})

    def state(self) -> dict[str, Any]:
        return super().state() | {"kept": self._kept}

    def restore(self, state: Mapping[str, Any]) -> None:
        super().restore(state)
        self._kept = dict(state.get("kept", {}))

    def _mended(self) -> str:
        return f"Rolled back to step {self._kept['step']}"


POLICIES = {"stop": Stop, "skip": Skip, "roll_back": RollBack}


def make_policy(config: Mapping[str, Any]) -> Stop:
    """A policy from data: `{"type": "skip", "most": 10}`."""
    settings = dict(config)
    kind = settings.pop("type", "stop")
    if kind not in POLICIES:
        raise unknown("type of not_finite", str(kind), POLICIES)
    accepted = [] if kind == "stop" else list(inspect.signature(POLICIES[kind]).parameters)
    for key, value in settings.items():
        if key not in accepted:
            raise unknown(f"setting of not_finite {kind!r}:", key, accepted)
        if type(value) is not int:
            raise ConfigError(f"not_finite has {key}={value!r}; expected a whole number.")
    return POLICIES[kind](**settings)


def spoilt(batch: Batch) -> list[int]:
    """Which sequences of a batch have a value that is not finite."""
    found: set[int] = set()
    for stream in batch.streams.values():
        if not stream.values.is_floating_point() or bool(stream.values.isfinite().all()):
            continue
        rows = (~stream.values.isfinite()).flatten(1).any(1).nonzero().flatten().cpu()
        values, slots = stream.items.cpu().cumsum(0).unbind(1)
        items = torch.searchsorted(values, rows, right=True)
        firsts = torch.cat([slots.new_zeros(1), slots[:-1]])[items]
        starts = batch.mask.cu_queries.cpu()
        found |= set((torch.searchsorted(starts, stream.slots.cpu()[firsts], right=True) - 1).tolist())
    return sorted(found | set(spoilt(batch.source) if batch.source is not None else []))


def _of_gradient(learner: Learner, window: Sequence[Batch]) -> Finding:
    weight = learner.gradients.unsound()
    bad = next((name for name, parameter in learner.named_parameters() if parameter is weight), "")
    tasks = list(dict.fromkeys(task for batch in window for task in batch.targets))
    what = f"The gradient of {bad or 'the model'} from {', '.join(tasks)}"
    return Finding(what, _named(window, tasks), of_gradient=True)


def _named(batches: Sequence[Batch], tasks: Sequence[str]) -> str:
    """Samples by task and key: those whose own values are not finite, or else all that the tasks had."""
    owners = [(batch, range(len(batch)), [i for i in spoilt(batch) if i < len(batch)]) for batch in batches]
    exact = any(found for _, _, found in owners)
    names = [
        f"{batch.tasks[i]} {batch.keys[i]}"
        for batch, everybody, found in owners
        for i in (found if exact else everybody)
        if exact or batch.tasks[i] in tasks
    ]
    names = list(dict.fromkeys(names))
    return ", ".join(names[:SHOWN]) + (" …" if len(names) > SHOWN else "")
