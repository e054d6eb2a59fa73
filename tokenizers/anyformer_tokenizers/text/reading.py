"""A vocabulary at work: with a template around each text, up to the end of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from anyformer.errors import TokenizerError, nearest
from anyformer_tokenizers.text.directory import Files
from anyformer_tokenizers.text.layouts import vocabulary_of
from anyformer_tokenizers.text.vocabulary import Vocabulary

TEXT = "$text"

PROBE = "".join(
    (
        "  \ufb01 \uff21 , n't\n\r\t\0e\u0301 \u2581\u2028\uffff\U0001f642\U0010ffff",  # what others fold or strip
        *map(chr, range(0x800)),  # and every byte that UTF-8 has
        *map(chr, range(0x800, 0xD800, 0x400)),
        *map(chr, range(0xE000, 0x110000, 0x8000)),
        "  ",
    )
)
"""Comes back only if nothing is normalised, no space touched and no character unknown."""


@dataclass
class Reading:
    """files: what the vocabulary was read from; marked: whether what spells a special token is one; start, stop: the
    ids around every text; end: the id that closes a run."""

    files: Files
    vocabulary: Vocabulary
    marked: bool
    start: list[int]
    stop: list[int]
    end: int | None

    @classmethod
    def of(cls, files: Files, side: str, template: str, end: str | None, marked: bool) -> Reading:
        """Raises TokenizerError for files that make no vocabulary, or a token in the settings that it lacks."""
        vocabulary = vocabulary_of(files, side)
        if template == "model":
            start, stop = list(vocabulary.start), list(vocabulary.stop)
        else:
            before, _, behind = (TEXT if template == "none" else template).partition(TEXT)
            start, stop = ([_known(vocabulary, files, token) for token in part.split()] for part in (before, behind))
        closing = vocabulary.roles.get("eos_token", vocabulary.roles.get("sep_token"))
        if end is not None:
            closing = _known(vocabulary, files, end)
        return cls(files, vocabulary, marked, start, stop, closing)

    def encode(self, text: str) -> list[int]:
        inner = self.vocabulary.encode_marked if self.marked else self.vocabulary.encode
        return [*self.start, *inner(text), *self.stop]

    def decode(self, ids: Sequence[int]) -> str:
        """The text up to its end; a template may open with the very token that ends a text."""
        opened = len(self.start) if list(ids[: len(self.start)]) == self.start else 0
        inner = list(ids[opened:])
        if self.end in inner:
            inner = inner[: inner.index(self.end)]
        return self.vocabulary.decode(inner)

    @cached_property
    def exact(self) -> bool:
        """Whether every text comes back as it was."""
        return self.decode(self.encode(PROBE)) == PROBE


def _known(vocabulary: Vocabulary, files: Files, token: str) -> int:
    """The id of a token that the settings name."""
    i = vocabulary.id_of(token)
    if i is None:
        marks = [name for special in vocabulary.special if (name := vocabulary.token_of(special)) is not None]
        listed = ", ".join(sorted(marks)) or "none"
        raise TokenizerError(
            f"The vocabulary of {files.where} has no token {token!r}; its special ones are: {listed}."
            f"{nearest(token, marks)}"
        )
    return i
