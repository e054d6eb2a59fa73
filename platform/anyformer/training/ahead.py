"""Lengths for the plan from those who make batches: workers encode ahead what a plan will ask for, once.

A plan needs each text's length, and to know it the text must be encoded. The training process has other things to do:
it asks for that along with its requests, early enough to have the answer when the plan comes to it. What was encoded
comes back with the length, and goes to whoever makes the batch. What is not there in time the plan measures itself:
which batches there are follows from the lengths alone, whoever found them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from anyformer.batch import Batch
from anyformer.training.measured import Given, Made, Place
from anyformer.training.mixture import Reference, Source
from anyformer.training.preparation import Preparation


class Ahead:
    """Of one training loader. waiting: how many requests are under way at a time; every: how many make a window; ranks:
    for so many the plan draws as many samples as for this one."""

    def __init__(
        self, preparation: Preparation, sources: Sequence[Source], waiting: int, every: int = 1, ranks: int = 1
    ) -> None:
        self._preparation, self._waiting, self._every, self._ranks = preparation, waiting, every, ranks
        self._sources = [source for source in sources if preparation.measures_by_encoding(source.task)]
        self._most = dict.fromkeys((source.task for source in self._sources), 0)
        self._window: Sequence[Sequence[Reference]] = ()
        self._encoded: Mapping[Place, bytes] = {}

    def asked(self, request: tuple[Sequence[Sequence[Reference]], int]) -> tuple:
        """The request with what its worker is given. What was encoded goes with each request of its window."""
        window, index = request
        if window is not self._window:
            self._window, self._encoded = window, self._taken(window)
        ahead = [(s.task, index) for s in self._sources for index in self._coming(s, self._most[s.task])]
        return window, index, Given(self._encoded, ahead)

    def _coming(self, source: Source, most: int) -> list[int]:
        """An answer is there when all that is under way now has been planned. most: that a request takes."""
        far = self._waiting * most
        return source.ahead(far, far + 2 * most, 2 * most)

    def _taken(self, window: Sequence[Sequence[Reference]]) -> Mapping[Place, bytes]:
        places = [(reference.task, reference.index) for batch in window for reference in batch]
        drawn = Counter(task for task, _ in places)
        self._most = {task: max(n, -(-drawn[task] * self._ranks // self._every)) for task, n in self._most.items()}
        found = {place: self._preparation.told.take(place) for place in dict.fromkeys(places)}
        return {place: told[1] for place, told in found.items() if told is not None}

    def answered(self, made: Any) -> Batch | Any:
        """The batch; an error is handed on as it is."""
        if not isinstance(made, Made):
            return made
        for place, told in made.told.items():
            self._preparation.told.put(place, told, len(told[1]))
        return made.batch
