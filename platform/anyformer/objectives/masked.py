"""What was hidden, from both sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from zlib import crc32

import numpy as np
import torch

from anyformer.batch import Example
from anyformer.errors import ConfigError, SampleError, unknown
from anyformer.objectives.choosing import Chooser, choice_of
from anyformer.objectives.knowing import Knowing, Specs, Symbols, fraction, frozen
from anyformer.tokens import Stream, StreamSpec, Tokens

LONGEST_WORD = 100
"""Values; published vocabularies give up on a word of so many characters."""


@dataclass
class Masked(Knowing):
    """Part of a stream is hidden and told from everything else, in both directions (BERT, arXiv:1810.04805 §3.1; for
    rows, as masked patches or frames, the rows themselves).

    stream: which one; by default the first field's. rate: the part of its ordinary values that is chosen; values with a
    role never are.
    masked, random: of what is chosen, the part in whose place the mask stands, and the part in whose place another
        value stands, drawn at random; what is left stands there itself (80, 10 and 10 %).
    unit: what is chosen: values, or whole items, such as words where the tokenizer tells them apart.
    choice: how; `{"type": "each"}` takes units one by one, `{"type": "geometric", "p": 0.2, "longest": 10}` spans of
        them, which share one fate (SpanBERT, arXiv:1907.10529 §3.1). Whole words are `unit: item` with "each".
    static: 0 draws anew each time a text comes by (RoBERTa, arXiv:1907.11692 §4.1); with k, each text has k drawings
        that depend on it alone (BERT duplicated its data ten times).
    noise: the mask of a continuous stream is zeros, or normal noise of this deviation.

    A text that holds a mask already is a prompt.
    """

    stream: str = ""
    rate: float = 0.15
    masked: float = 0.8
    random: float = 0.1
    unit: Literal["value", "item"] = "value"
    choice: dict[str, Any] = field(default_factory=lambda: {"type": "each"})
    static: int = 0
    noise: float = 0.0

    def __post_init__(self) -> None:
        fraction("masked", rate=self.rate, masked=self.masked, random=self.random)
        fraction("masked", rest=round(1 - self.masked - self.random, 9))
        if not self.rate:
            raise ConfigError("masked has rate=0; expected more, or there is nothing to predict.")
        if self.unit not in ("value", "item"):
            raise unknown("unit", str(self.unit), ("value", "item"))
        if self.static < 0 or self.noise < 0:
            raise ConfigError(f"masked has static={self.static}, noise={self.noise}; expected 0 or more of each.")
        self._choice: Chooser = choice_of(self.choice)

    def predicts(self, specs: Mapping[str, Sequence[StreamSpec]]) -> list[str]:
        return [self._spec(frozen(specs)).name]

    def learn(self) -> None:
        spec = self._spec(self.specs)
        self._name = spec.name
        self._symbols = Symbols(spec) if spec.is_discrete else None
        if self._symbols is not None and self.masked:
            self._symbols.value("mask")

    def prepare(self, tokens: Mapping[str, Tokens], rng: np.random.Generator) -> Example:
        _ = self.specs
        together = Tokens.laid_end_to_end(list(tokens.values()))
        if self._name not in together.streams:
            raise SampleError(f"masked needs the stream {self._name!r}; the sample has {sorted(together.streams)}.")
        hidden, target = self.hide(together, rng)
        return Example(hidden, target, hidden.length)

    def hide(self, tokens: Tokens, rng: np.random.Generator) -> tuple[Tokens, dict[str, Stream]]:
        """The sequence with its mask, and what stood there."""
        stream = tokens.streams[self._name]
        if len(stream.values) != len(stream.slots):
            raise ConfigError(f"Stream {self._name!r} has fewer slots than values; it cannot be masked value by value.")
        if self.static:
            rng = np.random.default_rng([crc32(stream.values.numpy().tobytes()), int(rng.integers(self.static))])
        groups = self._groups(stream, rng)
        chosen = torch.from_numpy(groups >= 0)
        if not bool(chosen.any()):
            return tokens, {}
        values = stream.values.clone()
        values[chosen] = self._instead(stream.values, chosen, self._fates(groups[groups >= 0], rng), rng)
        target = Stream.whole(stream.values[chosen], stream.slots[chosen])
        hidden = {**tokens.streams, self._name: replace(stream, values=values)}
        return replace(tokens, streams=hidden), {self._name: target}

    def _groups(self, stream: Stream, rng: np.random.Generator) -> np.ndarray:
        """int64[values]: which span a chosen value is of, -1 for others."""
        allowed = self._allowed(stream)
        units = units_of(stream, allowed, self.unit == "item", self._name)
        count = int(units.max(initial=-1)) + 1
        groups = np.full(count + 1, -1)  # the last stands for values of no unit
        if count:
            for group, (start, length) in enumerate(self._choice.spans(count, self.rate, rng)):
                groups[start : start + length] = group
        return groups[units]

    def _allowed(self, stream: Stream) -> np.ndarray:
        if self._symbols is None:
            return np.ones(len(stream.values), bool)
        values = stream.values.numpy()
        if "mask" in self._symbols.roles and bool((values == self._symbols.value("mask")).any()):
            return np.zeros(len(values), bool)  # a prompt, masked by whoever wrote it
        return self._symbols.are_ordinary(values)

    def _fates(self, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """float[chosen] in [0, 1), one draw a value or a span."""
        if self._choice.together:
            return rng.random(int(groups.max()) + 1)[groups]
        return rng.random(len(groups))

    def _instead(
        self, values: torch.Tensor, chosen: torch.Tensor, fates: np.ndarray, rng: np.random.Generator
    ) -> torch.Tensor:
        """What stands at the chosen places: 80 % the mask, 10 % a random value, 10 % the value itself."""
        there = values[chosen].clone()
        masked = torch.from_numpy(fates < self.masked)
        other = torch.from_numpy((fates >= self.masked) & (fates < self.masked + self.random))
        if self._symbols is None:
            rows = rng.normal(scale=self.noise, size=(int(masked.sum()), *values.shape[1:]))
            there[masked] = torch.from_numpy(rows).to(values.dtype)
            there[other] = values[torch.from_numpy(rng.integers(len(values), size=int(other.sum())))]
            return there
        if self.masked:
            there[masked] = self._symbols.value("mask")
        there[other] = torch.from_numpy(self._symbols.drawn(int(other.sum()), rng))
        return there

    def _spec(self, specs: Specs) -> StreamSpec:
        own = {s.name: s for streams in specs.values() for s in streams if s.input and not s.overlay}
        if not own:
            raise ConfigError(f"masked needs a stream that goes in; the fields {sorted(specs)} have none.")
        if self.stream and self.stream not in own:
            raise unknown("stream", self.stream, own)
        return own[self.stream] if self.stream else next(iter(own.values()))


def units_of(stream: Stream, allowed: np.ndarray, whole: bool, name: str) -> np.ndarray:
    """int64[values]: the unit that each value belongs to, counted from 0; -1 where it is not allowed.

    whole: units are the stream's items; else each value is one.
    """
    if not whole:
        return np.where(allowed, np.cumsum(allowed) - 1, -1)
    sizes = stream.items[:, 0].numpy()
    item = np.repeat(np.arange(len(sizes)), sizes)
    inside = np.bincount(item, allowed, len(sizes))
    if bool(((inside > 0) & ((inside < sizes) | (sizes > LONGEST_WORD))).any()):
        raise SampleError(
            f"Stream {name!r} does not tell its words apart: one item holds a whole text. Let its tokenizer make "
            "each word an item (items: words), or choose single values (unit: value)."
        )
    number = np.cumsum(inside > 0) - 1
    return np.where(allowed, number[item], -1)
