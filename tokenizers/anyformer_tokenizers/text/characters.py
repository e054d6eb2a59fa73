"""Text as characters: an id for each that the training texts hold.

characters.encode("seven")    →  <start> s e v e n <end>    ids int64[7], slots 0, 1, …, 6
characters.decode(tokens)     →  "seven"
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from anyformer.errors import SampleError, TokenizerError
from anyformer.tokens import StreamSpec
from anyformer_tokenizers.text.items import Items
from anyformer_tokenizers.text.laid import OWN_ROLES, FittedText
from anyformer_tokenizers.text.raw import checked, made_up

FILE = "characters.json"

LONGEST_EXAMPLE = 60


@dataclass
class CharacterTokenizer(FittedText):
    """`str` ⇄ one id a character, one discrete stream named after the tokenizer. `fit` learns the characters it meets;
    another one is a SampleError.

    ends: whether a start and an end stand around every text. A language model over windows of one long text wants none:
        then the ids are those of the sorted characters, behind what is reserved, and a text without characters is a
        SampleError.
    special, sentinels: roles for which an id is reserved, see FittedText.
    items: what an item of the stream is: the whole text, or each of its words, or sentences.
    segments: with segments > 0, a second stream `<name>.segment` over the same slots (BERT's token types).
    max_chars: a longer text is a LimitError.
    """

    name: str = "characters"
    ends: bool = True
    special: list[str] = field(default_factory=list)
    sentinels: int = 0
    items: Items = "text"
    segments: int = 0
    max_chars: int = 1_000_000
    _characters: str = field(default="", init=False, repr=False)

    def __post_init__(self) -> None:
        self._require_layout()
        self._roles = {role: i for i, role in enumerate([*(OWN_ROLES if self.ends else ()), *self._reserved])}
        self._ids_of: dict[str, int] = {}

    @property
    def streams(self) -> tuple[StreamSpec, ...]:
        special = {role: i for role, i in self._roles.items() if role != "end"}
        return self._specs(len(self._roles) + len(self._known), self._roles.get("end"), special)

    def example(self, rng: np.random.Generator) -> str:
        """Of the known characters, once there are any."""
        if not self.fitted:
            return made_up(rng)
        picked = rng.integers(len(self._characters), size=int(rng.integers(1, LONGEST_EXAMPLE)))
        return "".join(self._characters[i] for i in picked.tolist())

    @property
    def fitted(self) -> bool:
        return bool(self._characters)

    def fit(self, samples: Iterable[str]) -> None:
        """Learn every character of the samples; TokenizerError where there is none."""
        met: set[str] = set()
        for text in self._texts(samples):
            met.update(text)
        if not met:
            raise TokenizerError(f"Tokenizer {self.name!r} got no text to fit on; give at least one character.")
        self._learn("".join(sorted(met)))

    def state(self) -> dict[str, bytes]:
        return {FILE: json.dumps(self._characters).encode()} if self.fitted else {}

    def restore(self, state: Mapping[str, bytes]) -> None:
        if set(state) != {FILE}:
            raise TokenizerError(f"Tokenizer {self.name!r} expected the file {FILE!r}; got {sorted(state) or 'none'}.")
        try:
            found = json.loads(state[FILE])
        except ValueError as error:
            raise TokenizerError(
                f"Tokenizer {self.name!r} cannot read {FILE} ({error}); restore it from an undamaged checkpoint."
            ) from error
        if not isinstance(found, str) or not found or found != "".join(sorted(set(found))):
            raise TokenizerError(
                f"Tokenizer {self.name!r} expected sorted characters in {FILE}, each once; got {found!r:.40}. "
                "Restore it from an undamaged checkpoint."
            )
        self._learn(found)

    def _learn(self, characters: str) -> None:
        self._characters = characters
        self._ids_of = {character: i for i, character in enumerate(characters, len(self._roles))}

    @property
    def _known(self) -> dict[str, int]:
        """Ids by character."""
        if not self.fitted:
            raise TokenizerError(f"Tokenizer {self.name!r} knows no characters yet; call fit(texts).")
        return self._ids_of

    def _ids(self, raw: str) -> list[int]:
        known = self._known
        text = checked(raw, self.name, self.max_chars)
        try:
            ids = [known[character] for character in text]
        except KeyError as error:
            (strange,) = error.args
            raise SampleError(
                f"A text for {self.name!r} has {strange!r} at character {text.index(strange)}; expected one of the "
                f"{len(known)} characters that it was fitted on. Fit on texts that have it, or replace it."
            ) from None
        if not self.ends and not ids:
            raise SampleError(f"A text for {self.name!r} is empty; expected a character. Drop it, or set ends: true.")
        return [self._roles["start"], *ids, self._roles["end"]] if self.ends else ids

    def _spelled(self, piece: int) -> bytes | None:
        place = piece - len(self._roles)
        return self._characters[place].encode() if place >= 0 else None

    def _said(self, ids: list[int]) -> str:
        end = self._roles.get("end")
        if end in ids:
            ids = ids[: ids.index(end)]
        reserved = len(self._roles)
        return "".join([self._characters[i - reserved] for i in ids if i >= reserved])
