"""Whoever conducts a trial leaves nothing behind, told to end or not."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from anyformer.chaos.conductor import attempt
from anyformer.chaos.trial import Trial


def test_told_to_end_it_ends_its_trial_too():
    """Which is a group of processes of its own, so a terminal or a scheduler would not reach it."""
    conductor = os.fork()
    if conductor == 0:
        status = 1
        try:
            attempt(Trial("hangs", "", 1, "anyformer.chaos.record:hangs", seconds=60), 0)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        finally:
            os._exit(status)
    trials: list[int] = []
    for _ in range(600):
        if trials := children(conductor):
            break
        time.sleep(0.05)
    time.sleep(0.2)
    os.kill(conductor, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(conductor, 0)[1]) == 128 + signal.SIGTERM
    assert trials and not any(Path(f"/proc/{trial}").exists() for trial in trials)


def children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
        except OSError:
            continue
    return found
