"""`anyformer bench`: ours beside others, in turn, on the same work."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from anyformer.bench import CPU, Suite, find, names
from anyformer.bench.page import page, section
from anyformer.errors import ConfigError


def run(arguments: argparse.Namespace) -> int:
    """1 if contenders disagree, or ours failed. Being slow is no failure."""
    if arguments.list:
        width = max(map(len, names()))
        for name in names():
            print(f"{name:<{width}}  {find(name).title}")
        return 0
    elsewhere = arguments.device != CPU
    if not arguments.name and not arguments.page and not elsewhere:
        raise ConfigError("`anyformer bench`: expected a name of `anyformer bench --list`, or --page FILE.")
    if arguments.threads < 1 or (arguments.rounds is not None and arguments.rounds < 1):
        raise ConfigError(f"--threads {arguments.threads} --rounds {arguments.rounds}: expected at least 1 of each.")
    out = Path(arguments.out)
    suites = [find(name) for name in arguments.name or (_accelerated() if elsewhere else [])]
    if elsewhere and not _is_there(suites):
        suites = []
    failed = [_measure(suite, arguments, out) for suite in suites]
    if arguments.page:
        file = Path(arguments.page)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(page([find(name) for name in names()], out), encoding="utf-8")
    return 1 if any(failed) else 0


def _accelerated() -> list[str]:
    return [name for name in names() if find(name).accelerated is not None]


def _is_there(suites: Sequence[Suite]) -> bool:
    """Whether there is an accelerator; ConfigError for a suite that has no use for one."""
    for suite in suites:
        if suite.accelerated is None:
            raise ConfigError(f"{suite.file.name} is measured on the processor; expected one of {_accelerated()}.")
    import torch

    if not torch.cuda.is_available():
        print("anyformer: there is no accelerator here, so on none anything was measured.", file=sys.stderr)
    return torch.cuda.is_available()


def _measure(suite, arguments: argparse.Namespace, out: Path) -> bool:
    from anyformer.bench.conductor import conduct

    out.mkdir(parents=True, exist_ok=True)
    tell = lambda said: print(said, file=sys.stderr, flush=True)  # noqa: E731
    line = conduct(suite, arguments.toy, arguments.threads, out, tell, arguments.rounds, arguments.device)
    where = "" if arguments.device == CPU else f".{arguments.device}"
    (out / f"{line['suite']}{where}{'.toy' if arguments.toy else ''}.json").write_text(
        json.dumps(line, indent=1) + "\n", encoding="utf-8"
    )
    print("\n".join(section(suite, line)))
    broken = [row for row in line["rows"] if "failed" in row and row["contender"] == suite.contenders[0].name]
    for what in (*line["disagree"], *(f"{row['contender']}: {row['failed']}" for row in broken)):
        print(f"anyformer: {what}", file=sys.stderr)
    return bool(line["disagree"] or broken)
