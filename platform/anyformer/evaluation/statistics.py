"""Weighted means, their intervals, and the paired test of two reports.

The unit that is drawn or exchanged is always the *cluster* (passages of one document, episodes of one seed):
samples inside one are not independent, and treating them so makes intervals too narrow.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Float

LEVEL = 0.95
RESAMPLES = 2000
DRAWN_AT_ONCE = 2_000_000  # cluster indices held in memory together: 16 MB

Interval = tuple[float, float]


def key(*parts: object) -> int:
    """A seed that depends on `parts` alone: the same in every process, whatever ran before.

    >>> key(0, "digits") == key(0, "digits"), key(0, "digits") == key(1, "digits")
    (True, False)
    """
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8]) >> 1


def weighted_mean(values: Sequence[float], weights: Sequence[float]) -> float:
    """Σ weight·value / Σ weight; NaN if all the weights are 0.

    >>> weighted_mean([1.0, 4.0], [2.0, 1.0])
    2.0
    """
    total = float(np.sum(weights))
    return float(np.dot(values, weights)) / total if total > 0 else float("nan")


def cluster_sums(
    values: Sequence[float], weights: Sequence[float], clusters: Sequence[str]
) -> Float[np.ndarray, "clusters 2"]:
    """(Σ weight·value, Σ weight) of each cluster, in the order of the clusters' names."""
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    products = np.multiply(values, weights)
    columns = [np.bincount(index, column, minlength=len(names)) for column in (products, weights)]
    return np.stack(columns, axis=1)


def wilson_interval(count: int, of: int) -> Interval | None:
    """Interval of the share `count / of` of independent cases at the level `LEVEL` (Wilson 1927, "Probable inference",
    eq. 5): it stays within 0 and 1 and says something even where no case was seen. None of no cases.

    >>> [round(edge, 4) for edge in wilson_interval(0, 10)]
    [0.0, 0.2775]
    """
    if not of:
        return None
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    share, slack = count / of, z**2 / of
    middle = (share + slack / 2) / (1 + slack)
    half = z * math.sqrt(share * (1 - share) / of + slack / (4 * of)) / (1 + slack)
    return middle - half if count else 0.0, middle + half if count < of else 1.0


def mean_interval(
    values: Sequence[float], weights: Sequence[float], clusters: Sequence[str], seed: int
) -> Interval | None:
    """Percentile interval of the weighted mean from a bootstrap over clusters (Efron 1979; Davison & Hinkley
    1997, §3.8), at the level `LEVEL`. None with fewer than two clusters: nothing can be said from one.

    The result is a function of the samples and the seed, whatever the samples' order.
    """
    sums = cluster_sums(values, weights, clusters)
    if len(sums) < 2:
        return None
    totals = _bootstrap_totals(sums, np.random.default_rng(seed))
    return _percentiles(_ratio(totals[:, 0], totals[:, 1]))


@dataclass(frozen=True)
class Difference:
    """Second minus first: the difference of two weighted means over the same samples."""

    value: float
    interval: Interval | None
    p_value: float


def paired_difference(
    first: tuple[Sequence[float], Sequence[float]],
    second: tuple[Sequence[float], Sequence[float]],
    clusters: Sequence[str],
    seed: int,
) -> Difference:
    """The paired comparison of two runs, each as (values, weights) over the same samples.

    The interval redraws clusters, keeping each one's pair together. The p-value is two-sided and comes from
    exchanging the two runs inside clusters, which under the null hypothesis changes nothing (with equal
    weights this is the sign-flip test of Fisher 1935, §21): every exchange where they are few, else a random
    sample of them counted with the observed one (Phipson & Smyth 2010). One cluster gives p = 1.
    """
    a, b = (cluster_sums(values, weights, clusters) for values, weights in (first, second))
    rng = np.random.default_rng(seed)
    totals_a, totals_b = a.sum(axis=0), b.sum(axis=0)
    observed = float(_ratio(*totals_b) - _ratio(*totals_a))
    interval = None
    if len(a) > 1:
        drawn = _bootstrap_totals(np.concatenate([a, b], axis=1), rng)
        interval = _percentiles(_ratio(drawn[:, 2], drawn[:, 3]) - _ratio(drawn[:, 0], drawn[:, 1]))
    exchanged = _exchanged_totals(b - a, rng)
    left, right = totals_a + exchanged, totals_b - exchanged
    null = np.abs(_ratio(right[:, 0], right[:, 1]) - _ratio(left[:, 0], left[:, 1]))
    slack = 1e-9 * max(abs(observed), 1e-9)  # exchanges equal to the observed one differ by rounding
    extreme = int(np.sum(null >= abs(observed) - slack))
    complete = len(null) == 2 ** len(a)  # then the observed exchange is among them
    p_value = extreme / len(null) if complete else (extreme + 1) / (len(null) + 1)
    return Difference(observed, interval, min(1.0, p_value))


def _bootstrap_totals(
    sums: Float[np.ndarray, "clusters columns"], rng: np.random.Generator
) -> Float[np.ndarray, "resamples columns"]:
    """Column totals of `RESAMPLES` draws of as many clusters, with replacement."""
    clusters = len(sums)
    totals = []
    for size in _chunks(RESAMPLES, clusters):
        drawn = rng.integers(clusters, size=(size, clusters))
        totals.append(np.stack([column[drawn].sum(axis=1) for column in sums.T], axis=1))
    return np.concatenate(totals)


def _exchanged_totals(
    change: Float[np.ndarray, "clusters 2"], rng: np.random.Generator
) -> Float[np.ndarray, "exchanges 2"]:
    """What the first run's totals gain when each cluster is exchanged or not: every way, or a sample."""
    clusters = len(change)
    if 2**clusters <= RESAMPLES:
        ways = np.arange(2**clusters)[:, None] >> np.arange(clusters) & 1
        return ways @ change
    return np.concatenate([rng.integers(2, size=(size, clusters)) @ change for size in _chunks(RESAMPLES, clusters)])


def _chunks(rows: int, columns: int) -> list[int]:
    size = max(1, DRAWN_AT_ONCE // columns)
    return [min(size, rows - start) for start in range(0, rows, size)]


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):  # a draw of weightless clusters has no mean
        return np.divide(numerator, denominator)


def _percentiles(draws: Float[np.ndarray, " resamples"]) -> Interval | None:
    finite = draws[np.isfinite(draws)]
    if not len(finite):
        return None
    low, high = np.quantile(finite, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
