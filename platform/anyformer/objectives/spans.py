"""T5's table: parts of a text are taken out of it, and said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anyformer.batch import Example
from anyformer.errors import ConfigError, LimitError
from anyformer.objectives.across import OfOneText, inner
from anyformer.objectives.choosing import Chooser, choice_of
from anyformer.objectives.knowing import fraction
from anyformer.tokens import Tokens


@dataclass
class SpanCorruption(OfOneText):
    """What is taken out of a text, from what is left of it (T5, arXiv:1910.10683 §3.1.4 and figure 2):

        inputs   Thank you <X> me to your party <Y> week .
        targets  <X> for inviting <Y> last <Z>

    text: the field. rate: the part of its ordinary values that is taken out.
    choice: "segments" of mean length 3, T5's recipe (§3.3.4); "each" takes values one by one, and a run of them is one
        gap (table 3, "i.i.d. noise, replace spans").
    marked: whether a sentinel stands for each gap and before what was in it; without, both are simply left out
        ("i.i.d. noise, drop tokens").
    start: the role of the value that opens the target: "pad" in T5's vocabularies.

    A text that holds sentinels is a prompt.
    """

    text: str = "text"
    rate: float = 0.15
    choice: dict[str, Any] = field(default_factory=lambda: {"type": "segments", "mean": 3.0})
    marked: bool = True
    start: str = "start"

    def __post_init__(self) -> None:
        fraction("span_corruption", rate=self.rate)
        self._choice: Chooser = choice_of(self.choice)

    def learn(self) -> None:
        super().learn()
        if self.marked and len(self._symbols.sentinels) < 2:
            raise ConfigError(
                f"span_corruption needs two sentinels or more in stream {self._symbols.name!r}, which has "
                f"{len(self._symbols.sentinels)}. Let its tokenizer reserve some (sentinels: 100), or set "
                "marked: false."
            )

    def length(self, lengths: Mapping[str, int]) -> int:
        """With a sentinel on each axis for every gap, and one more at the target's end."""
        gaps = self._choice.most(lengths.get(self.text, 0), self.rate)
        return super().length(lengths) + (2 * gaps + 1 if self.marked else 0)

    def prepare(self, tokens: Mapping[str, Tokens], rng: np.random.Generator) -> Example:
        values = self.stream(tokens).values.numpy()
        if np.isin(values, self._symbols.sentinels).any():
            return self.example(values, None)
        where = np.flatnonzero(self._symbols.are_ordinary(values))
        taken = np.zeros(len(values), bool)
        for begin, length in self._choice.spans(len(where), self.rate, rng):
            taken[where[begin : begin + length]] = True
        later = np.flatnonzero(_opens(taken))[self._choice.most(len(values), self.rate) :]
        if len(later):  # values with a role stand inside the text and have cut spans in two
            taken[later[0] :] = False
        return self.example(*self.divided(values, taken))

    def divided(self, values: np.ndarray, taken: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What is left, with a sentinel for each gap, and what was taken, each run behind the same sentinel, with one
        more at the end."""
        if not self.marked:
            return values[~taken], values[taken]
        opens = _opens(taken)
        starts = np.flatnonzero(opens)
        gaps, sentinels = len(starts), self._symbols.sentinels
        if gaps >= len(sentinels):
            raise LimitError(
                f"A text of {len(values)} values has {gaps} gaps; expected at most {len(sentinels) - 1}, one less than "
                "there are sentinels. Cut the text, lower the rate, or reserve more."
            )
        left = values.copy()
        left[starts] = sentinels[:gaps]
        said = np.insert(values[taken], np.flatnonzero(opens[taken]), sentinels[:gaps])
        return left[opens | ~taken], np.append(said, sentinels[gaps])


def _opens(taken: np.ndarray) -> np.ndarray:
    """bool[values]: where a run of taken values begins."""
    return taken & ~np.concatenate(([False], taken[:-1]))


@dataclass
class Continuation(OfOneText):
    """The rest of a text from its beginning, cut anywhere (T5's prefix language modelling for an encoder-decoder,
    arXiv:1910.10683 table 3; on one axis it is the objective `prefix`). One value is continued by the text's end.

    text: the field. start: the role of the value that opens the target.
    """

    text: str = "text"
    start: str = "start"

    def prepare(self, tokens: Mapping[str, Tokens], rng: np.random.Generator) -> Example:
        values = self.stream(tokens).values.numpy()
        text = inner(values, self._symbols.are_ordinary(values))
        cut = int(rng.integers(text.start + 1, max(text.stop, text.start + 2)))
        return self.example(values[:cut], values[cut:])
