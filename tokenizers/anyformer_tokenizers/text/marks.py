"""What the spelling of a published vocabulary's tokens says: which have a role, and where words begin."""

from __future__ import annotations

from functools import cached_property
from itertools import count

from anyformer_tokenizers.text.vocabulary import Vocabulary

ROLES = {
    "bos_token": "start", "sep_token": "separator", "cls_token": "class", "mask_token": "mask", "pad_token": "pad",
    "eos_token": "end",
}  # fmt: skip
"""The hub's roles and ours. An unknown token has none: it stands for ordinary text."""

SENTINEL = "<extra_id_{}>"
"""T5's marks of a gap (arXiv:1910.10683 §3.1.4)."""

SPACE_MARKS = {"\u2581": " ", "\u0120": " ", "\u010a": "\n", "\u0109": "\t", "\u010d": "\r"}
"""How sentencepiece and byte-level vocabularies spell blanks."""

CONTINUES, CLOSES = "##", "</w>"
"""WordPiece marks what goes on with a word (arXiv:1609.08144), GPT-1's pairs what ends one (arXiv:1508.07909)."""


class Marks:
    """roles: ids by role, for a stream's spec."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self.roles = {ROLES[role]: i for role, i in vocabulary.roles.items() if role in ROLES}
        for number in count():
            i = vocabulary.id_of(SENTINEL.format(number))
            if i is None:
                break
            self.roles[f"sentinel_{number}"] = i

    def spelled(self, i: int) -> bytes | None:
        """A token as UTF-8 text, blanks where its word begins or ends; None for a special one."""
        token = self._vocabulary.token_of(i)
        if token is None or i in self._vocabulary.special:
            return None
        if self._style == CONTINUES:
            text = token.removeprefix(CONTINUES) if token.startswith(CONTINUES) else f" {token}"
        elif self._style == CLOSES:
            text = f"{token.removesuffix(CLOSES)} " if token.endswith(CLOSES) else token
        else:
            text = "".join(SPACE_MARKS.get(letter, letter) for letter in token)
        return text.encode(errors="replace")

    @cached_property
    def _style(self) -> str:
        """The mark that this vocabulary uses; a blank where it spells blanks."""
        tokens = [token for i in range(self._vocabulary.size) if (token := self._vocabulary.token_of(i)) is not None]
        for mark, at in ((CONTINUES, str.startswith), (CLOSES, str.endswith)):
            if sum(at(token, mark) and token != mark for token in tokens) > len(tokens) // 50:
                return mark
        return " "
