"""The trials, by name. Nothing is imported before one is run."""

from __future__ import annotations

from anyformer.chaos.trial import Trial

HERE = "anyformer.chaos"
SLOW = 1200.0  # seconds for a trial that starts Python from nothing several times, on a machine that is busy

TRIALS: dict[str, Trial] = {
    trial.name: trial
    for trial in (
        Trial("record", "a trial's outcome is recorded, whatever becomes of its process", 5, f"{HERE}.record:run"),
        Trial(
            "resume",
            "a run killed at any moment goes on with every loss and weight bit for bit",
            200,
            f"{HERE}.resume:run",
            seconds=SLOW,
        ),
        Trial(
            "workers",
            "a run goes on with the same samples whatever the number of data workers",
            20,
            f"{HERE}.resume:workers",
            quick=0,
            seconds=SLOW,
        ),
        Trial(
            "signals",
            "told to end, a run writes its step, says so by its status, and goes on bit for bit",
            50,
            f"{HERE}.signalled:run",
            seconds=240.0,
        ),
        Trial(
            "ranks",
            "one of two ranks dies, freezes or is told to end: none waits for it, it is named, no process is left",
            60,
            f"{HERE}.several:run",
            quick=0,
            seconds=SLOW,
        ),
        Trial(
            "ranks-as-one",
            "two ranks go on as one, with the same samples, and losses within 1e-5",
            20,
            f"{HERE}.several:as_one",
            quick=0,
            seconds=SLOW,
        ),
        Trial(
            "lost-workers",
            "a data worker that dies or freezes is named with its samples within seconds",
            50,
            f"{HERE}.several:lost_worker",
            quick=0,
            seconds=SLOW,
        ),
        Trial(
            "evaluation",
            "killed and started again it gives the same report; the order of tasks and samples changes nothing",
            20,
            f"{HERE}.evaluated:run",
        ),
        Trial(
            "packing",
            "scores, and what is written, depend neither on the order of samples nor on what is asked beside them",
            50,
            f"{HERE}.packed:run",
            quick=5,
        ),
        Trial(
            "memory",
            "a step that does not fit into memory, be it on one rank of two, ends the run, which says what fits",
            40,
            f"{HERE}.memory:run",
            seconds=240.0,
        ),
        Trial(
            "saves",
            "killed inside a save: nothing committed is damaged, the last one or the one before is there",
            500,
            f"{HERE}.saves:kills",
            quick=4,
        ),
        Trial(
            "full-disk",
            "a disk that is full: the checkpoint before is whole, and the error says what is missing",
            30,
            f"{HERE}.saves:full",
        ),
        Trial(
            "numbers",
            "NaN and infinity, on one of two ranks too, are found at their step, named, not applied, never committed",
            204,
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
        Trial("paths", "no name, no link and no archive leads outside", 57, f"{HERE}.payloads:paths"),
        Trial(
            "bad-plugins",
            "a plugin that misbehaves at import is named, and everything else works",
            12,
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
