"""The trials, by name. Nothing is imported before one is run."""

from __future__ import annotations

from anyformer.chaos.trial import Trial

HERE = "anyformer.chaos"

TRIALS: dict[str, Trial] = {
    trial.name: trial
    for trial in (
        Trial("record", "a trial's outcome is recorded, whatever becomes of its process", 5, f"{HERE}.record:run"),
        Trial(
            "numbers",
            "NaN and infinity are found at their step and named, not applied and never committed",
            180,
            f"{HERE}.numbers:run",
        ),
        Trial(
            "damaged-checkpoints",
            "a damaged checkpoint is one typed error that names it, and nothing changes silently",
            200,
            f"{HERE}.damage:run",
            cases=100,
        ),
        Trial(
            "damaged-configurations",
            "a damaged configuration is one typed error, or settings",
            50,
            f"{HERE}.media:configurations",
            cases=100,
        ),
        Trial(
            "damaged-vocabularies",
            "a tokenizer's damaged file is one typed error, or another fingerprint",
            50,
            f"{HERE}.media:vocabularies",
            cases=100,
        ),
        Trial(
            "damaged-media",
            "a damaged picture or sound is one typed error that names the file, or sound tokens",
            180,
            f"{HERE}.media:media",
            quick=9,
            cases=100,
        ),
        Trial(
            "bombs", "few bytes that claim or become many are refused in bounded memory", 8, f"{HERE}.payloads:bombs"
        ),
        Trial("pickles", "no pickle is run, at any door under any name", 40, f"{HERE}.payloads:pickles"),
        Trial(
            "configured-code",
            "no configuration runs code; fit is asked with --safe",
            36,
            f"{HERE}.payloads:configurations",
        ),
        Trial("paths", "no name and no link leads outside", 49, f"{HERE}.payloads:paths"),
        Trial(
            "bad-plugins",
            "a plugin that misbehaves at import is named, and everything else works",
            24,
            f"{HERE}.plugins:run",
            quick=0,
            seconds=240.0,
        ),
        Trial(
            "changed-tokenizers",
            "a tokenizer that encodes otherwise is refused, and the difference told",
            100,
            f"{HERE}.plugins:changed",
        ),
    )
}
