"""`anyformer evaluate`: the cross-modal evaluation job."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from anyformer.checkpoint import load
from anyformer.errors import ConfigError
from anyformer.evaluation import compare, evaluate
from anyformer.evaluation.comparison import comparison_table


def run(arguments: argparse.Namespace) -> int:
    several = len(arguments.checkpoint) > 1
    reports = {
        name: evaluate(
            load(checkpoint, device(arguments.device)),
            arguments.config,
            Path(arguments.out) / name if several else arguments.out,
            seed=arguments.seed,
            data_dir=arguments.data_dir,
            checkpoint=str(checkpoint),
        )
        for name, checkpoint in zip(names(arguments.checkpoint), arguments.checkpoint, strict=True)
    }
    (first, one), *others = reports.items()
    for name, report in reports.items():
        print(f"{name}\n{report.table()}" if several else report.table())
    for name, report in others:
        print(f"\n{name} against {first}\n{comparison_table(compare(one, report))}")
    return 1 if any(report.failed or report.missed for report in reports.values()) else 0


def names(checkpoints: Sequence[str]) -> list[str]:
    """What to call each of several checkpoints: as much of the end of its path as tells it from the others.

    >>> names(["runs/a/last", "runs/b/last"])
    ['a-last', 'b-last']
    """
    parts = [Path(checkpoint).absolute().parts[1:] for checkpoint in checkpoints]
    for length in range(1, max(map(len, parts)) + 1):
        found = ["-".join(own[-length:]) for own in parts]
        if len(set(found)) == len(found):
            return found
    raise ConfigError(f"--checkpoint names {checkpoints[0]} twice; expected different ones.")


def device(name: str) -> torch.device:
    """The device of `--device`; ConfigError where it is not there."""
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError) as error:  # torch's ways of saying that it is not there
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--device {name}: cannot be used ({reason}). See `anyformer doctor`.") from error
