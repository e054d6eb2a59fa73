"""What is only predicted: a name out of a few, one for each word, which of several answers is right, or where an answer
begins and ends.

    LabelTokenizer(names=["no", "yes"]).encode("yes")                →  int64[1]: 1
    LabelsTokenizer(names=["noun", "verb"]).encode(["noun", "verb"])  →  int64[2]: 0, 1
    ChoiceTokenizer().encode(2)                                       →  float32[1, 1]
    SpanTokenizer().encode((3, 5))                                    →  float32[1, 1] in each of its two streams

An objective takes these values as targets; they never stand in a sequence that a model reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from anyformer.contracts import Tokenizer
from anyformer.errors import ConfigError, SampleError, TokenizerError, nearest
from anyformer.tokens import Stream, StreamSpec, Tokens

NAMES_FILE = "names.json"


@dataclass
class LabelTokenizer(Tokenizer):
    """`str` ⇄ its number among `names`; without names, `fit` takes those it meets, sorted."""

    name: str = "label"
    names: list[str] = field(default_factory=list)
    _learned: list[str] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if len(set(self.names)) < len(self.names):
            raise ConfigError(f"Tokenizer {self.name!r} has names={self.names}; expected each name once.")

    @property
    def streams(self) -> tuple[StreamSpec, ...]:
        return (StreamSpec.discrete(self.name, len(self._known), input=False),)

    def encode(self, raw: Any) -> Tokens:
        """Raises SampleError for what is none of the names."""
        numbers = [self._number(name) for name in self._listed(raw)]
        return Tokens.of(self.name, torch.tensor(numbers, dtype=torch.int64))

    def decode(self, tokens: Tokens) -> Any:
        return self._names(tokens)[0]

    def length(self, raw: Any) -> int:
        return len(self._listed(raw))

    def example(self, rng: np.random.Generator) -> Any:
        return str(rng.choice(self.names or ["no", "yes"]))

    @property
    def fitted(self) -> bool:
        return bool(self.names or self._learned)

    def fit(self, samples: Iterable[Any]) -> None:
        found = {name for sample in samples for name in self._listed(sample)}
        if not found:
            raise TokenizerError(f"Tokenizer {self.name!r} got no names to fit on; give some, or set names.")
        self._learned = None if self.names else sorted(found)

    def state(self) -> dict[str, bytes]:
        return {} if self._learned is None else {NAMES_FILE: json.dumps(self._learned).encode()}

    def restore(self, state: Mapping[str, bytes]) -> None:
        if self.names and not state:
            return
        try:
            learned = json.loads(state[NAMES_FILE])
            if not learned or not all(isinstance(name, str) for name in learned):
                raise ValueError("it holds no list of names")
        except (KeyError, ValueError) as error:
            raise TokenizerError(
                f"Tokenizer {self.name!r} cannot read {NAMES_FILE!r} of the files {sorted(state)} ({error}); "
                "restore it from an undamaged checkpoint or set names."
            ) from error
        self._learned = learned

    @property
    def _known(self) -> list[str]:
        if not self.fitted:
            raise TokenizerError(f"Tokenizer {self.name!r} has no names yet; call fit(names), or set names.")
        return self.names or self._learned or []

    def _listed(self, raw: Any) -> list[str]:
        """The names in a raw value."""
        if not isinstance(raw, str):
            raise SampleError(f"Tokenizer {self.name!r} takes a name as str; got {type(raw).__name__}.")
        return [raw]

    def _number(self, name: str) -> int:
        if name not in self._known:
            raise SampleError(
                f"Tokenizer {self.name!r} has no name {name!r}; expected one of: {', '.join(self._known)}."
                f"{nearest(name, self._known)}"
            )
        return self._known.index(name)

    def _names(self, tokens: Tokens) -> list[str]:
        values = _values(self, tokens, self.name).tolist()
        if not all(0 <= value < len(self._known) for value in values) or not values:
            raise TokenizerError(f"Tokenizer {self.name!r} has no names for {values}; it has {len(self._known)}.")
        return [self._known[value] for value in values]


@dataclass
class LabelsTokenizer(LabelTokenizer):
    """`list[str]`, one name for each word of a text ⇄ their numbers."""

    name: str = "labels"

    def decode(self, tokens: Tokens) -> list[str]:
        return self._names(tokens)

    def example(self, rng: np.random.Generator) -> list[str]:
        return [super(LabelsTokenizer, self).example(rng) for _ in range(rng.integers(1, 6))]

    def _listed(self, raw: Any) -> list[str]:
        if isinstance(raw, str) or not isinstance(raw, Sequence) or not all(isinstance(name, str) for name in raw):
            raise SampleError(f"Tokenizer {self.name!r} takes a list of names; got {raw!r:.40}.")
        if not raw:
            raise SampleError(f"Tokenizer {self.name!r} got an empty list; expected a name for each word.")
        return list(raw)


@dataclass
class ChoiceTokenizer(Tokenizer):
    """The place of the right answer among those of a sample, from 0 ⇄ a row: samples may have any number of them, and a
    model says one number of each."""

    name: str = "choice"

    @property
    def streams(self) -> tuple[StreamSpec, ...]:
        return (StreamSpec.continuous(self.name, 1, input=False),)

    def encode(self, raw: Any) -> Tokens:
        return Tokens.of(self.name, torch.tensor([[float(self._checked(raw))]]))

    def decode(self, tokens: Tokens) -> int:
        return int(_values(self, tokens, self.name).flatten()[0])

    def length(self, raw: Any) -> int:
        self._checked(raw)
        return 1

    def example(self, rng: np.random.Generator) -> int:
        return int(rng.integers(4))

    def _checked(self, raw: Any) -> int:
        if type(raw) is not int or not 0 <= raw < 2**24:
            raise SampleError(f"Tokenizer {self.name!r} takes a place as int, from 0; got {raw!r:.40}.")
        return raw


@dataclass
class SpanTokenizer(Tokenizer):
    """(first, last), both included ⇄ a row in each of the streams `<name>.start` and `<name>.end`.

    They count the items of the text that the answer is in: words, where its tokenizer makes each word an item. An
    empty one, where the text holds no answer, is -1 in both.
    """

    name: str = "answer"

    @property
    def streams(self) -> tuple[StreamSpec, ...]:
        return tuple(StreamSpec.continuous(f"{self.name}.{side}", 1, input=False) for side in ("start", "end"))

    def encode(self, raw: Any) -> Tokens:
        first, last = self._checked(raw)
        rows = (torch.tensor([[float(place)]]) for place in (first, last))
        streams = {
            spec.name: Stream.whole(row, torch.tensor([slot]))
            for slot, (spec, row) in enumerate(zip(self.streams, rows, strict=True))
        }
        return Tokens(streams, 2, torch.arange(2)[:, None])

    def decode(self, tokens: Tokens) -> tuple[int, ...]:
        first, last = (int(_values(self, tokens, spec.name).flatten()[0]) for spec in self.streams)
        return () if first < 0 else (first, last)

    def length(self, raw: Any) -> int:
        self._checked(raw)
        return 2

    def example(self, rng: np.random.Generator) -> tuple[int, int]:
        first, last = sorted(rng.integers(20, size=2).tolist())
        return first, last

    def _checked(self, raw: Any) -> tuple[int, int]:
        span = isinstance(raw, Sequence) and not isinstance(raw, str)
        if span and not raw:
            return -1, -1
        if not span or len(raw) != 2 or not all(type(p) is int for p in raw) or not 0 <= raw[0] <= raw[1] < 2**24:
            raise SampleError(
                f"Tokenizer {self.name!r} takes (first, last) with 0 <= first <= last, or (); got {raw!r:.40}."
            )
        return raw[0], raw[1]


def _values(tokenizer: Tokenizer, tokens: Tokens, stream: str) -> torch.Tensor:
    if stream not in tokens.streams:
        got = sorted(tokens.streams)
        raise TokenizerError(f"Tokenizer {tokenizer.name!r} decodes the stream {stream!r}; got {got}.")
    return tokens.streams[stream].values
