"""One contender's process: `python -m anyformer.bench.worker FILE NAME`. It is told by lines of JSON what to do, and
answers each with one."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anyformer.bench.limits import LIMIT, LIMITS
from anyformer.bench.suite import Work, read


def turn(work: Work, seconds: float) -> dict[str, float]:
    """Units, CPU seconds (of children that have ended, too) and seconds that passed, of one turn. CPU time rather than
    the clock's: what else runs on the machine does not count."""
    units, cpu, wall, runs = 0.0, _cpu(), time.perf_counter(), 0
    while not runs or _cpu() - cpu < seconds:
        units += work.run()
        runs += 1
    spent = {"cpu": _cpu() - cpu, "wall": time.perf_counter() - wall}
    return {"units": units, "runs": runs, **spent, "peak_mb": _peak()}


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + used.ru_utime + used.ru_stime


def _peak() -> float:
    """The most memory that the process has had, on Linux since the case began, in MB; macOS counts bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        kib = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(kib) / 2**10
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size / (2**20 if sys.platform == "darwin" else 2**10)


def _forget_peak() -> None:
    """Else a case would show the peak of a larger one before it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def begin(file: Path, name: str, case: str, toy: bool) -> Work:
    """The work of one case; its first round is done, so that what is made once is not timed."""
    _forget_peak()
    if name == LIMIT:
        work = Work(LIMITS[case]())
    else:
        suite = read(file)
        contender = next(one for one in suite.contenders if one.name == name)
        work = contender.make(suite.settings(case, toy))
    work.run()
    return work


def serve(file: Path, name: str, hear: Callable[[], str], say: Callable[[str], Any]) -> None:
    work: Work | None = None
    while line := hear():
        asked = json.loads(line)
        try:
            if "case" in asked:
                work = None  # gone before the next one is made
                work = begin(file, name, asked["case"], asked["toy"])
                answer: dict[str, Any] = {"answer": None if work.answer is None else [float(n) for n in work.answer]}
            else:
                assert work is not None, "asked for a turn before a case"
                answer = turn(work, asked["seconds"])
        except Exception as error:  # a peer may fail in any way; that is its row
            answer = {"failed": " ".join(f"{type(error).__name__}: {error}".split())[:200]}
        say(json.dumps(answer))


def main() -> None:
    file, name = sys.argv[1:]
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer

    def say(line: str) -> None:
        out.write(line + "\n")
        out.flush()

    serve(Path(file), name, sys.stdin.readline, say)


if __name__ == "__main__":
    main()
