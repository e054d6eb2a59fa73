"""Which samples make up which batch: a pure function of the seed and the batch's number.

Nothing is drawn from a generator's state. The plan is computed in the main process; workers encode, so
their number changes nothing, and a resumed run continues exactly where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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


@dataclass(frozen=True)
class Ramp:
    """A weight over optimiser steps: `first` up to step `since`, `last` from step `until` on, between them a line."""

    first: float
    last: float
    since: int = 0
    until: int = 0

    def __call__(self, step: int) -> float:
        if step >= self.until:
            return self.last
        done = max(0, step - self.since) / (self.until - self.since)
        return self.first + (self.last - self.first) * done

    @classmethod
    def of(cls, task: str, given: Any) -> Ramp:
        """From a number, or `{from, to, until}` and perhaps `since`; ConfigError for anything else."""
        if isinstance(given, Mapping):
            known = {"from", "to", "until", "since"}
            numbers = all(_is_number(given.get(key, 0)) for key in known)
            if {"from", "to", "until"} <= given.keys() <= known and numbers:
                found = cls(float(given["from"]), float(given["to"]), int(given.get("since", 0)), int(given["until"]))
                if min(found.first, found.last) >= 0 < max(found.first, found.last) and 0 <= found.since < found.until:
                    return found
        elif _is_number(given) and given > 0:
            return cls(float(given), float(given))
        raise ConfigError(
            f"Task {task!r} has weight={given!r}; expected a number above 0, or `{{from: 4, to: 1, until: 1000}}`: "
            "weights of 0 or more, one above it, and the step at which the second is reached, behind `since`."
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")


def lot(task: str, size: int, seed: int, few: int | None) -> Sequence[int]:
    """Which of a task's training samples take part: all, or so many of them, drawn by lot."""
    if few is None:
        return range(size)
    if not 0 < few <= size:
        raise ConfigError(f"Task {task!r} has samples={few} of {size}; expected a number from 1 to {size}.")
    return sorted(keyed(seed, "few", task).permutation(size)[:few].tolist())


