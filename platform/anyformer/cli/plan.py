"""`anyformer plan`: what a long run needs, by arithmetic, as a table of Markdown."""

from __future__ import annotations

import argparse

from anyformer.architecture import read
from anyformer.architecture.plan import Assumptions, plan, table


def run(arguments: argparse.Namespace) -> int:
    chosen = {name: value for name in vars(Assumptions()) if (value := getattr(arguments, name)) is not None}
    print(table(plan(read(arguments.model), arguments.gpus, Assumptions(**chosen)), arguments.gpus))
    return 0
