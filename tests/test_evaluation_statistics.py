"""The numbers under a report: means, intervals, the paired test, verdicts, how they are drawn and printed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyformer.evaluation import (
    Report,
    Result,
    SampleScore,
    compare,
    comparison_table,
    plot,
    statistics,
    text,
)

finite = st.floats(-1e3, 1e3)
weighted = st.lists(st.tuples(finite, st.floats(0.01, 100), st.sampled_from("abcdef")), min_size=1, max_size=30)


@given(weighted)
def test_a_weighted_mean_is_the_mean_of_repeated_values_and_stays_between_them(samples):
    """Guards Σ w·v / Σ w, against the same numbers laid out with integer weights."""
    values = [value for value, _, _ in samples]
    repeats = [1 + int(weight) % 5 for _, weight, _ in samples]
    mean = statistics.weighted_mean(values, repeats)
    assert mean == pytest.approx(np.repeat(values, repeats).mean(), abs=1e-9)
    assert min(values) - 1e-9 <= mean <= max(values) + 1e-9


@given(weighted, st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_an_interval_does_not_depend_on_the_order_of_the_samples(samples, shuffler):
    """Guards determinism: the same samples and seed give the same interval, however they arrive."""
    shuffled = list(samples)
    shuffler.shuffle(shuffled)
    one, other = (statistics.mean_interval(*zip(*some, strict=True), seed=3) for some in (samples, shuffled))
    if len({cluster for _, _, cluster in samples}) == 1:
        assert one is None and other is None
    else:
        assert one == pytest.approx(other, abs=1e-9)


def test_one_cluster_gives_no_interval_however_many_samples_it_holds():
    assert statistics.mean_interval(range(100), [1.0] * 100, ["same"] * 100, seed=0) is None


def test_intervals_cover_the_truth_when_samples_of_a_cluster_agree():
    """Guards the unit of resampling: drawing samples instead of clusters covers far less than 95 %."""
    rng, covered, naive = np.random.default_rng(5), 0, 0
    for trial in range(150):
        effects = np.repeat(rng.normal(size=40), 10)
        values = effects + 0.3 * rng.normal(size=400)
        clusters = [f"c{index // 10}" for index in range(400)]
        low, high = statistics.mean_interval(values, np.ones(400), clusters, seed=trial)
        covered += low <= 0 <= high
        low, high = statistics.mean_interval(values, np.ones(400), [str(i) for i in range(400)], seed=trial)
        naive += low <= 0 <= high
    assert covered / 150 >= 0.89
    assert naive / 150 < 0.7


@given(weighted, st.lists(finite, min_size=30, max_size=30))
@settings(max_examples=30, deadline=None)
def test_exchanging_two_runs_turns_the_difference_round_and_keeps_p(samples, changes):
    """Guards the paired test's symmetry, weights and clusters included."""
    values, weights, clusters = map(list, zip(*samples, strict=True))
    first, second = (values, weights), ([v + c for v, c in zip(values, changes, strict=False)], weights)
    there = statistics.paired_difference(first, second, clusters, seed=1)
    back = statistics.paired_difference(second, first, clusters, seed=1)
    assert there.value == pytest.approx(-back.value, abs=1e-9)
    assert there.p_value == back.p_value
    assert 0 < there.p_value <= 1


