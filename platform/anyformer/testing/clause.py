"""How a check speaks: which plugin, which clause, what was expected, what came, and the cure."""

from __future__ import annotations

import reprlib
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from anyformer.errors import AnyformerError, ContractError
from anyformer.tokens import Stream, Tokens

SECONDS, BYTES = 30, 2**30  # that one hostile value may cost


@dataclass(frozen=True)
class Clause:
    """One sentence of a contract, and how a plugin that breaks it is told so."""

    plugin: str
    title: str
    cure: str

    def breach(self, expected: str, got: str) -> ContractError:
        return ContractError(
            f"The {self.plugin} breaks the clause {self.title!r}: expected {expected}, got {got}. {self.cure}"
        )

    def require(self, holds: bool, expected: str, got: object, cure: str | None = None) -> None:
        """Raises ContractError unless the clause holds; `got` is shown short."""
        if not holds:
            clause = self if cure is None else replace(self, cure=cure)
            raise clause.breach(expected, got if isinstance(got, str) else shown(got))

    @contextmanager
    def sound(self, expected: str) -> Generator[None]:
        """Whatever escapes the body, but a breach already named, breaks this clause."""
        try:
            yield
        except ContractError:
            raise
        except Exception as error:
            raise self.breach(expected, _named(error)) from error

    @contextmanager
    def refuses(self, what: str, error: type[AnyformerError] = AnyformerError) -> Generator[None]:
        """The body must raise one of anyformer's own errors."""
        expected = f"{error.__name__} for {what}"
        try:
            yield
        except error:
            return
        except Exception as other:
            raise self.breach(expected, _named(other)) from other
        raise self.breach(expected, "no error")

    @contextmanager
    def accepts_or_refuses(self, what: str) -> Generator[None]:
        """The body may work or raise one of anyformer's own errors; nothing else may escape."""
        with self.sound(f"soundness or an AnyformerError for {what}"):
            try:
                yield
            except ContractError:
                raise
            except AnyformerError:
                pass

    @contextmanager
    def in_bounds(self, what: str) -> Generator[None]:
        """The body may take so much of a processor's time, and of memory beyond the most that the process has had."""
        began, held = time.process_time(), _peak()
        yield
        seconds, more = time.process_time() - began, _peak() - held
        self.require(seconds <= SECONDS, f"at most {SECONDS} s for {what}", f"{seconds:.0f} s")
        self.require(more <= BYTES, f"at most {BYTES >> 20} MB for {what}", f"{more >> 20} MB")


def _peak() -> int:
    """Bytes of memory that this process has had at most; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split()).rstrip('.')}"


def shown(value: object) -> str:
    """A value in few characters; arrays by dtype and shape."""
    if isinstance(value, np.ndarray | Tensor):
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, tuple | list) and len(value) <= 4:
        return f"({', '.join(map(shown, value))})"
    if is_dataclass(value) and not isinstance(value, type):
        parts = (f"{f.name}={shown(getattr(value, f.name))}" for f in fields(value))
        return f"{type(value).__name__}({', '.join(parts)})"
    return reprlib.repr(value)


def equal(one: Any, other: Any) -> bool:
    """Deep equality of raw values: arrays by dtype, shape and content (NaN equals NaN)."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and equal(one.numpy(force=True), other.numpy(force=True))
    if isinstance(one, np.ndarray | np.generic) or isinstance(other, np.ndarray | np.generic):
        left, right = np.asarray(one), np.asarray(other)
        same = left.dtype == right.dtype and left.shape == right.shape
        return same and np.array_equal(left, right, equal_nan=left.dtype.kind in "fc")
    if type(one) is not type(other):
        return False
    if is_dataclass(one) and not isinstance(one, type):
        return all(equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    if isinstance(one, Mapping):
        return list(one) == list(other) and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, Sequence) and not isinstance(one, str | bytes):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other) or (one != one and other != other)


def equal_tokens(one: Tokens, other: Tokens) -> bool:
    """Same streams in the same order, same values, slots, items and positions."""
    return (
        one.length == other.length
        and equal(one.positions, other.positions)
        and list(one.streams) == list(other.streams)
        and all(_equal_streams(one.streams[name], other.streams[name]) for name in one.streams)
    )


def _equal_streams(one: Stream, other: Stream) -> bool:
    return equal(one.values, other.values) and equal(one.slots, other.slots) and equal(one.items, other.items)


def kind_of(value: Any) -> object:
    """What a raw value is, without how large it is: types, dtypes and axes, all the way down."""
    if isinstance(value, np.ndarray | Tensor):
        return (type(value).__name__, str(value.dtype), value.ndim)
    if isinstance(value, np.generic):
        return str(value.dtype)
    if is_dataclass(value) and not isinstance(value, type):
        return (type(value).__name__, *(kind_of(getattr(value, f.name)) for f in fields(value)))
    if isinstance(value, tuple):
        return tuple(kind_of(part) for part in value)
    return type(value).__name__
