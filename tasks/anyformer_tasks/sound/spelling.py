"""What counted characters say of the values that may come next, for whoever writes a text value by value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float

from anyformer.contracts import Tokenizer
from anyformer.tokens import Tokens
from anyformer_tasks.ngram import ALPHABET, START, WittenBell, grams


@dataclass(frozen=True)
class Counted:
    """A byte n-gram model of texts as a language model over a tokenizer's values: the log-probability of a value is
    what it adds to that of the text so far, ln p(text with it) - ln p(text)."""

    tokenizer: Tokenizer
    order: int
    texts: tuple[str, ...]

    @cached_property
    def model(self) -> WittenBell:
        return WittenBell(self.order, [text.encode() for text in self.texts])

    @cached_property
    def _known(self) -> dict[tuple[int, ...], list[float]]:
        return {}

    def __call__(self, prefixes: Sequence[tuple[int, ...]]) -> Float[np.ndarray, "prefixes vocab"]:
        """Of each value of the tokenizer's stream, the end among them; of another that spells nothing it is 0."""
        return np.array([self._behind(prefix) for prefix in prefixes])

    def _behind(self, prefix: tuple[int, ...]) -> list[float]:
        if prefix not in self._known:
            text, spec = self._text(prefix), self.tokenizer.streams[0]
            before = self.nats(text)
            self._known[prefix] = [self.nats(self._text((*prefix, value))) - before for value in range(spec.width)]
            if spec.end is not None:
                self._known[prefix][spec.end] = -math.log(2) * self.model.bits(text) - before
        return self._known[prefix]

    def nats(self, text: bytes) -> float:
        """ln p of the text's bytes, without its end."""
        if not text:
            return 0.0
        symbols = np.array([START] * (self.order - 1) + [*text], dtype=np.int64)
        p = np.full(len(text), 1 / ALPHABET)
        for size, counts in enumerate(self.model.levels, start=1):
            p = counts.interpolated(grams(symbols, self.order, size), p)
        return float(np.log(p).sum()) if (p > 0).all() else -math.inf

    def _text(self, values: tuple[int, ...]) -> bytes:
        if not values:
            return b""
        spec = self.tokenizer.streams[0]
        return self.tokenizer.decode(Tokens.of(spec.name, torch.tensor(values))).encode()
