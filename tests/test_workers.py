"""Data workers that die or hang are named with their samples, within seconds, and none is left behind."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import runs
from toys import Letters

from anyformer.errors import ConfigError, ProcessError

pytestmark = pytest.mark.usefixtures("toys")


class Spoilt(Letters):
    """Encodes once; at the second text something happens to the process. Registered under the toys' name."""

    act = staticmethod(lambda: None)
    done = 0

    def encode(self, raw):
        type(self).done += 1
        if type(self).done > 1:
            type(self).act()
        return super().encode(raw)


class Killed(Spoilt):
    act = staticmethod(lambda: os.kill(os.getpid(), signal.SIGKILL))


class Frozen(Spoilt):
    act = staticmethod(lambda: os.kill(os.getpid(), signal.SIGSTOP))


class Busy(Spoilt):
    act = staticmethod(lambda: time.sleep(600))


SILENT = r"Data worker 0 \(pid \d+\) has not answered for 45 s; it should prepare words 'train-\d+'.*patience"


def children() -> set[int]:
    """Processes whose grandparent is this one: the fork server's."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if state != "Z":
            parents[int(stat.parent.name)] = int(parent)
    return {process for process, parent in parents.items() if parents.get(parent) == os.getpid()}


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Killed, r"Data worker [01] \(pid \d+\) died \(SIGKILL\) while it prepared words 'train-\d+'.* memory"),
        (Frozen, SILENT),
        pytest.param(Busy, SILENT, marks=pytest.mark.slow),  # waits for as long again
    ],
)
def test_a_lost_worker_is_named_with_its_samples(kind, said):
    runs.preload()
    mixture = runs.mixture(tasks={"words": {}}, tokenizers={"letters": kind()}, workers=2, patience=15)
    mixture.setup()
    before = children()
    with pytest.raises(ProcessError, match=said):
        list(mixture.train_dataloader())
    for _ in range(100):
        if not children() - before:
            break
        time.sleep(0.1)
    assert not children() - before


def test_patience_must_be_some():
    with pytest.raises(ConfigError, match="patience=0: expected the seconds"):
        mixture = runs.mixture(patience=0)
        mixture.setup()
        mixture.train_dataloader()