def test_the_paired_test_is_exact_for_few_clusters():
    """Five clusters that all gain: only 2 of the 32 exchanges are as extreme. A single one proves nothing."""
    first, second = ([0.0] * 10, [1.0] * 10), ([1.0 + i // 2 for i in range(10)], [1.0] * 10)
    assert statistics.paired_difference(first, second, [f"c{i // 2}" for i in range(10)], 0).p_value == 2 / 32
    alone = statistics.paired_difference(first, second, ["c"] * 10, 0)
    assert alone.p_value == 1 and alone.interval is None


def test_the_paired_test_keeps_its_level_and_sees_a_real_gain():
    """Guards the p-value: about 5 % false alarms between equals, and most real gains found."""
    rng, alarms, found = np.random.default_rng(2), 0, 0
    clusters, weights = [f"c{index // 4}" for index in range(120)], np.ones(120)
    for trial in range(200):
        shared = rng.normal(size=120)
        one, other = shared + rng.normal(size=120), shared + rng.normal(size=120)
        null, gain = (
            statistics.paired_difference((one, weights), (other + shift, weights), clusters, trial)
            for shift in (0.0, 0.6)
        )
        alarms += null.p_value < 0.05
        found += gain.p_value < 0.05
    assert alarms / 200 <= 0.10
    assert found / 200 >= 0.9


def test_bootstraps_larger_than_the_memory_bound_are_drawn_in_parts(monkeypatch):
    """Guards the chunks: their sizes add up, and the interval stays what it is up to the draw."""
    values, clusters = list(range(50)), [str(index) for index in range(50)]
    whole = statistics.mean_interval(values, [1.0] * 50, clusters, seed=0)
    monkeypatch.setattr(statistics, "DRAWN_AT_ONCE", 50 * 700)
    assert sum(statistics._chunks(statistics.RESAMPLES, 50)) == statistics.RESAMPLES
    assert statistics.mean_interval(values, [1.0] * 50, clusters, seed=0) == pytest.approx(whole, abs=1e-9)


@pytest.mark.parametrize(
    ("value", "interval", "baseline", "higher", "verdict"),
    [
        (0.9, (0.8, 0.95), 0.7, True, "better"),
        (0.9, (0.8, 0.95), 0.7, False, "worse"),
        (0.9, (0.6, 0.95), 0.7, True, "even"),
        (0.5, None, 0.7, True, "worse"),
        (0.7, None, 0.7, True, "even"),
        (None, None, 0.7, True, None),
        (0.9, None, None, True, None),
    ],
)
def test_a_verdict_needs_the_whole_interval_on_one_side(value, interval, baseline, higher, verdict):
    assert Result("t", "m", "x", value, baseline, 1, higher, interval).verdict == verdict


@given(st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=8))
def test_an_axis_holds_its_values_and_has_round_ticks_inside(values):
    axis = plot.Axis.around(values, 10, 500)
    assert all(10 <= axis(value) <= 500 for value in values)
    slack = 1e-6 * (axis.high - axis.low)
    assert all(axis.low - slack <= tick <= axis.high + slack for tick in axis.ticks())
    assert 2 <= len(axis.ticks()) <= 8


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_a_printed_number_is_near_its_value(value):
    """Guards rounding: at least three significant digits, and what is not finite is a dash."""
    printed = text.number(value)
    if not math.isfinite(value):
        assert printed == text.ABSENT
    elif 1e-6 < abs(value) < 1e15:
        assert float(printed.replace(",", "")) == pytest.approx(value, rel=6e-3)


def made_report(scores: dict[str, float], higher: bool = True, metric: str = "accuracy") -> Report:
    samples = [SampleScore("fake", id, id, metric, score) for id, score in scores.items()]
    return Report([Result("fake", "m", metric, 0.5, None, len(samples), higher)], samples, 0, {})


@pytest.mark.parametrize(("higher", "verdict"), [(True, "better"), (False, "worse")])
def test_comparing_finds_a_gain_on_the_samples_both_have(higher, verdict):
    """Guards pairing by id: order and samples of only one report play no part."""
    first = {str(index): float(index) for index in range(40)}
    second = {id: score + 1 + (int(id) % 3) / 10 for id, score in reversed(first.items())}
    (row,) = compare(made_report(first | {"extra": 1e6}, higher), made_report(second | {"other": -1e6}, higher))
    assert row.n == row.clusters == 40 and row.verdict == verdict and 0 < row.p_value < 0.01
    assert row.first == pytest.approx(19.5) and row.difference == pytest.approx(1.1, abs=0.01)
    assert row.interval[0] <= row.difference <= row.interval[1]


def test_what_only_one_report_has_keeps_its_row():
    first, second = made_report({"a": 1.0}), made_report({"a": 1.0}, metric="loss")
    assert [(row.metric, row.n, row.note) for row in compare(first, second)] == [
        ("accuracy", 0, "no scores in the second"),
        ("loss", 0, "no scores in the first"),
    ]
    assert compare(first, made_report({"b": 1.0}))[0].note == "no sample in common"
    assert "no scores in the second" in comparison_table(compare(first, second), width=200)
