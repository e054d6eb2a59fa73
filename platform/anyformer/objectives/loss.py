"""Losses that are read from the one shared pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anyformer.contracts import Loss, Objective
from anyformer.model import ForwardPass
from anyformer.model.sampling import wide
from anyformer.tokens import Stream

PART = 8_000_000
"""Logits that are held at a time: enough rows to be worth a product of matrices, and no more memory than 32 MB, from
which on the C library asks the system for fresh pages each time: to have them zeroed cost a tenth of a step. But a part
has no fewer rows than a hidden state is wide, because each part reads and writes the gradient of the head's weights: as
much as so many rows of logits."""


class FromHidden(Objective):
    """Objectives whose loss is read from the one shared pass: cross-entropy of discrete targets and of places, squared
    error (per row, averaged over features) of continuous ones."""

    def loss(self, forward: ForwardPass, targets: Mapping[str, Stream]) -> Loss:
        sums = {name: self._error(forward, name, target) for name, target in targets.items()}
        return Loss(torch.stack(list(sums.values())).sum(), count(targets), sums if len(sums) > 1 else {})

    def _error(self, forward: ForwardPass, name: str, target: Stream) -> Tensor:
        """What an objective reads in its own way is read whole; what a head says of single slots, in parts."""
        own = type(self).read is not Objective.read
        if own or target.values.is_floating_point() or len(target.values) != len(target.slots):
            return error(self.read(forward, name, target), target.values)
        return read_and_compare(forward, name, target)[0]


def count(targets: Mapping[str, Stream]) -> float:
    """Predicted values."""
    return float(sum(len(target.values) for target in targets.values()))


def error(said: Tensor, wanted: Tensor) -> Tensor:
    """Summed over what is wanted; computed in float32, or wider where the answer is."""
    if wanted.is_floating_point():
        said = wide(said)
        return F.mse_loss(said, wanted.to(said.dtype), reduction="none").flatten(1).mean(1).sum()
    return cross_entropy(said, wanted)[0]


def read_and_compare(forward: ForwardPass, name: str, target: Stream, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """`cross_entropy` of what a head says at the slots of a discrete target, in parts: its logits are never all there,
    so the memory is that of a part times the vocabulary."""
    rows, width = forward.hidden[target.slots], forward.model.specs[name].width
    size = max(PART // width, rows.shape[-1])
    if len(rows) <= size:
        return cross_entropy(forward.model.read(name, rows), target.values, smoothing)
    head = partial(forward.model.read, name)
    weights = [weight for weight in forward.model.head(name).parameters() if weight.requires_grad]
    if torch.is_grad_enabled() and (rows.requires_grad or weights):
        return _InParts.apply(head, size, smoothing, target.values, rows, *weights)
    parts = zip(rows.split(size), target.values.split(size), strict=True)
    found = [torch.stack(cross_entropy(head(some), wanted, smoothing)) for some, wanted in parts]
    return tuple(torch.stack(found).sum(0))


class _InParts(torch.autograd.Function):
    """Each part's gradient is computed as soon as its loss is, and only what comes of it is kept."""

    @staticmethod
    def forward(ctx: Any, head: Callable, size: int, smoothing: float, wanted: Tensor, rows: Tensor, *weights: Tensor):
        gradient, of_weights, found = torch.empty_like(rows), [], []
        for some, values, place in zip(rows.split(size), wanted.split(size), gradient.split(size), strict=True):
            leaf = some.detach().requires_grad_()
            with torch.enable_grad():
                said = head(leaf.view_as(leaf))  # hooks of module trackers, as FLOP counters use, bear no leaf here
            slope = torch.empty_like(said)
            found.append(_compare(said.detach(), values, smoothing, slope))
            own, *others = torch.autograd.grad(said, (leaf, *weights), slope)
            place.copy_(own)
            sums = zip(of_weights or others, others, strict=True)
            of_weights = [total.add_(other) if of_weights else other for total, other in sums]
        ctx.gradients = [gradient, *of_weights]
        summed, nats = torch.stack(found).sum(0)
        ctx.mark_non_differentiable(nats)
        return summed, nats

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("The gradient of this loss was computed before, and its memory is in use elsewhere.")
        found, ctx.gradients = [gradient.mul_(grads[0].to(gradient.dtype)) for gradient in ctx.gradients], None
        return None, None, None, None, *found


def cross_entropy(said: Tensor, wanted: Tensor, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """(1 - ε) · nll + ε · the mean over the vocabulary, summed over rows (arXiv:1512.00567 §7; arXiv:1706.03762 §5.4);
    and the nll by itself, in nats, without a gradient.

    said: float[rows, vocabulary]. wanted: int64[rows]. The sums are computed in float32 or wider.
    """
    return _CrossEntropy.apply(said, wanted, smoothing)


class _CrossEntropy(torch.autograd.Function):
    """The gradient is computed with the loss: one array of the logits' size is kept for it."""

    @staticmethod
    def forward(ctx: Any, said: Tensor, wanted: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
        ctx.slope = torch.empty_like(said)
        summed, nats = _compare(said, wanted, smoothing, ctx.slope)
        ctx.mark_non_differentiable(nats)
        return summed, nats

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        if ctx.slope is None:
            raise RuntimeError("The gradient of this loss was computed before, and its memory is in use elsewhere.")
        gradient, ctx.slope = ctx.slope.mul_(grads[0]), None
        return gradient, None, None


NEAR = 2**18
"""Logits that are compared at a time on a CPU: few enough that what is computed of them stays in its cache."""


def _compare(said: Tensor, wanted: Tensor, smoothing: float, slope: Tensor) -> Tensor:
    """The two sums of `cross_entropy`; the gradient of the first, the softmax less what was wanted, goes to `slope`."""
    rows = max(1, NEAR // said.shape[-1] if said.device.type == "cpu" else len(said))
    parts = zip(said.split(rows), wanted.split(rows), slope.split(rows), strict=True)
    return torch.stack([_compare_rows(*part, smoothing) for part in parts]).sum(0)


def _compare_rows(said: Tensor, wanted: Tensor, slope: Tensor, smoothing: float) -> Tensor:
    said = wide(said)
    rows, even = torch.arange(len(said), device=said.device), smoothing / said.shape[-1]
    likely = said.softmax(-1)
    # where a row is highest, its softmax is no underflow: there log Σ exp is the logit less the log of it
    log_sum = said.amax(-1) - likely.amax(-1).log()
    nats = log_sum - said[rows, wanted]
    summed = nats if not smoothing else (1 - smoothing) * nats + smoothing * (log_sum - said.mean(-1))
    slope.copy_(likely - even if smoothing else likely)
    slope[rows, wanted] = (torch.expm1(-nats) + smoothing - even).to(slope.dtype)
    return torch.stack((summed.sum(), nats.sum()))


def sum_of_means(sums: Mapping[str, Tensor], targets: Mapping[str, Stream], weights: Mapping[str, float]) -> Loss:
    """`Σ weight · mean of that stream`, so that one label counts as much as a whole text."""
    first, *others = [
        Loss(weights.get(name, 1.0) * total, float(len(targets[name].values)), over=name)
        for name, total in sums.items()
    ]
    return replace(first, plus=tuple(others))
