"""Mutants on trial: does anything that a reference computed speak against them?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from anyformer.errors import AnyformerError
from anyformer.weights.parity import Comparison
from parity.fixtures import Fixture
from parity.switches import Mutant, mutants
from parity.transplant import transplanted

IMPOSSIBLE = (AnyformerError, LookupError, RuntimeError)
"""What building or running an impossible architecture may raise; nobody mistakes it for the published one."""

CLEAR = 10.0
"""A difference so many times over what is allowed is evidence enough; a smaller one sends us to the next regime."""


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant.

    how: "caught", some output differs by more than is allowed; "impossible", it cannot be built or run; "refused", it
    is a size, and the file has others; "invisible". regime: where. excess: the largest difference over what is allowed.
    """

    mutant: str
    how: str
    regime: str = ""
    excess: float = 0.0
    identical: bool = False
    """Of an invisible one: every output is what the unchanged architecture gives, bit by bit."""
    unimportable: bool = False
    """Of an invisible one: the file cannot be read as this architecture."""


def judged(fixtures: Sequence[Fixture]) -> list[Verdict]:
    """Every mutant of a family, in one regime after the other until one is enough."""
    cast = [{mutant.name: mutant for mutant in mutants(fixture.model.architecture)} for fixture in fixtures]
    expected = [fixture.compared(fixture.model) for fixture in fixtures]
    assert all(c.holds for comparisons in expected for c in comparisons), "the unchanged architecture holds"
    return [_judged(name, fixtures, [by_name.get(name) for by_name in cast], expected) for name in cast[0]]


def _judged(
    name: str, fixtures: Sequence[Fixture], cast: Sequence[Mutant | None], expected: Sequence[list[Comparison]]
) -> Verdict:
    best, identical = Verdict(name, "invisible"), True
    for fixture, mutant, usual in zip(fixtures, cast, expected, strict=True):
        if mutant is None:
            continue
        if mutant.size and fixture.refuses(mutant.architecture):
            return Verdict(name, "refused", fixture.regime)
        try:
            found = fixture.compared(transplanted(fixture.model, mutant.architecture, fixture.computed))
        except IMPOSSIBLE:
            return Verdict(name, "impossible", fixture.regime)
        excess = max(map(_excess, found))
        if excess > max(1.0, best.excess):
            best = Verdict(name, "caught", fixture.regime, excess)
        if excess > CLEAR:
            return best
        identical = identical and found == usual
    if best.how == "caught":
        return best
    unimportable = cast[0] is not None and fixtures[0].refuses(cast[0].architecture) is not None
    return replace(best, identical=identical, unimportable=unimportable)


def _excess(comparison: Comparison) -> float:
    if comparison.allowed:
        return comparison.difference / comparison.allowed
    return math.inf if comparison.difference else 0.0
