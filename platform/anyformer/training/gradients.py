"""What an update is made of, where a strategy keeps it: with the weights, or in an engine of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


class Gradients:
    """Those that weights hold themselves, whole or in parts. A strategy that keeps them elsewhere has its own, as its
    attribute `gradients`."""

    def __init__(self, weights: Sequence[nn.Parameter] = ()) -> None:
        self.weights = weights
        self._norm = torch.zeros(())

    def complete(self) -> None:
        """What no batch of the step has used gets a zero, as it does with several ranks: AdamW would skip it, and the
        number of ranks would change what is learned."""
        for weight in self.weights:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)

    def norm(self) -> Tensor:
        """Over all ranks, a number: NaN or infinite where any of them is."""
        self._norm = torch.nn.utils.get_total_norm([w.grad for w in self.weights if w.grad is not None])
        return self._norm.full_tensor() if isinstance(self._norm, DTensor) else self._norm

    def unsound(self) -> Tensor | None:
        """A weight whose gradient is not finite, as far as this rank has it: no other rank is asked."""
        for weight in self.weights:
            own = weight.grad.to_local() if isinstance(weight.grad, DTensor) else weight.grad
            if own is not None and not bool(own.isfinite().all()):
                return weight
        return None

    def clip(self, most: float) -> None:
        """Scale them to that norm; `norm` was asked before, and is larger."""
        torch.nn.utils.clip_grads_with_norm_(self.weights, most, self._norm)

    def drop(self) -> None:
        """Leave the update out: AdamW passes over what has no gradient."""
        for weight in self.weights:
            weight.grad = None
