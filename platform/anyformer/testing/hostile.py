"""Raw values that a data set really contains sooner or later, made by bending good ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

WRONG_KINDS: tuple[Any, ...] = (None, object(), 3 + 4j)
"""Values that are a raw value of no modality."""

ODD_VALUES: tuple[Any, ...] = (
    *("", " ", b"", [], {}, (), True, -1, 10**30, float("nan")),
    *("x" * 10**6, "x" * 10**7, "seven foxes " * 10**6),
    *("no/such/file.xyz", Path("no/such/file.xyz"), Path(".")),
    *(np.zeros(0), np.zeros((0, 3), np.float32), np.zeros((1, 1, 1, 1, 1)), np.array(None)),
    *((), (None, None), (np.zeros((1, 0), np.float32), 0)),
)
"""Values that some modality may accept and every other must refuse."""

_TEXTS = (
    "",
    " ",
    "\0",
    "\ud800",
    "\u202eabc\u200d\U0001f469\u200d\U0001f467",
    "\r\n\t \n",
    "x" * 20_000,
    "\uffff",
)
_NUMBERS = (0, -1, 10**18, float("nan"), float("inf"), -0.5, 8000, 44_100, 48_000, 4 * 10**9)


def bent(raw: Any) -> Iterator[Any]:
    """Variations on one raw value: empty, tiny, huge, not finite, of another dtype, with an axis more; for
    composite values, one part at a time."""
    if isinstance(raw, str):
        yield from _TEXTS
    elif isinstance(raw, np.ndarray):
        yield from _arrays(raw)
    elif isinstance(raw, Tensor):
        yield from _arrays(raw.numpy(force=True))
    elif is_dataclass(raw) and not isinstance(raw, type):
        for f in fields(raw):
            yield from _constructed(
                (None, *bent(getattr(raw, f.name))), lambda part, f=f: replace(raw, **{f.name: part})
            )
        yield from _constructed((0, 1), lambda length: _shortened(raw, length))
    elif isinstance(raw, tuple):
        for i, part in enumerate(raw):
            yield from ((*raw[:i], other, *raw[i + 1 :]) for other in (None, *bent(part)))
    elif isinstance(raw, int | float):
        yield from _NUMBERS


def _shortened(raw: Any, length: int) -> Any:
    """All of its arrays at once: a trajectory without a step, or with one."""
    arrays = {f.name: getattr(raw, f.name) for f in fields(raw) if isinstance(getattr(raw, f.name), np.ndarray)}
    return replace(raw, **{name: array[:length] for name, array in arrays.items()})


def _constructed(others: Iterable[Any], build: Callable[[Any], Any]) -> Iterator[Any]:
    for other in others:
        try:
            yield build(other)
        except Exception:  # the value's own class refuses the part before any tokenizer sees it
            continue


def _arrays(array: np.ndarray) -> Iterator[np.ndarray]:
    for axis in range(array.ndim):
        yield np.take(array, np.arange(0), axis)
        if array.shape[axis] > 1:
            yield np.take(array, np.arange(1), axis)
            yield np.take(array, np.arange(array.shape[axis] - 1), axis)
    if array.ndim:
        yield array[..., :160]
        yield np.concatenate([array] * 9)
    yield array[None]
    yield np.asfortranarray(array)[::-1] if array.ndim else array
    yield array.astype(object)
    yield array.astype(np.complex64)
    floating = np.issubdtype(array.dtype, np.floating)
    whole = np.iinfo(array.dtype) if np.issubdtype(array.dtype, np.integer) else None
    for fill in (np.nan, np.inf, 1e38, -1, 5.0) if floating else (0, whole.min, whole.max) if whole else (0,):
        spoilt = array.copy()
        spoilt[..., -1:] = fill  # of a trajectory's actions: one that its space lacks
        yield spoilt
