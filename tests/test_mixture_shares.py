"""Shares that change by step, and limits by modality: the plan keeps both for any lengths, and resumes exactly."""

from __future__ import annotations

from itertools import islice

import pytest
import runs
from hypothesis import given
from hypothesis import strategies as st

from anyformer.errors import ConfigError, LimitError
from anyformer.training.mixture import Plan, Ramp, Source

lengths = st.lists(st.integers(1, 12), min_size=1, max_size=9)


def sources(*each) -> list[Source]:
    return [Source(f"task{i}", len(own), own.__getitem__, 0) for i, own in enumerate(each)]


def tokens(batch, each) -> list[int]:
    return [sum(each[i][r.index] for r in batch if r.task == f"task{i}") for i in range(len(each))]


def test_a_ramp_is_a_line_between_its_steps():
    ramp = Ramp.of("a", {"from": 4, "to": 0, "since": 10, "until": 20})
    assert [ramp(step) for step in (0, 10, 15, 20, 99)] == [4, 4, 2, 0, 0]
    assert Ramp.of("a", 3)(7) == 3


@pytest.mark.parametrize(
    "given_",
    [0, -1, True, "much", {"from": 1, "to": 2}, {"from": 0, "to": 0, "until": 5}, {"from": -1, "to": 2, "until": 5},
     {"from": 1, "to": 2, "until": 5, "since": 5}, {"from": 1, "to": 2, "until": 5, "when": 1}],
)  # fmt: skip
def test_a_weight_that_is_none_is_refused(given_):
    with pytest.raises(ConfigError, match="Task 'a' has weight="):
        Ramp.of("a", given_)


def test_some_weight_is_above_zero_at_any_time():
    one, other = Ramp(1, 0, 0, 10), Ramp(0, 1, 20, 30)
    with pytest.raises(ConfigError, match="0 at step 10"):
        Plan(sources([1], [1]), [one, other], 8)


def test_shares_follow_the_steps_not_the_batches():
    """Four batches make a step: with accumulation or ranks the schedule is the same in steps."""
    plan = Plan(sources([1], [1]), [Ramp(1, 0, 0, 4), Ramp(0, 1, 0, 4)], 8, every=4)
    assert [plan.shares(batch)[1] for batch in (0, 3, 4, 8, 16)] == [0, 0, 0.25, 0.5, 1]


@given(lengths, lengths, st.integers(2, 40))
def test_a_task_comes_in_and_another_goes(one, other, until):
    """Behind the last step nothing of the first is left but what it was owed."""
    plan = Plan(sources(one, other), [Ramp(1, 0, 0, until), Ramp(0, 1, 0, until)], 24)
    found = [tokens(batch, (one, other)) for batch in islice(plan.batches(), until + 60)]
    assert all(sum(both) <= 24 and sum(both) for both in found)
    assert found[0][1] == 0
    behind = found[until + 1 :]
    assert sum(first for first, _ in behind) <= 2 * 24 < sum(second for _, second in behind)
    late = [*islice(plan.batches(start=7), 5)]
    assert late == [*islice(plan.batches(), 12)][7:], "a resumed run goes on with the same batches"


@given(lengths, lengths, st.integers(12, 30), st.floats(0.1, 10))
def test_a_modality_never_has_more_than_its_limit(one, other, limit, weight):
    """The other one keeps what it is owed: a limit makes batches smaller, not shares other."""
    plan = Plan(sources(one, other), [weight, 1.0], 48, limits={"image": limit}, kinds=["image", "text"])
    found = [tokens(batch, (one, other)) for batch in islice(plan.batches(), 80)]
    assert all(first <= limit and first + second <= 48 and first + second for first, second in found)
    due = 48 / (1 + weight)
    assert sum(second for _, second in found) >= 0.5 * due * 80 - 48


def test_a_sample_beyond_its_modalitys_limit_is_named():
    plan = Plan(sources([9]), [1], 48, limits={"image": 8}, kinds=["image"])
    with pytest.raises(LimitError, match="modality_budgets: image=8"):
        next(plan.batches())


@given(st.integers(1, 9), st.integers(0, 3))
def test_few_samples_are_the_same_few_at_every_pass(few, seed):
    source = Source("a", 9, lambda index: 1, seed, few=few)
    passes = [sorted(source.at(few * number + i).index for i in range(few)) for number in range(3)]
    assert passes == [list(source.indices)] * 3 and len(set(source.indices)) == few
    assert list(Source("a", 9, lambda index: 1, seed, few=few).indices) == list(source.indices)
    with pytest.raises(ConfigError, match="samples=10 of 9"):
        Source("a", 9, lambda index: 1, seed, few=10)


def test_a_mixture_takes_both_and_logs_what_came_of_them(tmp_path):
    with runs.registered():
        tasks = {"words": {"weight": {"from": 1, "to": 0, "until": 4}}, "quadrants": {}}
        run = runs.trainer(tmp_path, 6, log_every_n_steps=6)
        data = runs.mixture(tasks=tasks)
        modality = data.tasks["quadrants"].modality
        with pytest.raises(ConfigError, match=modality):
            runs.mixture(tasks=tasks, modality_budgets={f"{modality}s": 8})
        with pytest.raises(ConfigError, match="at least 1"):
            runs.mixture(tasks=tasks, modality_budgets={modality: 0})
        run.fit(runs.learner(), datamodule=data)
    logged = {name: float(value) for name, value in run.callback_metrics.items()}
    assert 0 < logged["train/words/share"] < logged["train/quadrants/share"]
    assert abs(logged["train/words/share"] + logged["train/quadrants/share"] - 1) < 1e-5
    assert logged["train/quadrants/tokens_per_second"] > 0
