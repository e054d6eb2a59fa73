"""Batches of examples by their lengths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from anyformer.batch import Example, within

T = TypeVar("T")
R = TypeVar("R")


def slots(example: Example) -> int:
    """Of both axes and all sequences."""
    return example.size


def answered(
    items: Sequence[T], size: Callable[[T], int], budget: int, answer: Callable[[Sequence[T]], Sequence[R]]
) -> list[R]:
    """An answer for each item, in the items' order, asked for in batches of at most `budget`; items of like size share
    one, because a batch takes as long as its longest answer.

    >>> answered(["ccc", "a", "bb"], len, 3, lambda batch: [f"{text} of {len(batch)}" for text in batch])
    ['ccc of 1', 'a of 2', 'bb of 2']
    """
    order = sorted(range(len(items)), key=lambda i: size(items[i]))
    found: dict[int, R] = {}
    for batch in within(order, budget, lambda i: size(items[i])):
        found.update(zip(batch, answer([items[i] for i in batch]), strict=True))
    return [found[i] for i in range(len(items))]
