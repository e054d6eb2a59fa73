"""Running sums of losses between two reports, so that a step nobody looks at costs nothing."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping

from torch import Tensor

from anyformer.batch import Batch
from anyformer.contracts import Loss

Term = tuple[str, str | None]
"""A task, and what was counted there (`Loss.over`)."""


def task_means(sums: Mapping[Term, float], counts: Mapping[Term, float]) -> dict[str, float]:
    """Each task's `Σ sum / count`, by name."""
    means: dict[str, float] = {}
    for key in sorted(sums, key=lambda key: key[0]):
        if counts[key]:
            means[key[0]] = means.get(key[0], 0.0) + sums[key] / counts[key]
    return means


class Tally:
    """Per task: summed losses and predicted values, by what was counted (`Loss.over`), and tokens on both axes."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.sums: dict[Term, Tensor] = {}
        self.counts: dict[Term, float] = {}
        self.task_tokens: Counter[str] = Counter()
        self.tokens = 0
        self.since = time.monotonic()

    def add(self, batch: Batch, losses: Mapping[str, Loss]) -> None:
        for axis in (batch, *([] if batch.source is None else [batch.source])):
            self.tokens += axis.tokens
            for task, length in zip(batch.tasks, axis.mask.queries, strict=False):  # padding belongs to no task
                self.task_tokens[task] += length
        for name, loss in losses.items():
            for term in loss.terms:
                key = (name, term.over)
                if key in self.sums:
                    self.sums[key] += term.sum.detach()  # in place
                    self.counts[key] += term.count
                else:
                    self.sums[key], self.counts[key] = term.sum.detach().clone(), term.count

    def means(self) -> dict[str, float]:
        """Mean loss of each task seen."""
        return task_means({key: float(total) for key, total in self.sums.items()}, self.counts)

    def share(self, task: str) -> float:
        """The task's part of all tokens seen."""
        return self.task_tokens[task] / max(1, self.tokens)

    def speed(self, task: str) -> float:
        """The task's tokens per second since the last report."""
        return self.task_tokens[task] / max(time.monotonic() - self.since, 1e-9)
