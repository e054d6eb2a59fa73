"""Which samples make up which batch: a pure function of the seed and the batch's number.

Nothing is drawn from a generator's state. The plan is computed in the main process; workers only encode, so
their number changes nothing, and a resumed run continues exactly where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np

from anyformer.errors import ConfigError, LimitError, SampleError
from anyformer.training.unreadable import Unreadable


@dataclass(frozen=True)
class Reference:
    """One sample to prepare: a task's index, and how often that task's data had been passed before."""

    task: str
    index: int
    epoch: int


def keyed(seed: int, *keys: int | str) -> np.random.Generator:
    """A generator that depends on its keys alone.

    >>> bool(keyed(0, "text", 3).random() == keyed(0, "text", 3).random())
    True
    """
    return np.random.default_rng([seed, *(crc32(k.encode()) if isinstance(k, str) else k for k in keys)])


class Chance:
    """A generator that is made when it is first asked for something; it knows whether it was."""

    def __init__(self, make: Callable[[], np.random.Generator]) -> None:
        self._make, self.was_asked = make, False

    def __getattr__(self, name: str) -> Any:
        if not self.was_asked:
            self.was_asked, self._rng = True, self._make()
        return getattr(self._rng, name)


class Source:
    """One task's training samples in shuffled passes, without end.

    unreadable: whether a sample that cannot be measured is passed over.
    """

    def __init__(
        self, task: str, size: int, length: Callable[[int], int], seed: int, unreadable: Unreadable | None = None
    ) -> None:
        if size == 0:
            raise ConfigError(f"Task {task!r} has no training samples.")
        self.task, self.size, self.seed = task, size, seed
        self._length, self._unreadable = length, unreadable or Unreadable({})
        self._lengths: dict[int, int | None] = {}
        self._passes: dict[int, np.ndarray] = {}

    def at(self, cursor: int) -> Reference:
        epoch, place = divmod(cursor, self.size)
        if epoch not in self._passes:
            self._passes = {epoch: keyed(self.seed, "pass", self.task, epoch).permutation(self.size)}
        return Reference(self.task, int(self._passes[epoch][place]), epoch)

    def length(self, index: int) -> int | None:
        """None for a sample that cannot be measured and is passed over."""
        if index not in self._lengths:
            try:
                self._lengths[index] = self._length(index)
            except SampleError as error:
                if not self._unreadable.skips:
                    raise
                self._unreadable.note([(self.task, index, str(error))])
                self._lengths[index] = None
        return self._lengths[index]


class Plan:
    """Batches of at most `budget` tokens in which each task has its share of tokens.

    A task is owed `share · budget` tokens by each batch; it gives samples while it is owed any and the batch
    has room, and what it gave too little or too much is carried to the next batch.
    """

    def __init__(self, sources: Sequence[Source], shares: Sequence[float], budget: int) -> None:
        if not sources:
            raise ConfigError("A mixture needs at least one task.")
        if min(shares) <= 0:
            raise ConfigError(f"Mixture weights must be positive; got {list(shares)}.")
        self.sources = list(sources)
        self.shares = [share / sum(shares) for share in shares]
        self.budget = budget

    def batches(self, start: int = 0) -> Iterator[list[Reference]]:
        """Batch number `start`, `start + 1`, … without end."""
        cursors, owed = [0] * len(self.sources), [0.0] * len(self.sources)
        number = 0
        while True:
            batch = self._next(cursors, owed)
            if number >= start:
                yield batch
            number += 1

    def _next(self, cursors: list[int], owed: list[float]) -> list[Reference]:
        """One batch; moves the cursors and the debts on."""
        batch: list[Reference] = []
        room = self.budget
        for task, share in enumerate(self.shares):
            owed[task] += share * self.budget
        for task in sorted(range(len(owed)), key=lambda t: -owed[t]):
            while owed[task] > 0:
                reference, length, behind = self._peek(task, cursors[task])
                if length > room:
                    break
                batch.append(reference)
                cursors[task] = behind
                owed[task] -= length
                room -= length
        for task, share in enumerate(self.shares):  # room that nothing fitted into is owed to nobody
            owed[task] -= share * room
        return batch

    def _peek(self, task: int, cursor: int) -> tuple[Reference, int, int]:
        """The next sample that can be measured, its length, and the cursor behind it."""
        source = self.sources[task]
        reference = source.at(cursor)
        while (length := source.length(reference.index)) is None:
            cursor += 1
            reference = source.at(cursor)
        if length > self.budget:
            raise LimitError(
                f"Task {source.task!r}, sample {reference.index}: {length} tokens do not fit a batch of "
                f"token_budget={self.budget}. Raise the budget or cut the task's samples."
            )
        return reference, length, cursor + 1
