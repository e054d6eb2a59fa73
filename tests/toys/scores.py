"""What a task's scores come to, for tests of tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence

from anyformer.contracts import Score, Split, Task
from anyformer.evaluation.statistics import weighted_mean
from anyformer.model import Model


def scored(task: Task, model: Model, split: Split = "test", limit: int | None = None) -> dict[str, float]:
    """Each metric over the split's first samples; each of them has one finite score of each."""
    samples = task.examples(split)[:limit]
    scores = list(task.score(model, samples))
    assert sorted((s.id, s.metric) for s in scores) == sorted((s.id, m.name) for s in samples for m in task.metrics)
    assert all(math.isfinite(score.value) and score.weight >= 0 for score in scores)
    return {metric.name: mean(scores, metric.name) for metric in task.metrics}


def mean(scores: Sequence[Score], metric: str) -> float:
    """As the report averages them."""
    kept = [score for score in scores if score.metric == metric]
    return weighted_mean([score.value for score in kept], [score.weight for score in kept])
