"""What had to be encoded so that its length is known, from the planning of a batch to its preparation."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from anyformer.tokens import Tokens

MOST_MEASURED = 2**25
"""Bytes that are held of it. A plan is a step ahead of what is prepared; where all is measured first, much is held."""

Place = tuple[str, int]
"""A task, and an index among its samples."""


class Measured:
    """Tokens by sample and field, each until it is taken. Of too many the oldest go: they are encoded again."""

    def __init__(self) -> None:
        self._there: OrderedDict[Place, Mapping[str, Tokens]] = OrderedDict()
        self._held = 0

    def put(self, place: Place, tokens: Mapping[str, Tokens]) -> None:
        self.take(place)
        self._there[place] = tokens
        self._held += _bytes(tokens)
        while self._held > MOST_MEASURED:
            self._held -= _bytes(self._there.popitem(last=False)[1])

    def take(self, place: Place) -> Mapping[str, Tokens]:
        """The fields that were encoded, without those that were not; they are not held any more."""
        tokens = self._there.pop(place, {})
        self._held -= _bytes(tokens)
        return tokens

    def handed(self, places: Iterable[Place]) -> bytes:
        """What is held of these samples, taken, for another process to `accept`."""
        found = {place: self.take(place) for place in places if place in self._there}
        written = io.BytesIO()
        _Writer(written, pickle.HIGHEST_PROTOCOL).dump(found)
        return written.getvalue()

    def accept(self, handed: bytes) -> None:
        for place, tokens in pickle.loads(handed).items():
            self.put(place, tokens)


class _Writer(pickle.Pickler):
    """Tensors as the arrays that they are: torch would write a file for each, in shared memory or within the bytes."""

    def reducer_override(self, obj: Any) -> Any:
        return (torch.from_numpy, (obj.numpy(),)) if isinstance(obj, torch.Tensor) else NotImplemented


def _bytes(tokens: Mapping[str, Tokens]) -> int:
    return sum(each.bytes for each in tokens.values())
