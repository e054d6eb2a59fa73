"""`anyformer evaluate`: the cross-modal evaluation job."""

from __future__ import annotations

import argparse

from anyformer.checkpoint import load
from anyformer.evaluation import evaluate


def run(arguments: argparse.Namespace) -> int:
    model = load(arguments.checkpoint, arguments.device)
    report = evaluate(model, arguments.config, arguments.out, seed=arguments.seed, checkpoint=str(arguments.checkpoint))
    print(report.table())
    return 1 if report.failed else 0
