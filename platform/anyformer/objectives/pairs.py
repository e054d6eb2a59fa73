"""Whether a text goes on as another does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from anyformer.batch import Example
from anyformer.contracts import Loss
from anyformer.errors import ConfigError, SampleError
from anyformer.model import ForwardPass
from anyformer.objectives.classification import CLASS_ROLES
from anyformer.objectives.knowing import Knowing, frozen, made, main_stream
from anyformer.objectives.layout import Layout, cut, pooled
from anyformer.objectives.loss import error, sum_of_means
from anyformer.objectives.masked import Masked
from anyformer.tokens import Stream, StreamSpec, Tokens

AS_IT_WAS, OTHERWISE = 0, 1
"""The two labels, numbered as in BERT's published weights."""


class Pair(Knowing):
    """Two texts in one sequence, and a label of them at the first slot.

    first, second: fields. A sample without the second has the first cut in two between two of its items, at random.
    target: the field that brings the label's stream. A sample that has a value there keeps it, and its texts as they
    are.
    """

    first: str
    second: str
    target: str

    def predicts(self, specs: Mapping[str, Sequence[StreamSpec]]) -> list[str]:
        return [main_stream(frozen(specs), self.target).name]

    def learn(self) -> None:
        self._name = main_stream(self.specs, self.target).name
        main_stream(self.specs, self.first)
        layout = Layout.of(self.specs, [self.first], CLASS_ROLES)
        assert layout is not None  # the field has a discrete stream
        self._layout = layout

    def prepare(self, tokens: Mapping[str, Tokens], rng: np.random.Generator) -> Example:
        _ = self.specs
        texts = self._two(tokens, rng)
        if self.target in tokens:
            label = int(tokens[self.target].streams[self._name].values[0])
        else:
            texts, label = self.drawn(texts, tokens, rng)
        together, _ = self._layout.laid(texts)
        targets = {} if label is None else pooled(self._name, torch.tensor([label]), 0)
        return Example(together, targets, together.length)

    def length(self, lengths: Mapping[str, int]) -> int:
        """Two texts with a value before, between and behind them."""
        return lengths.get(self.first, 0) + lengths.get(self.second, 0) + 3

    def drawn(
        self, texts: list[Tokens], tokens: Mapping[str, Tokens], rng: np.random.Generator
    ) -> tuple[list[Tokens], int | None]:
        """The texts to read and their label, each label in half of the samples; None where there is no choice."""
        raise NotImplementedError

    def _two(self, tokens: Mapping[str, Tokens], rng: np.random.Generator) -> list[Tokens]:
        if self.first not in tokens:
            raise SampleError(f"{type(self).__name__} needs the field {self.first!r}; the sample has {sorted(tokens)}.")
        if self.second in tokens:
            return [tokens[self.first], tokens[self.second]]
        name = self._layout.symbols.name
        inside = self._layout.bare(tokens[self.first])
        ends = inside.streams[name].items[:, 0].cumsum(0)[:-1].tolist()
        if not ends:
            raise SampleError(
                f"The text in {self.first!r} cannot be cut in two: it has one item. Give a field "
                f"{self.second!r}, or let its tokenizer make each sentence an item (items: sentences)."
            )
        at = ends[int(rng.integers(len(ends)))]
        return [cut(inside, name, 0, at), cut(inside, name, at, inside.length)]


@dataclass
class NextSentence(Pair):
    """Whether the second text follows the first; half of the time another one stands there (BERT, arXiv:1810.04805
    §3.1, task 2).

    other: the field with a text from elsewhere, which the task draws; a sample without it is a prompt. The label is
    0 where the second follows.
    """

    first: str = "first"
    second: str = "second"
    other: str = "other"
    target: str = "next_sentence"

    def length(self, lengths: Mapping[str, int]) -> int:
        second = max(lengths.get(self.second, 0), lengths.get(self.other, 0))
        return super().length({self.first: lengths.get(self.first, 0), self.second: second})

    def drawn(
        self, texts: list[Tokens], tokens: Mapping[str, Tokens], rng: np.random.Generator
    ) -> tuple[list[Tokens], int | None]:
        if self.other not in tokens:
            return texts, None
        label = int(rng.integers(2))  # 50 % of the time
        return ([texts[0], tokens[self.other]] if label == OTHERWISE else texts), label


@dataclass
class SentenceOrder(Pair):
    """Whether two texts stand in their order; half of the time they are swapped (ALBERT, arXiv:1909.11942 §3.1).
    The label is 0 where they do."""

    first: str = "first"
    second: str = "second"
    target: str = "sentence_order"

    def drawn(
        self, texts: list[Tokens], tokens: Mapping[str, Tokens], rng: np.random.Generator
    ) -> tuple[list[Tokens], int | None]:
        label = int(rng.integers(2))
        return (texts[::-1] if label == OTHERWISE else texts), label


PAIRS: dict[str, type] = {"next_sentence": NextSentence, "sentence_order": SentenceOrder}


@dataclass
class Pretraining(Knowing):
    """Masked values and a pair's label in one example (BERT, arXiv:1810.04805 §3.1 and A.2).

    pair: `{"type": "next_sentence" | "sentence_order", ...}` with its settings. masked: the settings of `masked`.
    """

    pair: dict[str, Any] = field(default_factory=lambda: {"type": "next_sentence"})
    masked: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._pair: Pair = made("pair", PAIRS, self.pair)
        self._masked: Masked = masking(self.masked)

    def predicts(self, specs: Mapping[str, Sequence[StreamSpec]]) -> list[str]:
        return [*self._masked.predicts(specs), *self._pair.predicts(specs)]

    def learn(self) -> None:
        self._pair, self._masked = self._pair.ready(self.specs), self._masked.ready(self.specs)

    def length(self, lengths: Mapping[str, int]) -> int:
        return self._pair.length(lengths)

    def prepare(self, tokens: Mapping[str, Tokens], rng: np.random.Generator) -> Example:
        example = self._pair.prepare(tokens, rng)
        if not example.targets:
            return example
        hidden, targets = self._masked.hide(example.tokens, rng)
        return replace(example, tokens=hidden, targets={**targets, **example.targets})

    def loss(self, forward: ForwardPass, targets: Mapping[str, Stream]) -> Loss:
        """The mean over masked values and the mean over pairs, added (A.2)."""
        sums = {name: error(forward.read(name, target), target.values) for name, target in targets.items()}
        return sum_of_means(sums, targets, {})


def masking(settings: Any) -> Masked:
    """`masked` by plain data."""
    if not isinstance(settings, Mapping):
        raise ConfigError(f"pretraining has masked={settings!r}; expected the settings of masked.")
    return made("masking", {"masked": Masked}, {**settings, "type": "masked"})
