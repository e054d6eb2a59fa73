"""`anyformer compare`: is the second report better, and is that more than noise?"""

from __future__ import annotations

import argparse

from anyformer.evaluation import Report, compare
from anyformer.evaluation.comparison import comparison_table


def run(arguments: argparse.Namespace) -> int:
    rows = compare(Report.load(arguments.first), Report.load(arguments.second))
    print(comparison_table(rows))
    return 0
