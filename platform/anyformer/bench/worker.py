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
from anyformer.bench.suite import CPU, Work, read


def turn(work: Work, seconds: float, device: str = CPU) -> dict[str, float]:
    """Units, seconds that count and seconds that passed, of one turn."""
    units, count, wall, runs = 0.0, _clock(device), time.perf_counter(), 0
    while not runs or _clock(device) - count < seconds:
        units += work.run()
        runs += 1
    spent = {"spent": _clock(device) - count, "wall": time.perf_counter() - wall}
    return {"units": units, "runs": runs, **spent, "peak_mb": _peak(device)}


def _clock(device: str) -> float:
    """CPU seconds, of children that have ended too: what else runs on the machine does not count. On an accelerator,
    when all that it was given is done."""
    if device == CPU:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.process_time() + used.ru_utime + used.ru_stime
    import torch

    torch.accelerator.synchronize()
    return time.perf_counter()


def _peak(device: str) -> float:
    """The most memory that the process has had, in MB: on Linux and on accelerators since the case began; macOS counts
    bytes."""
    if device != CPU:
        import torch

        return torch.get_device_module(device).max_memory_allocated() / 2**20
    status = Path("/proc/self/status")
    if status.exists():
        kib = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(kib) / 2**10
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size / (2**20 if sys.platform == "darwin" else 2**10)


def _forget_peak(device: str) -> None:
    """Else a case would show the peak of a larger one before it."""
    if device != CPU:
        import torch

        return torch.get_device_module(device).reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _use(threads: int | None) -> None:
    """As many threads as a case asks for, or as the process was given."""
    if threads is not None or "torch" in sys.modules:
        import torch

        torch.set_num_threads(threads or int(os.environ.get("OMP_NUM_THREADS", 1)))


def begin(file: Path, name: str, case: str, toy: bool, device: str = CPU) -> Work:
    """The work of one case; its first round is done, so that what is made once is not timed."""
    _forget_peak(device)
    work = Work(LIMITS[case](device)) if name == LIMIT else _made(file, name, case, toy, device, device)
    work.run()
    return work


def _made(file: Path, name: str, case: str, toy: bool, device: str, place: str) -> Work:
    """place: where it is done, at the sizes for `device`."""
    suite = read(file)
    contender = next(one for one in suite.contenders if one.name == name)
    _use(suite.cases[case].get("threads"))
    settings = suite.settings(case, toy, device)
    settings.device = place
    return contender.make(settings)


def serve(file: Path, name: str, hear: Callable[[], str], say: Callable[[str], Any]) -> None:
    work, device = None, CPU
    while line := hear():
        asked = json.loads(line)
        try:
            if "case" in asked:
                work, device = None, asked["device"]  # the one before is gone before the next one is made
                start = _clock(device)
                work = begin(file, name, **asked)
                answer: dict[str, Any] = {"answer": _numbers(work), "first": _clock(device) - start}
            elif "said" in asked:
                answer = {"answer": _numbers(_made(file, name, asked.pop("said"), **asked, place=CPU))}
            else:
                assert work is not None, "asked for a turn before a case"
                answer = turn(work, asked["seconds"], device)
        except Exception as error:  # a peer may fail in any way; that is its row
            answer = {"failed": " ".join(f"{type(error).__name__}: {error}".split())[:200]}
        say(json.dumps(answer))


def _numbers(work: Work) -> list[float] | None:
    return None if work.answer is None else [float(number) for number in work.answer]


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
