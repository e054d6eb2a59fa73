"""Interpolated byte n-gram models with Witten-Bell smoothing: what counting alone can say about text.

A text is a sequence of bytes closed by one end symbol, given `order - 1` start symbols; so a model spends
bits on every byte and on the end, and on nothing else.

    p_k(s | h) = (c(h s) + T(h) · p_{k-1}(s | h')) / (c(h) + T(h))

with c the counts in the training texts, T(h) the number of different symbols seen after the context h, h' the
context without its oldest symbol, and p_0 uniform over 256 bytes and the end (Witten & Bell 1991, "The
zero-frequency problem", method C, interpolated as in Chen & Goodman 1998, §2.4).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from jaxtyping import Float64, Int64

from anyformer.errors import ConfigError

END, START = 256, 257
ALPHABET = 257  # what can be predicted: START never is
BITS = 9  # of one symbol in a packed gram
LARGEST_ORDER = 63 // BITS


class WittenBell:
    """The model of one order, fitted when made.

    >>> model = WittenBell(3, [b"abcabcabc"])
    >>> model.bits(b"abcabc") < model.bits(b"cbacba")
    True
    """

    def __init__(self, order: int, texts: Iterable[bytes]):
        if not 1 <= order <= LARGEST_ORDER:
            raise ConfigError(f"An n-gram model has order {order}; expected 1 to {LARGEST_ORDER}.")
        symbols = [_symbols(text, order) for text in texts]
        self.order = order
        self.levels = [_Counts(_joined(grams(s, order, k) for s in symbols)) for k in range(1, order + 1)]

    def bits(self, text: bytes) -> float:
        """-log2 p(text, end): the bits of every byte and of the end symbol."""
        symbols = _symbols(text, self.order)
        p = np.full(len(text) + 1, 1 / ALPHABET)
        for size, counts in enumerate(self.levels, start=1):
            p = counts.interpolated(grams(symbols, self.order, size), p)
        return float(-np.log2(p).sum())


@lru_cache(maxsize=32)
def ngram_bits_per_byte(order: int, train: tuple[bytes, ...], texts: tuple[bytes, ...]) -> float:
    """All bits of `texts`, their ends included, over all their bytes, by a model of `train`; the answer is
    kept, as a report may ask often."""
    model = WittenBell(order, train)
    return sum(map(model.bits, texts)) / sum(map(len, texts))


class _Counts:
    """How often each gram of one size was seen, and its context, by binary search in sorted packed grams."""

    def __init__(self, seen: Int64[np.ndarray, " grams"]):
        self.grams, self.gram_counts = np.unique(seen, return_counts=True)
        self.contexts, first = np.unique(self.grams >> BITS, return_index=True)
        self.kinds = np.diff(np.append(first, len(self.grams)))
        self.context_counts = np.add.reduceat(self.gram_counts, first) if len(first) else first

    def interpolated(
        self, asked: Int64[np.ndarray, " grams"], lower: Float64[np.ndarray, " grams"]
    ) -> Float64[np.ndarray, " grams"]:
        """p_k of each gram's last symbol from p_{k-1}; an unseen context passes p_{k-1} on."""
        count = _looked_up(asked, self.grams, self.gram_counts)
        total = _looked_up(asked >> BITS, self.contexts, self.context_counts)
        kinds = _looked_up(asked >> BITS, self.contexts, self.kinds)
        return np.where(total > 0, (count + kinds * lower) / np.maximum(total + kinds, 1), lower)


def grams(symbols: Int64[np.ndarray, " symbols"], order: int, size: int) -> Int64[np.ndarray, " grams"]:
    """The gram of `size` symbols that ends at each predicted symbol, packed into one integer, the last symbol
    in the low bits; `symbols` begins with `order - 1` start symbols.

    >>> [hex(gram) for gram in grams(np.array([START, 1, 2]), order=2, size=2).tolist()]
    ['0x20201', '0x202']
    """
    predicted = len(symbols) - (order - 1)
    packed = np.zeros(predicted, dtype=np.int64)
    for start in range(order - size, order):
        packed = packed << BITS | symbols[start : start + predicted]
    return packed


def _symbols(text: bytes, order: int) -> Int64[np.ndarray, " symbols"]:
    return np.array([START] * (order - 1) + [*text, END], dtype=np.int64)


def _joined(parts: Iterable[np.ndarray]) -> Int64[np.ndarray, " grams"]:
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts])


def _looked_up(asked: np.ndarray, known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """`values` where `asked` is found among the sorted `known`, else 0."""
    if not len(known):
        return np.zeros_like(asked)
    at = np.minimum(np.searchsorted(known, asked), len(known) - 1)
    return np.where(known[at] == asked, values[at], 0)
