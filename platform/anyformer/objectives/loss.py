"""Losses that are read from the one shared pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from anyformer.contracts import Loss, Objective
from anyformer.model import ForwardPass
from anyformer.tokens import Stream


class FromHidden(Objective):
    """Objectives whose loss is read from the one shared pass: cross-entropy of discrete targets, squared error
    (per row, averaged over features) of continuous ones."""

    def loss(self, forward: ForwardPass, targets: Mapping[str, Stream]) -> Loss:
        sums = {name: error(forward.read(name, target), target.values) for name, target in targets.items()}
        return Loss(torch.stack(list(sums.values())).sum(), count(targets), sums if len(sums) > 1 else {})


def count(targets: Mapping[str, Stream]) -> float:
    """Predicted values."""
    return float(sum(len(target.values) for target in targets.values()))


def error(said: Tensor, wanted: Tensor) -> Tensor:
    """Summed over what is wanted; computed in float32, or wider where the answer is."""
    said = said.to(torch.promote_types(said.dtype, torch.float32))
    if wanted.is_floating_point():
        return F.mse_loss(said, wanted.to(said.dtype), reduction="none").flatten(1).mean(1).sum()
    return F.cross_entropy(said, wanted, reduction="sum")


def sum_of_means(sums: Mapping[str, Tensor], targets: Mapping[str, Stream], weights: Mapping[str, float]) -> Loss:
    """`Σ weight · mean of that stream`, so that one label counts as much as a whole text."""
    first, *others = [
        Loss(weights.get(name, 1.0) * total, float(len(targets[name].values)), over=name)
        for name, total in sums.items()
    ]
    return replace(first, plus=tuple(others))