class Source:
    """One task's training samples in shuffled passes, without end.

    unreadable: whether a sample that cannot be measured is passed over. few: see `lot`. order: of the samples of a pass
    of this number, where they lie in shards; their lengths are looked up each time, for there may be very many.
    """

    def __init__(
        self,
        task: str,
        size: int,
        length: Callable[[int], int],
        seed: int,
        unreadable: Unreadable | None = None,
        few: int | None = None,
        order: Callable[[int], Sequence[int]] | None = None,
    ) -> None:
        if size == 0:
            raise ConfigError(f"Task {task!r} has no training samples.")
        self.indices = lot(task, size, seed, few)
        self.task, self.size, self.seed = task, len(self.indices), seed
        self._length, self._unreadable = length, unreadable or Unreadable({})
        self._lengths: dict[int, int | None] = {}
        self._passes: dict[int, Sequence[int] | np.ndarray] = {}
        self._order = order
        self._reached = self._told = 0  # see `ahead`

    def at(self, cursor: int) -> Reference:
        epoch, place = divmod(cursor, self.size)
        if epoch not in self._passes:
            self._passes = {epoch: self._pass(epoch)}
        self._reached = cursor
        return Reference(self.task, self.indices[int(self._passes[epoch][place])], epoch)

    def ahead(self, begin: int, end: int, most: int) -> list[int]:
        """Samples of the first pass whose lengths will be asked for: of those from `begin` to `end` behind the latest
        one the next, so many at most, each told once."""
        first = max(self._told, self._reached + begin)
        last = min(first + most, self._reached + end, self.size)
        self._told = max(first, last)
        if self._order is not None or 0 not in self._passes:
            return []
        coming = (self.indices[int(place)] for place in self._passes[0][first:last])
        return [index for index in coming if index not in self._lengths]

    def _pass(self, epoch: int) -> Sequence[int] | np.ndarray:
        if self._order is not None:
            return self._order(epoch)
        return keyed(self.seed, "pass", self.task, epoch).permutation(self.size)

    def length(self, index: int) -> int | None:
        """None for a sample that cannot be measured and is passed over."""
        if self._order is not None:
            return self._length(index)
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

    weights: of the tasks, in proportion to which they have shares; they may change from step to step, each of `every`
    batches. limits: the most tokens of a batch from sources of a kind, kinds: of which each is; what a limit refuses is
    owed to nobody, and the batch is smaller.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        weights: Sequence[float | Ramp],
        budget: int,
        every: int = 1,
        limits: Mapping[str, int] | None = None,
        kinds: Sequence[str] = (),
    ) -> None:
        if not sources:
            raise ConfigError("A mixture needs at least one task.")
        self.sources, self.budget, self.every = list(sources), budget, every
        self.ramps = [weight if isinstance(weight, Ramp) else Ramp(weight, weight) for weight in weights]
        if any(max(r.first, r.last) <= 0 or min(r.first, r.last) < 0 for r in self.ramps):
            raise ConfigError(f"Mixture weights must be positive; got {list(weights)}.")
        for step in sorted({step for ramp in self.ramps for step in (ramp.since, ramp.until)}):
            if sum(ramp(step) for ramp in self.ramps) <= 0:
                raise ConfigError(
                    f"All weights of the mixture are 0 at step {step}; expected one above it at any time."
                )
        self.kinds, self.limits = list(kinds) or [""] * len(self.sources), dict(limits or {})

    def shares(self, batch: int) -> list[float]:
        """Each task's part of the tokens of the batch of this number."""
        weights = [ramp(batch // self.every) for ramp in self.ramps]
        return [weight / sum(weights) for weight in weights]

    def batches(self, start: int = 0) -> Iterator[list[Reference]]:
        """Batch number `start`, `start + 1`, … without end."""
        cursors, owed = [0] * len(self.sources), [0.0] * len(self.sources)
        number = 0
        while True:
            batch = self._next(self.shares(number), cursors, owed)
            if number >= start:
                yield batch
            number += 1

    def _next(self, shares: Sequence[float], cursors: list[int], owed: list[float]) -> list[Reference]:
        """One batch; moves the cursors and the debts on."""
        batch: list[Reference] = []
        room, left, refused = self.budget, dict(self.limits), 0.0
        while True:  # once, but where limits have refused so much that nobody is owed anything
            for task, share in enumerate(shares):
                owed[task] += share * self.budget
            if max(owed) > 0:
                break
        for task in sorted(range(len(owed)), key=lambda t: -owed[t]):
            kind = self.kinds[task]
            while owed[task] > 0:
                reference, length, behind = self._peek(task, cursors[task])
                if length > left.get(kind, length):
                    refused, owed[task] = refused + owed[task], 0.0
                elif length > room:
                    break
                else:
                    batch.append(reference)
                    cursors[task], owed[task], room = behind, owed[task] - length, room - length
                    left |= {kind: left[kind] - length} if kind in left else {}
        for task, share in enumerate(shares):  # room that nothing fitted into is owed to nobody
            owed[task] -= share * max(0.0, room - refused)
        return batch

    def _peek(self, task: int, cursor: int) -> tuple[Reference, int, int]:
        """The next sample that can be measured, its length, and the cursor behind it."""
        source = self.sources[task]
        reference = source.at(cursor)
        while (length := source.length(reference.index)) is None:
            cursor += 1
            reference = source.at(cursor)
        most = min(self.budget, self.limits.get(self.kinds[task], self.budget))
        if length > most:
            setting = "token_budget" if most == self.budget else f"modality_budgets: {self.kinds[task]}"
            raise LimitError(
                f"Task {source.task!r}, sample {reference.index}: {length} tokens do not fit a batch of "
                f"{setting}={most}. Raise the budget or cut the task's samples."
            )
        return reference, length, cursor + 1
