"""A text's ids as streams and back: what tokenizers of text do alike, whoever spells their pieces."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from anyformer.contracts import Tokenizer
from anyformer.errors import ConfigError, SampleError, TokenizerError
from anyformer.tokens import Stream, StreamSpec, Tokens
from anyformer_tokenizers.text.items import Items, itemised, require_items
from anyformer_tokenizers.text.raw import checked

OWN_ROLES = ("start", "end")
"""Of the values around a text: a vocabulary that is made here has them anyway."""


class LaidText(Tokenizer):
    """One stream of pieces, named after the tokenizer; with `segments`, a second one `<name>.segment` over the same
    slots, which says `segment` in each of them."""

    measures_by_encoding = True
    segments: int
    segment = 0
    items: Items

    @abstractmethod
    def _ids(self, raw: str) -> Sequence[int] | np.ndarray:
        """The pieces of a text; an array is not kept by anybody else."""

    @abstractmethod
    def _spelled(self, piece: int) -> bytes | None:
        """A piece in UTF-8; None if it is special."""

    @abstractmethod
    def _said(self, ids: list[int]) -> str:
        """The text that pieces spell."""

    def _require_inside(self, spec: StreamSpec, ids: list[int]) -> None:
        """TokenizerError for a value that the stream does not have."""
        outside = [i for i in ids if not 0 <= i < spec.width]
        if outside:
            raise TokenizerError(
                f"Tokenizer {self.name!r} has no value {outside[0]} in stream {spec.name!r}; "
                f"expected 0 to {spec.width - 1}. Decode with the tokenizer the tokens were made with."
            )

    @property
    def _segment_stream(self) -> str:
        return f"{self.name}.segment"

    def _specs(self, size: int, end: int | None, special: Mapping[str, int]) -> tuple[StreamSpec, ...]:
        pieces = StreamSpec.discrete(self.name, size, end=end, special=special)
        if not self.segments:
            return (pieces,)
        return pieces, StreamSpec.discrete(self._segment_stream, self.segments, overlay=True)

    def encode(self, raw: str) -> Tokens:
        """Raises SampleError for anything but valid Unicode text and where no tokens come of it, LimitError beyond
        `max_chars`."""
        ids = np.asarray(self._ids(raw), np.int64)
        spelled = [] if self.items == "text" else [*map(self._spelled, ids.tolist())]
        tokens = itemised(self.name, ids, spelled, self.items)
        if not self.segments:
            return tokens
        segment = Stream.whole(torch.full((len(ids),), self.segment))
        return replace(tokens, streams={**tokens.streams, self._segment_stream: segment})

    def decode(self, tokens: Tokens) -> str:
        """The text up to its end, without special tokens."""
        if self.name not in tokens.streams:
            raise TokenizerError(
                f"Tokenizer {self.name!r} decodes the stream {self.name!r}; got {sorted(tokens.streams)}."
            )
        for spec in self.streams:
            if spec.name in tokens.streams:
                self._require_inside(spec, tokens.streams[spec.name].values.tolist())
        return self._said(tokens.streams[self.name].values.tolist())

    def length(self, raw: str) -> int:
        return len(self._ids(raw))


class FittedText(LaidText):
    """A vocabulary that is made here, with values reserved for roles.

    special: the roles, such as mask, class or separator, and sentinels: how many marks of a gap (sentinel_0, …). No
    text spells them; an objective finds them by their role in the stream's spec.
    """

    special: list[str]
    sentinels: int

    @property
    def _reserved(self) -> list[str]:
        """The roles that are asked for, in the order of their values."""
        return [*self.special, *(f"sentinel_{i}" for i in range(self.sentinels))]

    def _require_layout(self) -> None:
        """ConfigError for settings that name no roles, items or segments."""
        if len({*self._reserved, *OWN_ROLES}) < len(self._reserved) + len(OWN_ROLES):
            raise ConfigError(
                f"Tokenizer {self.name!r} has special={self.special}; expected each role once, without "
                f"{', '.join(OWN_ROLES)}, which every vocabulary has."
            )
        if self.sentinels < 0 or self.segments < 0:
            raise ConfigError(
                f"Tokenizer {self.name!r} has sentinels={self.sentinels}, segments={self.segments}; expected 0 or more."
            )
        require_items(self.name, self.items)

    def _texts(self, samples: Iterable[str]) -> Iterator[str]:
        """What is given to fit on; SampleError for what is no text."""
        if isinstance(samples, str):
            raise SampleError(f"Tokenizer {self.name!r} fits on an iterable of str; got one str. Put it in a list.")
        return (checked(sample, self.name) for sample in samples)
