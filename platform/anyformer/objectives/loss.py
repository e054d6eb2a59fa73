"""Losses that are read from the one shared pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anyformer.contracts import Loss, Objective
from anyformer.model import ForwardPass
from anyformer.tokens import Stream


class FromHidden(Objective):
    """Objectives whose loss is read from the one shared pass: cross-entropy of discrete targets and of places, squared
    error (per row, averaged over features) of continuous ones."""

    def loss(self, forward: ForwardPass, targets: Mapping[str, Stream]) -> Loss:
        sums = {name: error(self.read(forward, name, target), target.values) for name, target in targets.items()}
        return Loss(torch.stack(list(sums.values())).sum(), count(targets), sums if len(sums) > 1 else {})


def count(targets: Mapping[str, Stream]) -> float:
    """Predicted values."""
    return float(sum(len(target.values) for target in targets.values()))


def error(said: Tensor, wanted: Tensor) -> Tensor:
    """Summed over what is wanted; computed in float32, or wider where the answer is."""
    said = said.to(torch.promote_types(said.dtype, torch.float32))
    if wanted.is_floating_point():
        return F.mse_loss(said, wanted.to(said.dtype), reduction="none").flatten(1).mean(1).sum()
    return cross_entropy(said, wanted)[0]


def cross_entropy(said: Tensor, wanted: Tensor, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """(1 - ε) · nll + ε · the mean over the vocabulary, summed over rows (arXiv:1512.00567 §7; arXiv:1706.03762 §5.4);
    and the nll by itself, in nats, without a gradient.

    said: float[rows, vocabulary], in float32 or wider. wanted: int64[rows].
    """
    return _CrossEntropy.apply(said.to(torch.promote_types(said.dtype, torch.float32)), wanted, smoothing)


class _CrossEntropy(torch.autograd.Function):
    """The gradient is the softmax less what was wanted: one array of the logits' size is kept and becomes the gradient
    in place, where torch's own writes several."""

    @staticmethod
    def forward(ctx: Any, said: Tensor, wanted: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
        highest = said.amax(-1, keepdim=True)
        weights = (said - highest).exp_()
        sums = weights.sum(-1, keepdim=True)
        log_sum = sums.log() + highest
        nats = (log_sum - said.gather(-1, wanted[:, None])).sum()
        even = (log_sum[:, 0] - said.mean(-1)).sum() if smoothing else torch.zeros_like(nats)
        ctx.save_for_backward(wanted)
        ctx.weights, ctx.sums, ctx.smoothing = weights, sums, smoothing
        ctx.mark_non_differentiable(nats)
        return (1 - smoothing) * nats + smoothing * even, nats

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        if ctx.weights is None:
            raise RuntimeError("The gradient of this loss was computed before, and its memory is in use elsewhere.")
        (wanted,) = ctx.saved_tensors
        gradient, ctx.weights = ctx.weights.mul_(grads[0] / ctx.sums), None
        if ctx.smoothing:
            gradient.sub_(grads[0] * ctx.smoothing / gradient.shape[-1])
        rows = torch.arange(len(wanted), device=wanted.device)
        gradient[rows, wanted] -= grads[0] * (1 - ctx.smoothing)
        return gradient, None, None


def sum_of_means(sums: Mapping[str, Tensor], targets: Mapping[str, Stream], weights: Mapping[str, float]) -> Loss:
    """`Σ weight · mean of that stream`, so that one label counts as much as a whole text."""
    first, *others = [
        Loss(weights.get(name, 1.0) * total, float(len(targets[name].values)), over=name)
        for name, total in sums.items()
    ]
    return replace(first, plus=tuple(others))
