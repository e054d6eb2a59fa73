"""`anyformer evaluate`: the cross-modal evaluation job."""

from __future__ import annotations

import argparse

import torch

from anyformer.checkpoint import load
from anyformer.errors import ConfigError
from anyformer.evaluation import evaluate


def run(arguments: argparse.Namespace) -> int:
    model = load(arguments.checkpoint, device(arguments.device))
    report = evaluate(
        model,
        arguments.config,
        arguments.out,
        seed=arguments.seed,
        data_dir=arguments.data_dir,
        checkpoint=str(arguments.checkpoint),
    )
    print(report.table())
    return 1 if report.failed else 0


def device(name: str) -> torch.device:
    """The device of `--device`; ConfigError where it is not there."""
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError) as error:  # torch's ways of saying that it is not there
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--device {name}: cannot be used ({reason}). See `anyformer doctor`.") from error
