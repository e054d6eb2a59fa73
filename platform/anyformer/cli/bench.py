"""`anyformer bench`: ours beside others, in turn, on the same work."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from anyformer.bench import find, names
from anyformer.bench.page import page, section
from anyformer.errors import ConfigError


def run(arguments: argparse.Namespace) -> int:
    """1 if contenders disagree, or ours failed. Being slow is no failure."""
    if arguments.list:
        width = max(map(len, names()))
        for name in names():
            print(f"{name:<{width}}  {find(name).title}")
        return 0
    if not arguments.name and not arguments.page:
        raise ConfigError("`anyformer bench`: expected a name of `anyformer bench --list`, or --page FILE.")
    if arguments.threads < 1 or (arguments.rounds is not None and arguments.rounds < 1):
        raise ConfigError(f"--threads {arguments.threads} --rounds {arguments.rounds}: expected at least 1 of each.")
    out = Path(arguments.out)
    suites = [find(name) for name in arguments.name]
    failed = [_measure(suite, arguments, out) for suite in suites]
    if arguments.page:
        file = Path(arguments.page)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(page([find(name) for name in names()], out), encoding="utf-8")
    return 1 if any(failed) else 0


def _measure(suite, arguments: argparse.Namespace, out: Path) -> bool:
    from anyformer.bench.conductor import conduct

    out.mkdir(parents=True, exist_ok=True)
    tell = lambda said: print(said, file=sys.stderr, flush=True)  # noqa: E731
    line = conduct(suite, arguments.toy, arguments.threads, out, tell, arguments.rounds)
    (out / f"{line['suite']}{'.toy' if arguments.toy else ''}.json").write_text(
        json.dumps(line, indent=1) + "\n", encoding="utf-8"
    )
    print("\n".join(section(suite, line)))
    broken = [row for row in line["rows"] if "failed" in row and row["contender"] == suite.contenders[0].name]
    for what in (*line["disagree"], *(f"{row['contender']}: {row['failed']}" for row in broken)):
        print(f"anyformer: {what}", file=sys.stderr)
    return bool(line["disagree"] or broken)
