"""Runs trials, each in a forked process of its own, and says how each ended."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Generator
from multiprocessing.connection import Connection
from pathlib import Path

from anyformer.chaos.ledger import Line
from anyformer.chaos.trial import Outcome, Trial

TAIL = 300  # characters of what a failed trial printed


def attempt(trial: Trial, index: int) -> Line:
    """One trial; its folder and whatever it started are gone afterwards."""
    run, started = trial.load(), time.monotonic()
    with (
        _ending_together(),
        tempfile.TemporaryDirectory(prefix="anyformer-chaos-", ignore_cleanup_errors=True) as place,
    ):
        outcome = _forked(run, index, Path(place), trial.seconds)
    return Line(trial.name, index, outcome.failure, dict(outcome.notes), round(time.monotonic() - started, 2))


@contextlib.contextmanager
def _ending_together() -> Generator[None]:
    """Told to end, this process first ends the trial that it has started: a group of processes of its own."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _forked(run: Callable[[int, Path], Outcome], index: int, place: Path, seconds: float) -> Outcome:
    folder, output = place / "trial", place / "output.txt"
    folder.mkdir()
    reader, writer = multiprocessing.Pipe(duplex=False)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        reader.close()
        _live(run, index, folder, output, writer)
    writer.close()
    with contextlib.suppress(OSError):  # both do it, because either may be the first to need it
        os.setpgid(child, child)
    try:
        outcome = reader.recv() if reader.poll(seconds) else None
        ended = True
    except EOFError:
        outcome, ended = None, False
    finally:
        status = _end(child, kill=True)
    if outcome is None:
        how = f"did not end within {seconds:g} s" if ended else f"died ({_said(status)})"
        outcome = Outcome(f"The trial {how}.")
    if outcome.passed or not output.exists():
        return outcome
    tail = " ".join(output.read_text(errors="replace")[-TAIL:].split())
    return Outcome(f"{outcome.failure} [… {tail}]" if tail else outcome.failure, outcome.notes)


def _live(run: Callable[[int, Path], Outcome], index: int, folder: Path, output: Path, writer: Connection) -> None:
    """The trial's process; it never returns."""
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)
        with open(output, "wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        try:
            outcome = run(index, folder)
        except BaseException as error:
            traceback.print_exc()
            outcome = Outcome(f"{type(error).__name__}: {' '.join(str(error).split())}")
        writer.send(outcome)
        writer.close()
    finally:
        os._exit(0)


def _end(child: int, kill: bool) -> int:
    """The child's status, once it and all that it started have ended."""
    with contextlib.suppress(ProcessLookupError):
        if kill:
            os.killpg(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def _said(status: int) -> str:
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}"
