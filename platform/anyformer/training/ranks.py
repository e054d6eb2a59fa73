"""Signs of life between the ranks of a run, so that none waits for ever for one that is gone."""

from __future__ import annotations

import math
import os
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import lightning as L
import torch.distributed
from lightning.pytorch.callbacks import Callback

from anyformer.errors import ConfigError

GRACE = 5.0  # seconds that a rank has to end by itself when another one is gone
MEETING = 0.05  # seconds between two looks at the ranks until each has shown itself
SENTENCE = 400  # characters of an error that the other ranks repeat
AGAIN = 75  # the exit status of a run that may simply be started again (EX_TEMPFAIL of sysexits.h)


@dataclass
class Sign:
    """What a rank last said of itself, and when it said something new. One that has said nothing yet may be at work
    still, on fitting a tokenizer for instance."""

    text: str = ""
    seen: float = math.inf

    @property
    def place(self) -> tuple[str, int]:
        """Its host and process."""
        _, host, pid, _ = self.text.split(" ", 3) if self.text else ("", "", "0", "")
        return host, int(pid)

    @property
    def state(self) -> str:
        return self.text.split(" ", 3)[3] if self.text else ""


class SignsOfLife(Callback):
    """Every rank says every few seconds that it lives. One that died, failed or does not answer is named by all others,
    and they end, with status 75: a collective operation would wait for it, for half an hour or for ever.

    every: seconds between two signs. patience: after so many without one a rank is given up; it is ended if it is on
    this machine. It is counted from a rank's first sign. Where there is one rank there is nothing to do.
    """

    def __init__(self, every: float = 2.0, patience: float = 40.0) -> None:
        if not 0 < every < patience:
            raise ConfigError(f"Signs of life have {every=} and {patience=}; expected 0 < every < patience.")
        self.every, self.patience = every, patience
        self._stop: threading.Event | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if trainer.world_size == 1 or self._stop is not None:
            return
        self._rank, self._stop, self._state = trainer.global_rank, threading.Event(), "lives"
        self._signs = {rank: Sign() for rank in range(trainer.world_size)}
        store: Any = torch.distributed.distributed_c10d._get_default_store()
        store = store.clone()  # a connection of its own: the main thread may wait on the other one
        store.set_timeout(timedelta(seconds=self.patience))
        self._told = time.monotonic()
        for target, arguments in ((self._tell, (store, self._stop)), (self._watch, (self._stop,))):
            threading.Thread(target=target, args=arguments, daemon=True).start()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if self._stop is None:
            return
        self._state = " ".join(f"failed with {type(exception).__name__}: {exception}".split())[:SENTENCE]
        if (lost := self._lost()) is not None:
            self._say(*lost)
        self._stop.wait(2 * self.every)  # the others are told
        self._end()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._state = "has ended"
        self._end()

    def _end(self) -> None:
        if self._stop is not None:
            self._stop.set()
            self._stop = None

    def _tell(self, store: Any, stop: threading.Event) -> None:
        """Writes this rank's sign and reads the others'; the store is held by rank 0, so it may hang with that."""
        host, pid, count = socket.gethostname(), os.getpid(), 0
        while True:
            last = stop.is_set()
            try:
                store.set(f"life of rank {self._rank}", f"{count} {host} {pid} {self._state}")
                for rank, sign in self._signs.items():
                    key = f"life of rank {rank}"
                    if rank != self._rank and not last and store.check([key]):
                        if (text := store.get(key).decode()) != sign.text:
                            sign.text, sign.seen = text, time.monotonic()
                self._told = time.monotonic()
            except RuntimeError:
                pass  # nothing was heard; whoever that concerns is found by the watch
            if last:
                return
            count += 1
            met = all(sign.text for rank, sign in self._signs.items() if rank != self._rank)
            stop.wait(self.every if met else MEETING)  # whoever is lost soon after the start is known by then

    def _watch(self, stop: threading.Event) -> None:
        looked = time.monotonic()
        while not stop.wait(self.every):
            now = time.monotonic()
            if now - looked > self.every + self.patience / 2:  # this process was the one that stood still
                self._told = now
                for sign in self._signs.values():
                    sign.seen = now if sign.text else math.inf
            looked = now
            if (lost := self._lost()) is not None:
                self._say(*lost)
                if not stop.wait(GRACE):
                    self._end_the_run(lost[0])
                return

    def _lost(self) -> tuple[int, str] | None:
        """A rank without which nothing goes on, and what is known of it."""
        now, silent_store = time.monotonic(), time.monotonic() - self._told > self.patience
        for rank, sign in self._signs.items():
            if rank == self._rank or sign.state == "has ended":
                continue
            host, pid = sign.place
            if sign.state.startswith("failed"):
                return rank, sign.state
            if host == socket.gethostname() and _is_gone(pid):
                return rank, f"(pid {pid}) has died"
            silence = now - (min(sign.seen, self._told) if rank == 0 else sign.seen)
            if silence > self.patience and (rank == 0 or not silent_store):
                where = f"(pid {pid} on {host}) " if pid else ""
                return rank, f"{where}has shown no sign of life for {silence:.0f} s"
        return None

    def _say(self, rank: int, what: str) -> None:
        print(f"anyformer: rank {rank} {what.rstrip('.')}, so rank {self._rank} ends too.", file=sys.stderr, flush=True)

    def _end_the_run(self, rank: int) -> None:
        """Without unwinding: the main thread may wait within a library and cannot be woken."""
        host, pid = self._signs[rank].place
        if pid and host == socket.gethostname() and not _is_gone(pid):
            os.kill(pid, signal.SIGKILL)
        os._exit(AGAIN)


def _is_gone(pid: int) -> bool:
    """Whether a process of this machine has ended, waited for by its parent or not."""
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except ProcessLookupError:
        return True
    except OSError:  # another user's, or a system without /proc
        return False
