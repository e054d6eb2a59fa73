"""Two reports side by side, on the samples that both have scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anyformer.evaluation.report import Report, SampleScore
from anyformer.evaluation.statistics import Interval, key, paired_difference, weighted_mean
from anyformer.evaluation.text import ABSENT, number, plain_table, span

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Comparison:
    """One task and metric in two reports.

    first, second and difference (second - first) are over the `n` samples that both reports have, so they may
    differ from the reports' own values; p_value is not adjusted for the number of rows.
    """

    task: str
    metric: str
    higher_is_better: bool
    n: int
    clusters: int = 0
    first: float | None = None
    second: float | None = None
    difference: float | None = None
    interval: Interval | None = None
    p_value: float | None = None
    note: str | None = None

    @property
    def verdict(self) -> str | None:
        """How the second stands to the first: "better", "worse", or "even" when p is not below 0.05."""
        if self.difference is None or self.p_value is None:
            return None
        if self.p_value >= SIGNIFICANT or self.difference == 0:
            return "even"
        return "better" if (self.difference > 0) == self.higher_is_better else "worse"


def compare(first: Report, second: Report, seed: int = 0) -> list[Comparison]:
    """A paired test for every task and metric of either report, in the first one's order."""
    directions = {
        (result.task, result.metric): result.higher_is_better for report in (second, first) for result in report.results
    }
    order = dict.fromkeys((row.task, row.metric) for report in (first, second) for row in report.results)
    return [_compared(task, metric, directions[task, metric], first, second, seed) for task, metric in order]


def comparison_table(rows: Sequence[Comparison], width: int = 110) -> str:
    """The rows as plain text for a terminal."""
    header = ("task", "metric", "first", "second", "difference", "95 % interval", "p", "n", "second is")
    cells = [
        (
            row.task,
            row.metric,
            number(row.first),
            number(row.second),
            number(row.difference, signed=True),
            span(row.interval),
            ABSENT if row.p_value is None else f"{row.p_value:.3g}",
            str(row.n),
            row.note or row.verdict or ABSENT,
        )
        for row in rows
    ]
    return plain_table(header, cells, width, numeric=(2, 3, 4, 5, 6, 7))


def _compared(task: str, metric: str, higher: bool, first: Report, second: Report, seed: int) -> Comparison:
    a, b = _finite(first.scores(task, metric)), _finite(second.scores(task, metric))
    common = sorted(a.keys() & b.keys())
    if not common:
        return Comparison(task, metric, higher, n=0, note=_absence(a, b))
    left, right = _columns([a[id] for id in common]), _columns([b[id] for id in common])
    clusters = [a[id].cluster for id in common]
    difference = paired_difference(left, right, clusters, key(seed, task, metric))
    return Comparison(
        task,
        metric,
        higher,
        n=len(common),
        clusters=len(set(clusters)),
        first=weighted_mean(*left),
        second=weighted_mean(*right),
        difference=difference.value,
        interval=difference.interval,
        p_value=difference.p_value,
    )


def _finite(scores: list[SampleScore]) -> dict[str, SampleScore]:
    return {score.id: score for score in scores if np.isfinite(score.score)}


def _columns(scores: list[SampleScore]) -> tuple[list[float], list[float]]:
    return [score.score for score in scores], [score.weight for score in scores]


def _absence(first: dict, second: dict) -> str:
    if first and second:
        return "no sample in common"
    if not first and not second:
        return "no scores in either"
    return f"no scores in the {'second' if first else 'first'}"
