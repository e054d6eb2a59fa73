"""Which word stands for which, learned from sentences and their translations alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64, Int64

Words = Sequence[str]
NOTHING = 0  # the source word of target words that no other explains
TRUST = 0.9  # of a translation probability; the rest is the target word's own frequency


@dataclass(frozen=True)
class Lexicon:
    """IBM Model 1 (Brown et al. 1993, "The Mathematics of Statistical Machine Translation", §4.2): every target word
    comes from one source word, or from none, and any is as likely a priori.

    source, target: numbers of words; the source's begin at 1. cells: sorted source · |target| + target of the pairs
    that were seen together. table: t(target | source) of each. seen: how often each target word stood in the text.
    """

    source: dict[str, int]
    target: dict[str, int]
    cells: Int64[np.ndarray, " pairs"]
    table: Float64[np.ndarray, " pairs"]
    seen: Int64[np.ndarray, " words"]

    @classmethod
    def learned(cls, pairs: Iterable[tuple[Words, Words]], iterations: int = 5) -> Lexicon:
        """From (source, target) sentences, by expectation maximisation from a uniform table."""
        source: dict[str, int] = {}
        target: dict[str, int] = {}
        met, asked, spoken = [], [], 0
        seen: list[int] = []
        numbered = [
            (
                [NOTHING, *(source.setdefault(w, len(source) + 1) for w in a)],
                [target.setdefault(w, len(target)) for w in b],
            )
            for a, b in pairs
        ]
        for given, said in numbered:
            e, f = np.array(given, dtype=np.int64), np.array(said, dtype=np.int64)
            met.append((e[:, None] * len(target) + f).ravel())
            asked.append(np.tile(np.arange(spoken, spoken + len(f)), len(e)))
            spoken += len(f)
            seen += said
        cells, cell = np.unique(_joined(met), return_inverse=True)
        table = expected(cells // max(1, len(target)), cell, _joined(asked), iterations)
        return cls(source, target, cells, table, np.bincount(np.array(seen, dtype=np.int64), minlength=len(target)))

    @cached_property
    def frequency(self) -> Float64[np.ndarray, " words"]:
        """p(target word) in the text that was learned from."""
        return self.seen / max(1, self.seen.sum())

    def explains(self, given: Words, said: Words) -> float:
        """How much likelier the words `said` are as a translation of those given than by themselves, in nats per word:

            1/m Σ_j log(0.1 + 0.9 · Σ_i t(f_j | e_i) / (l + 1) / p(f_j))

        with i = 0 the empty word. Words that were never learned say nothing, for or against: they count as 0.
        """
        e = np.array([NOTHING, *(self.source[word] for word in given if word in self.source)], dtype=np.int64)
        f = np.array([self.target[word] for word in said if word in self.target], dtype=np.int64)
        if not len(f) or not len(self.cells):
            return 0.0
        wanted = e[:, None] * len(self.target) + f
        at = np.minimum(np.searchsorted(self.cells, wanted), len(self.cells) - 1)
        known = np.where(self.cells[at] == wanted, self.table[at], 0.0)
        odds = known.sum(axis=0) / (len(given) + 1) / self.frequency[f]
        return float(np.log(1 - TRUST + TRUST * odds).sum()) / len(said)


def expected(
    source: Int64[np.ndarray, " pairs"],
    cell: Int64[np.ndarray, " links"],
    asked: Int64[np.ndarray, " links"],
    iterations: int,
) -> Float64[np.ndarray, " pairs"]:
    """t(f | e) of each pair after so many iterations (Brown et al. 1993, eq. 13 and 14). source: the e of each pair. A
    link is a source word that may have given a target word: cell is its pair, asked the target word's place."""
    table = np.ones(len(source))
    for _ in range(iterations):
        likely = table[cell]
        total = np.bincount(asked, likely)
        count = np.bincount(cell, likely / total[asked], minlength=len(source))
        table = count / np.bincount(source, count)[source]
    return table


def _joined(parts: Sequence[np.ndarray]) -> Int64[np.ndarray, " links"]:
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts])
