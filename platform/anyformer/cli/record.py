"""`anyformer record`: the study `recording`, which keeps its episodes."""

from __future__ import annotations

import argparse
from pathlib import Path

from anyformer.evaluation.study import study


def run(arguments: argparse.Namespace) -> int:
    settings = {
        "env": arguments.env,
        "policies": arguments.policy,
        "episodes": arguments.episodes,
        "seed": arguments.seed,
        "target": arguments.target,
        "context": arguments.context,
        "minari": arguments.minari,
    }
    print(study("recording", settings, None, Path(arguments.out)).table())
    return 0
