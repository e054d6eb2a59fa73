"""The trials, by name. Nothing is imported before one is run."""

from __future__ import annotations

from anyformer.chaos.trial import Trial

HERE = "anyformer.chaos"

TRIALS: dict[str, Trial] = {
    trial.name: trial
    for trial in (
        Trial("record", "a trial's outcome is recorded, whatever becomes of its process", 5, f"{HERE}.record:run"),
    )
}
