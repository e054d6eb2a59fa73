"""Running sums of losses between two reports, so that a step nobody looks at costs nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from torch import Tensor

from anyformer.batch import Batch
from anyformer.contracts import Loss


class Tally:
    """Per task: summed loss, predicted values, tokens."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, float] = {}
        self.task_tokens: Counter[str] = Counter()
        self.tokens = 0

    def add(self, batch: Batch, losses: Mapping[str, Loss]) -> None:
        self.tokens += batch.tokens
        for task, length in zip(batch.tasks, batch.mask.queries, strict=False):  # padding belongs to no task
            self.task_tokens[task] += length
        for name, loss in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + loss.sum.detach()
            self.counts[name] = self.counts.get(name, 0.0) + loss.count

    def means(self) -> dict[str, float]:
        """Mean loss of each task seen."""
        return {name: float(self.sums[name]) / self.counts[name] for name in sorted(self.sums)}

    def share(self, task: str) -> float:
        """The task's part of all tokens seen."""
        return self.task_tokens[task] / max(1, self.tokens)
