"""Text as it comes: values turned into pieces of text that nothing said later can change."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import torch

from anyformer.errors import ConfigError
from anyformer.model.sampling import Said
from anyformer.tokens import StreamSpec, Tokens

HALF = "\ufffd"
"""What half a character decodes to, until its other bytes are said."""


class Decoder(Protocol):
    """The way back of a tokenizer of one stream."""

    @property
    def streams(self) -> tuple[StreamSpec, ...]: ...

    def decode(self, tokens: Tokens) -> Any: ...


def spoken(said: Iterable[Said], tokenizer: Decoder, stop: Sequence[str] = ()) -> Iterator[str]:
    """Pieces of text; together they are what `tokenizer` decodes the values to, cut before the first of `stop`.

    A piece is held back while it may be half a character or the start of a stop. Once one is found, nothing more is
    asked of `said`.
    """
    if not all(stop):
        raise ConfigError("A stop is empty; expected at least one character.")
    stream, values, text, told = tokenizer.streams[0].name, [], "", 0
    for one in said:
        values.append(one.value)
        text = tokenizer.decode(Tokens.of(stream, torch.tensor(values)))
        found = first_of(stop, text)
        certain = text[:found] if found is not None else text[: len(text) - _uncertain(text, stop)]
        if len(certain) > told:
            yield certain[told:]
            told = len(certain)
        if found is not None:
            return
    if text[told:]:
        yield text[told:]


def first_of(stop: Sequence[str], text: str) -> int | None:
    """Where the first of these begins; None where there is none."""
    return min((at for one in stop if (at := text.find(one)) >= 0), default=None)


def _uncertain(text: str, stop: Sequence[str]) -> int:
    """How many characters at the end may still change, or turn out to begin a stop."""
    whole = text.rstrip(HALF)
    begun = [size for one in stop for size in range(1, len(one)) if whole.endswith(one[:size])]
    return len(text) - len(whole) + max(begun, default=0)
