"""`anyformer demo`: four modalities through one transformer, from raw data to a report, in a few minutes."""

from __future__ import annotations

import argparse
import logging
import sys
import time
import warnings
from pathlib import Path

import lightning as L

from anyformer import presets
from anyformer.checkpoint import load
from anyformer.errors import ConfigError
from anyformer.evaluation import Report, evaluate
from anyformer.training import Checkpoints, ProgressLines, TimeBudget
from anyformer.training.experiment import read

EVALUATION_SHARE = 0.2  # of the minutes, kept for the report
SMOKE_MINUTES = 4  # below this, fewer samples are scored
SMOKE_LIMIT = 24


def run(arguments: argparse.Namespace) -> int:
    if not arguments.minutes > 0:
        raise ConfigError(f"--minutes {arguments.minutes}: expected more than 0.")
    out, start = Path(arguments.out), time.monotonic()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be made a folder ({error.strerror}). Name another one.") from error
    warnings.filterwarnings("ignore", module=r"lightning|torch")
    train(out, arguments.minutes * (1 - EVALUATION_SHARE), arguments.seed, start)
    report = judge(out, smoke=arguments.minutes < SMOKE_MINUTES)
    print(report.table())
    print(f"\n{(time.monotonic() - start) / 60:.1f} minutes. Open {out / 'report.html'}")
    return 1 if report.failed else 0


def train(out: Path, minutes: float, seed: int, start: float) -> None:
    """The quickstart experiment for so many minutes since `start`, into `out/last`."""
    experiment = read(presets.find("experiments", "quickstart"))
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # its advice is for those who configure it
    say("preparing data: documentation topics, digits, dial tones, CartPole episodes")
    L.seed_everything(seed, verbose=False)
    mixture = experiment.mixture(seed=seed)
    left = minutes - (time.monotonic() - start) / 60
    experiment.train(mixture, out, [Checkpoints(), ProgressLines(), TimeBudget(max(left, 0.05))], max_steps=-1)


def judge(out: Path, smoke: bool) -> Report:
    """The cross-modal evaluation of what was trained, written beside it."""
    say("evaluating on held-out data")
    config = presets.read_mapping(presets.find("evaluations", "cross_modal"), "The evaluation configuration")
    if smoke:
        config["tasks"] = {name: {**(s or {}), "limit": SMOKE_LIMIT} for name, s in config["tasks"].items()}
    return evaluate(load(out / "last"), config, out, checkpoint=str(out / "last"))


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
