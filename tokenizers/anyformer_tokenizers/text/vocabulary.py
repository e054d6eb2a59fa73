"""What every layout of files comes to: a vocabulary that turns text into ids and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence


class Vocabulary(ABC):
    """size: ids are 0 to size - 1 (some may be unused). start, stop: the ids that the model's own template puts
    around one text. roles: ids by role, such as "eos_token". special: ids that are never said when decoding."""

    size: int
    start: Sequence[int]
    stop: Sequence[int]
    roles: Mapping[str, int]
    special: frozenset[int]

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids without a template. What spells a special token is ordinary text."""

    @abstractmethod
    def encode_marked(self, text: str) -> list[int]:
        """Ids without a template. What spells a special token is that token."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """The text without special tokens; ids of no token say nothing."""

    @abstractmethod
    def id_of(self, token: str) -> int | None:
        """The id of one token by its spelling."""

    @abstractmethod
    def token_of(self, i: int) -> str | None:
        """The spelling of one token by its id."""


def tidied(text: str) -> str:
    """English punctuation drawn to the word before it, as `clean_up_tokenization_spaces` asks."""
    for spaced in (" .", " ?", " !", " ,"):
        text = text.replace(spaced, spaced[1:])
    text = text.replace(" ' ", "'")
    for spaced in (" n't", " 'm", " 's", " 've", " 're"):
        text = text.replace(spaced, spaced[1:])
    return text
