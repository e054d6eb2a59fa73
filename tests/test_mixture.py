"""The plan of batches: a pure function of seed, lengths and weights that keeps its promises for all of them."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyformer.errors import ConfigError, LimitError
from anyformer.training.mixture import Plan, Source, keyed

BUDGET = 32
lengths = st.lists(st.integers(1, BUDGET), min_size=1, max_size=9)


@st.composite
def mixtures(draw) -> dict:
    """Settings of a plan over one to four sources."""
    sources = draw(st.lists(lengths, min_size=1, max_size=4))
    weights = [draw(st.floats(0.05, 20)) for _ in sources]
    return {"lengths": sources, "weights": weights, "seed": draw(st.integers(0, 2**31))}


def plan(lengths, weights, seed, budget=BUDGET) -> Plan:
    sources = [Source(f"task{i}", len(own), own.__getitem__, seed) for i, own in enumerate(lengths)]
    return Plan(sources, weights, budget)


def first(count, start=0, **settings) -> list:
    return list(islice(plan(**settings).batches(start), count))


@given(mixtures())
def test_batches_fit_the_budget_and_are_never_empty(settings):
    for batch in first(60, **settings):
        assert batch
        assert sum(settings["lengths"][int(r.task[4:])][r.index] for r in batch) <= BUDGET


@given(mixtures())
def test_shares_of_tokens_converge_to_the_weights(settings):
    """A task is never further from its share than one budget for each task, however long it goes on."""
    tokens = dict.fromkeys(range(len(settings["lengths"])), 0)
    for batch in first(150, **settings):
        for reference in batch:
            tokens[int(reference.task[4:])] += settings["lengths"][int(reference.task[4:])][reference.index]
        for task, weight in enumerate(settings["weights"]):
            due = weight / sum(settings["weights"]) * sum(tokens.values())
            assert abs(tokens[task] - due) <= len(tokens) * BUDGET


@given(mixtures())
def test_samples_come_in_full_passes(settings):
    """Each pass over a source holds every sample once, and says which pass it is."""
    given_ = [reference for batch in first(60, **settings) for reference in batch]
    for task, own in enumerate(settings["lengths"]):
        mine = [reference for reference in given_ if reference.task == f"task{task}"]
        for number in range(len(mine) // len(own)):
            one_pass = mine[number * len(own) : (number + 1) * len(own)]
            assert sorted(r.index for r in one_pass) == list(range(len(own)))
            assert {r.epoch for r in one_pass} == {number}


def test_passes_differ():
    """One permutation for ever would show the samples in the same company every time."""
    source = Source("task", 50, lambda index: 1, seed=3)
    passes = [tuple(source.at(p * 50 + i).index for i in range(50)) for p in range(4)]
    assert len(set(passes)) == 4


@given(mixtures(), st.integers(0, 40))
def test_starting_later_equals_skipping(settings, start):
    assert first(10, start, **settings) == first(start + 10, **settings)[start:]


@given(mixtures(), st.integers(0, 3))
def test_the_order_depends_on_its_settings_alone(settings, asked):
    """Neither a generator's state, nor earlier questions, nor another iterator changes it."""
    expected = first(20, **settings)
    same = plan(**settings)
    other = islice(same.batches(), asked)
    keyed(settings["seed"], "pass").random()
    assert list(islice(same.batches(), 20)) == expected
    list(other)


def test_the_seed_changes_the_order():
    settings = {"lengths": [[3] * 40], "weights": [1.0]}
    assert first(5, seed=0, **settings) != first(5, seed=1, **settings)


def test_sources_are_shuffled_apart():
    """Two tasks of one size are not walked in the same order."""
    batches = first(8, lengths=[[4] * 30, [4] * 30], weights=[1, 1], seed=0)
    orders = [[r.index for b in batches for r in b if r.task == f"task{t}"] for t in (0, 1)]
    assert orders[0] != orders[1]


def test_a_sample_too_long_is_named():
    with pytest.raises(LimitError, match=r"Task 'task1', sample 1: 33 tokens .* token_budget=32"):
        first(20, lengths=[[4, 4], [4, 33]], weights=[1, 1], seed=0)


@pytest.mark.parametrize("weights", [[1, 0], [1, -1]])
def test_weights_must_be_positive(weights):
    with pytest.raises(ConfigError, match="must be positive"):
        plan([[1], [1]], weights, 0)


def test_an_empty_source_is_named():
    with pytest.raises(ConfigError, match="'empty' has no training samples"):
        Source("empty", 0, len, 0)


@given(st.integers(0, 2**40), st.text(max_size=8), st.integers(0, 2**31))
def test_keyed_generators_depend_on_every_key(seed, word, number):
    draws = [keyed(*keys).integers(2**62) for keys in ((seed, word, number), (seed, word, number))]
    assert draws[0] == draws[1]
    assert keyed(seed, word, number + 1).integers(2**62) != draws[0]
    assert keyed(seed + 1, word, number).integers(2**62) != draws[0]
    assert keyed(seed, word + "'", number).integers(2**62) != draws[0]
