"""What SIGTERM, SIGUSR1 and SIGINT do to a run: end it at once before it trains, and at a step's end afterwards."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import lightning as L

NUMBERS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Signals:
    """The handler only notes a signal: it may come in the middle of anything, an exchange between ranks included.

    received: the number, once there was one. trains: whether there is something that a step's end could save; until
    then SystemExit with 128 + the number ends the process where it is.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.trains = False
        self._before: dict[int, Any] = {}

    def listen(self, trainer: L.Trainer) -> None:
        """Until `give_back`. Lightning's own handlers, which end a run without a checkpoint, are left out."""
        self.received, self.trains = None, False
        trainer._signal_connector.register_signal_handlers = _nothing
        if threading.current_thread() is threading.main_thread():
            for number in NUMBERS:
                self._before.setdefault(number, signal.signal(number, self._note))

    def give_back(self) -> None:
        """Signals mean again what they meant before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before, self.trains = {}, False

    @property
    def status(self) -> int:
        """The exit status that says which signal ended the run, on this rank or on another."""
        return 128 + (self.received or signal.SIGTERM)

    def _note(self, number: int, frame: FrameType | None) -> None:
        again, self.received = self.received == number, number
        if not self.trains:
            raise SystemExit(self.status)
        if again and number == signal.SIGINT:
            raise KeyboardInterrupt  # asked twice: do not wait for the step's end


def _nothing() -> None:
    """Instead of Lightning's handlers."""
