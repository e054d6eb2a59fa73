"""A text's items: the whole of it, or its words or sentences, each one of its own, so that what acts on streams can
take whole words, or put sentences in another order, without knowing any language."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch

from anyformer.errors import ConfigError
from anyformer.tokens import Stream, Tokens

Items = Literal["text", "words", "sentences"]

STOPS = (b".", b"!", b"?")
"""They close a sentence where a blank follows."""

FULL_WIDTH_STOPS = tuple(stop.encode() for stop in ("\u3002", "\uff01", "\uff1f"))
"""They close one in any case."""


def require_items(name: str, items: str) -> None:
    if items not in get_args(Items):
        raise ConfigError(f"Tokenizer {name!r} has items={items!r}; expected one of {', '.join(get_args(Items))}.")


def itemised(name: str, ids: np.ndarray, spelled: Sequence[bytes | None], items: Items) -> Tokens:
    """Tokens of a text of these pieces (int64), spelled so in UTF-8; None is a special piece, an item by itself."""
    tokens = Tokens.of(name, torch.from_numpy(ids))
    if items == "text":
        return tokens
    sizes = torch.tensor(sizes_of(spelled, items), dtype=torch.int64)
    stream = tokens.streams[name]
    divided = Stream(stream.values, stream.slots, torch.stack((sizes, sizes), 1).reshape(-1, 2))
    return Tokens({name: divided}, tokens.length, tokens.positions)


def sizes_of(spelled: Sequence[bytes | None], items: Items) -> list[int]:
    """Pieces of each item, in order.

    A word is blanks and what stands up to the next blank; a sentence is what stands up to a stop.

    >>> sizes_of([None, b" wee", b"k", b".", b" On", None], "words")
    [1, 3, 1, 1]
    """
    closed = _word_is_closed if items == "words" else _sentence_is_closed
    sizes: list[int] = []
    said: bytes | None = None  # the item so far
    for piece in spelled:
        if piece is None or said is None or closed(said, piece):
            sizes.append(1)
            said = piece
        else:
            sizes[-1] += 1
            said += piece
    return sizes


def _word_is_closed(said: bytes, piece: bytes) -> bool:
    return bool(said.strip()) and (said[-1:].isspace() or piece[:1].isspace())


def _sentence_is_closed(said: bytes, piece: bytes) -> bool:
    blank = said[-1:].isspace() or piece[:1].isspace()
    return said.rstrip().endswith(FULL_WIDTH_STOPS) or (blank and said.rstrip().endswith(STOPS))
