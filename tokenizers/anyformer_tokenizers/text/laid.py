"""A text's ids as streams and back: what tokenizers of text do alike, whoever spells their pieces."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace

import torch

from anyformer.contracts import Tokenizer
from anyformer.errors import TokenizerError
from anyformer.tokens import Stream, StreamSpec, Tokens
from anyformer_tokenizers.text.items import Items, itemised


class LaidText(Tokenizer):
    """One stream of pieces, named after the tokenizer; with `segments`, a second one `<name>.segment` over the same
    slots, which says `segment` in each of them."""

    segments: int
    segment = 0
    items: Items

    @abstractmethod
    def _ids(self, raw: str) -> list[int]:
        """The pieces of a text."""

    @abstractmethod
    def _spelled(self, piece: int) -> bytes | None:
        """A piece in UTF-8; None if it is special."""

    @abstractmethod
    def _said(self, ids: list[int]) -> str:
        """The text that pieces spell."""

    @abstractmethod
    def _require_inside(self, spec: StreamSpec, ids: list[int]) -> None:
        """TokenizerError for a value that the stream does not have."""

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
        ids = self._ids(raw)
        tokens = itemised(self.name, ids, [] if self.items == "text" else [*map(self._spelled, ids)], self.items)
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
