"""What a trial is: a promise, how often it is to be tried, and the function that tries it once."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path


@dataclass(frozen=True)
class Outcome:
    """Of one trial. failure: one sentence on what failed; empty if the promise was kept.

    notes: what kind of trial it was, `{"moment": "inside a save"}`, or of cases how many, `{"truncated": 12}`; the page
    counts them.
    """

    failure: str = ""
    notes: Mapping[str, str | int] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return not self.failure


@dataclass(frozen=True)
class Trial:
    """promise: one line. target: the full figure. place: `module:function` of `run(index, folder) -> Outcome`.

    quick: how many of them the project's own tests try. seconds: after these a trial has failed. cases: how many cheap
    cases (altered files, for instance) one trial goes through; figures are told in cases.
    """

    name: str
    promise: str
    target: int
    place: str
    quick: int = 2
    seconds: float = 120.0
    cases: int = 1

    def load(self) -> Callable[[int, Path], Outcome]:
        """The function; this imports what it needs."""
        module, _, name = self.place.partition(":")
        return getattr(import_module(module), name)


def chance(name: str, index: int) -> random.Random:
    """A generator that depends on the trial's name and number alone.

    >>> chance("resume", 3).random() == chance("resume", 3).random()
    True
    """
    return random.Random(f"{name} {index}")
