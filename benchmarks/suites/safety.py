"""What it costs a training step that the run is safe."""

from __future__ import annotations

from anyformer.bench import Bar, Contender, Settings, Suite, Work


def watched(s: Settings) -> Work:
    from peers import safety

    return Work(lambda: safety.watched(s))


def bare(s: Settings) -> Work:
    from peers import safety

    return Work(lambda: safety.bare(s))


BARE = "the same with nothing of it"

SUITE = Suite(
    title="A training step with all that makes a run safe, and without: losses and gradients are looked through for "
    "what is not finite, and there is something to roll back to; checkpoints are idle, signals waited for, steps that "
    "do not fit told, and data workers watched.",
    unit="ms a step",
    contenders=[Contender("anyformer", watched), Contender(BARE, bare)],
    cases={
        "6 layers, 384 wide, 16 documents of 256 tokens": {},
        "1 layer, 32 wide, 4 documents of 16 tokens": {
            "vocab": 64, "dim": 32, "depth": 1, "heads": 2, "batch": 4, "time": 16, "steps": 1000,
        },
    },
    full={"vocab": 8192, "dim": 384, "depth": 6, "heads": 6, "batch": 16, "time": 256, "workers": 1, "steps": 5},
    toy={"vocab": 64, "dim": 16, "depth": 1, "heads": 2, "batch": 2, "time": 8, "workers": 0, "steps": 3},
    amount=True,
    seconds=0.0,
    bars=[Bar("6 layers, 384 wide, 16 documents of 256 tokens", at_most=1.02, beside=BARE)],
    notes="CPU time of the process that trains, from the end of its first step on. Both clip by the norm of the "
    "gradients. With several ranks two more threads of each tell and look for signs of life, every two seconds.",
)  # fmt: skip
