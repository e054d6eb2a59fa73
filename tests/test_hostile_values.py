"""What every tokenizer is tried with: values that a data set holds sooner or later, and what one of them may cost."""

from __future__ import annotations

import numpy as np
import pytest

from anyformer.episode import Episode
from anyformer.errors import ContractError
from anyformer.testing.clause import Clause
from anyformer.testing.hostile import ODD_VALUES, bent


def test_long_texts_are_among_them():
    """A word of a million characters, and ten million in words and in one."""
    texts = [value for value in ODD_VALUES if isinstance(value, str)]
    assert {(len(text), " " in text) for text in texts} >= {(10**6, False), (10**7, False), (12 * 10**6, True)}


def test_a_trajectory_without_steps_and_one_with_an_impossible_action_are_among_them():
    """What one part bent at a time does not give: all parts empty together."""
    episode = Episode(np.zeros((4, 3), np.float32), np.ones(3, np.int64), np.ones(3), terminated=True)
    values = list(bent(episode))
    sizes = {(len(v.observations), len(v.actions), len(v.rewards)) for v in values if v.observations is not None
             and v.actions is not None and v.rewards is not None}  # fmt: skip
    assert {(0, 0, 0), (1, 1, 1), (4, 0, 3)} <= sizes
    actions = [v.actions for v in values if v.actions is not None and v.actions.dtype == np.int64]
    assert any(2**63 - 1 in of for of in actions) and any(-(2**63) in of for of in actions)
    assert any(not v.terminated and not v.truncated for v in values)


def test_a_value_that_takes_too_long_or_too_much_breaks_the_clause(monkeypatch):
    """A tokenizer that needs minutes for one text would stall a run."""
    clause = Clause("tokenizer 'slow'", "survives hostile values", "Refuse it.")
    monkeypatch.setattr("anyformer.testing.clause.SECONDS", -1)
    with pytest.raises(ContractError, match=r"survives hostile values.*at most -1 s for a long text, got 0 s"):
        with clause.in_bounds("a long text"):
            pass
    monkeypatch.setattr("anyformer.testing.clause.SECONDS", 60)
    peaks = iter([5 << 20, 3 << 30])
    monkeypatch.setattr("anyformer.testing.clause._peak", lambda: next(peaks))
    with pytest.raises(ContractError, match="at most 1024 MB for a long text, got 3067 MB"):
        with clause.in_bounds("a long text"):
            pass
