"""`anyformer diff A B [C …]`: how architectures differ, switch by switch, each from the one before it."""

from __future__ import annotations

import argparse
from itertools import groupby, pairwise

from anyformer.architecture import Architecture, Difference, differences, read

WIDE = 110
"""Columns."""


def run(arguments: argparse.Namespace) -> int:
    models = [(name, read(name)) for name in (arguments.first, *arguments.others)]
    print("\n\n".join(page(before, after) for before, after in pairwise(models)))
    return 0


def page(before: tuple[str, Architecture], after: tuple[str, Architecture]) -> str:
    """What is told of two models: a line for each switch, under its group's name."""
    lines = [f"{before[0]} -> {after[0]}"]
    for group, found in groupby(differences(before[1], after[1]), key=lambda difference: difference.group):
        lines += ["", f"  {group}", *map(_line, found)]
    if len(lines) == 1:
        lines += ["", "  no switch differs"]
    return "\n".join(lines)


def _line(difference: Difference) -> str:
    """In two lines where one would be too long to read."""
    line = f"    {difference}"
    return line if len(line) <= WIDE else f"    {difference.label}: {difference.before}\n      -> {difference.after}"
