"""Promises put to the test: `anyformer chaos NAME` tries one again and again under faults, and counts.

To add a trial: write `run(index, folder) -> Outcome` in a file of this room, and a line for it in `table.py`::

    def run(index: int, folder: Path) -> Outcome:
        rng = chance("mutants", index)          # everything follows from (name, index)
        ...
        return Outcome("model.safetensors: byte 17 was changed and nobody noticed")   # one sentence on what failed
        return Outcome(notes={"mutation": "truncated"})                               # passed; notes are counted

Each trial has a process of its own, forked from one that has imported everything and has computed nothing; `folder` is
empty and is removed afterwards, whatever the trial starts ends with it, and what it prints is kept for a failure's
detail. An exception, a signal and running past `seconds` are failures too.
"""

from anyformer.chaos.table import TRIALS
from anyformer.chaos.trial import Outcome, Trial, chance

__all__ = ["TRIALS", "Outcome", "Trial", "chance"]
