"""A run that is told to end, by a signal at any time."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from anyformer.chaos.resume import Death, goes_on, pair
from anyformer.chaos.tiny import KINDS, STEPS
from anyformer.chaos.trial import Outcome, chance

NUMBERS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
MOMENTS = ("training", "validation", "inside a save", "epoch's edge", "any time", "any time")


def run(index: int, folder: Path) -> Outcome:
    """Its checkpoint is at most one step old, its status tells the signal, and it goes on exactly."""
    rng = chance("signals", index)
    number, moment = NUMBERS[index % len(NUMBERS)], MOMENTS[index // 3 % len(MOMENTS)]
    kind, accumulation = list(KINDS)[index % len(KINDS)], (1, 4)[index // 5 % 2]
    notes = {"signal": number.name, "moment": moment}
    straight, parts = pair(folder, kind=kind, accumulation=accumulation)
    if (status := straight.start().wait()) != 0:
        return Outcome(f"The run that nobody told to end ended with {status}.", notes)
    victim = parts.start(callbacks=lambda: [Death(moment, rng, number)])
    if moment == "any time":
        lines, pause = rng.randrange(0, 20), rng.uniform(0, 0.05)
        while not victim.ended() and len(parts.records()) < lines:
            time.sleep(0.005)
        time.sleep(pause)
        if not victim.ended():
            os.kill(victim.pid, number)
    status, saved = victim.wait(), parts.step()
    reached = max((line[0] + 1 for line in parts.records() if line[1] == accumulation - 1), default=0)
    notes["status"] = str(status)
    if status in (0, -number) and saved == STEPS:  # it had come to its end
        return Outcome(notes=notes)
    if status == -number and not reached:  # before Python had come to set its handlers
        notes["status"] += " (before it had begun)"
    elif status != 128 + number:
        return Outcome(f"Told to end by {number.name}, it ended with {status}; expected {128 + number}.", notes)
    if reached - saved > 0:
        return Outcome(f"It had made {reached} steps and its checkpoint is of step {saved}.", notes)
    if saved == 0:
        return Outcome(notes=notes | {"began": "no"})
    return Outcome(goes_on(straight, parts), notes)
