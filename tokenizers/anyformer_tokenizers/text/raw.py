"""Raw text: what is taken for one, and one made up for tests."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from anyformer.errors import LimitError, SampleError


def checked(raw: Any, name: str, max_chars: float = math.inf) -> str:
    """The text, if it is text, is not too long and can be written as UTF-8; `name` is the tokenizer's."""
    if not isinstance(raw, str):
        raise SampleError(f"A text for {name!r} is a {type(raw).__name__}; expected a str. Decode it first.")
    if len(raw) > max_chars:
        raise LimitError(
            f"A text for {name!r} has {len(raw)} characters; "
            f"expected at most max_chars={max_chars}. Split it or raise max_chars."
        )
    try:
        raw.encode()
    except UnicodeEncodeError as error:
        raise SampleError(
            f"A text for {name!r} has the lone surrogate {raw[error.start]!r} "
            f"at character {error.start}; expected valid Unicode. "
            "Read it with errors='replace', or mend it with "
            "text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')."
        ) from error
    return raw


def made_up(rng: np.random.Generator) -> str:
    """Words, code, blanks, many scripts, and what spells a control piece somewhere."""
    count = int(rng.integers(1, 30))
    return "".join(PARTS[i] for i in rng.integers(len(PARTS), size=count))


PARTS = (
    *("the quick brown fox ", "seven", "1 5 9 #", "def f(x):\n", "    return x", "::\n\n"),
    *("\t", "  ", " ", "\r\n", "\0", "\u2581", "\u2585", "<s></s><unk><0x41>"),
    *("na\u00efve ", "\u043c\u0438\u0440", "\u65e5\u672c\u8a9e", "\u0645\u0631\u062d\u0628\u0627", "\u202e"),
    *("\U0001f642", "\U0001f469\u200d\U0001f680", "e\u0301"),
)
