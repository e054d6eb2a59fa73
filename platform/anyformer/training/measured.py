"""What had to be encoded so that its length is known, from the planning of a batch to its preparation."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

import numpy as np
import torch

from anyformer.batch import Batch
from anyformer.tokens import Tokens, counting

T = TypeVar("T")

MOST_MEASURED = 2**25
"""Bytes that are held of it. A plan is a step ahead of what is prepared; where all is measured first, much is held."""

Place = tuple[str, int]
"""A task, and an index among its samples."""


class Held(Generic[T]):
    """Things by sample, each until it is taken. Of too many the oldest go."""

    def __init__(self) -> None:
        self._there: OrderedDict[Place, tuple[T, int]] = OrderedDict()
        self._size = 0

    def put(self, place: Place, thing: T, size: int) -> None:
        """size: in bytes."""
        self.take(place)
        self._there[place] = (thing, size)
        self._size += size
        while self._size > MOST_MEASURED:
            self._size -= self._there.popitem(last=False)[1][1]

    def get(self, place: Place) -> T | None:
        return self._there.get(place, (None, 0))[0]

    def take(self, place: Place) -> T | None:
        """It is not held any more."""
        thing, size = self._there.pop(place, (None, 0))
        self._size -= size
        return thing


Told = tuple[int, bytes]
"""How long a sample's example is, and the fields that were encoded to know it, as `packed`."""


@dataclass(frozen=True)
class Given:
    """What a worker is given along with a request: fields of its samples that were encoded already, and samples whose
    lengths will be needed later."""

    encoded: Mapping[Place, bytes] = field(default_factory=dict)
    ahead: Sequence[Place] = ()


@dataclass(frozen=True)
class Made:
    """What a worker gives back: a batch, and what it was asked ahead."""

    batch: Batch
    told: Mapping[Place, Told]

    def pin_memory(self) -> Made:
        return replace(self, batch=self.batch.pin_memory())


def size(fields: Mapping[str, Tokens]) -> int:
    """Bytes of encoded fields."""
    return sum(tokens.bytes for tokens in fields.values())


def packed(fields: Mapping[str, Tokens]) -> bytes:
    """Encoded fields for another process."""
    written = io.BytesIO()
    writer = pickle.Pickler(written, pickle.HIGHEST_PROTOCOL)
    writer.dispatch_table = {torch.Tensor: _array, Tokens: _tokens}
    writer.dump(fields)
    return written.getvalue()


def unpacked(fields: bytes) -> Mapping[str, Tokens]:
    return pickle.loads(fields)


def _array(tensor: torch.Tensor) -> tuple:
    """A tensor as its bytes: torch would write a file for each, in shared memory or within the bytes."""
    array = tensor.numpy()
    return _tensor, (array.tobytes(), array.dtype.char, array.shape)


def _tensor(content: bytes, kind: str, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(bytearray(content), kind).reshape(shape))


def _tokens(tokens: Tokens) -> tuple:
    """Of a text no more than its values, which is most of the time that this takes."""
    counted = counting(tokens.length)
    for name, stream in tokens.streams.items():
        is_counted = stream.slots is counted and tokens.positions.data_ptr() == counted.data_ptr()
        if is_counted and len(tokens.streams) == len(stream.items) == 1:
            return Tokens.of, (name, stream.values)
    return Tokens, (tokens.streams, tokens.length, tokens.positions)
