"""The bench tries itself: a trial that fails, raises, dies or hangs is written down as failed, and leaves nothing."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from anyformer.chaos.conductor import attempt
from anyformer.chaos.trial import Outcome, Trial

ENDS = {
    "passes": (Outcome(), ""),
    "fails": (Outcome("it failed"), "it failed"),
    "raises": (None, "ZeroDivisionError"),
    "dies": (None, "SIGKILL"),
    "hangs": (None, "within 0.5 s"),
}


def run(index: int, folder: Path) -> Outcome:
    """One of the five ways to end, tried by the bench itself."""
    end = list(ENDS)[index % len(ENDS)]
    line = attempt(Trial(end, "", 1, f"{__name__}:{end}", seconds=0.5 if end == "hangs" else 60), index)
    notes = {"end": end}
    expected = ENDS[end][1]
    if line.passed != (end == "passes") or expected not in line.failure:
        return Outcome(f"a trial that {end} was recorded as {line.failure or 'passed'!r}", notes)
    return Outcome(notes=notes)


def passes(index: int, folder: Path) -> Outcome:
    return Outcome()


def fails(index: int, folder: Path) -> Outcome:
    return Outcome("it failed")


def raises(index: int, folder: Path) -> Outcome:
    raise ZeroDivisionError("no such quotient")


def dies(index: int, folder: Path) -> Outcome:
    os.kill(os.getpid(), signal.SIGKILL)
    return Outcome()


def hangs(index: int, folder: Path) -> Outcome:
    time.sleep(60)
    return Outcome()
