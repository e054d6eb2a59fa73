"""A text from a corrupted one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anyformer.batch import Example
from anyformer.errors import ConfigError, SampleError
from anyformer.objectives.across import OfOneText, inner
from anyformer.objectives.knowing import Symbols
from anyformer.objectives.noise import Noise, PermuteSentences, noise_of
from anyformer.tokens import Stream, Tokens


@dataclass
class Denoising(OfOneText):
    """A whole text from a corrupted one (BART, arXiv:1910.13461 §2; T5's BERT-style, MASS-style and deshuffling
    objectives, arXiv:1910.10683 table 3).

    text: the field. noise: what is done to it, one after another: `{"type": "mask" | "delete" | "infill" |
    "permute_sentences" | "rotate" | "shuffle", ...}`; by default what BART was trained with, §4.1. Sentences are the
    stream's items (let its tokenizer have `items: sentences`). What the tokenizer puts around a text stays there.
    start: the role of the value that opens the target: "end" in BART's vocabulary, "pad" in T5's.

    A text that holds a mask is a prompt.
    """

    text: str = "text"
    noise: list[dict[str, Any]] = field(default_factory=lambda: [{"type": "permute_sentences"}, {"type": "infill"}])
    start: str = "start"

    def __post_init__(self) -> None:
        if not isinstance(self.noise, list) or not self.noise:
            raise ConfigError(f"denoising has noise={self.noise!r}; expected a list of at least one.")
        self._noise: list[Noise] = [noise_of(settings) for settings in self.noise]

    def learn(self) -> None:
        super().learn()
        if any(settings["type"] in ("mask", "infill") for settings in self.noise):
            self._symbols.value("mask")

    def length(self, lengths: Mapping[str, int]) -> int:
        """The corrupted text and the whole one."""
        noisy = whole = lengths.get(self.text, 0)
        for change in self._noise:
            noisy = change.most(noisy)
        return super().length({self.text: noisy + whole})

    def prepare(self, tokens: Mapping[str, Tokens], rng: np.random.Generator) -> Example:
        stream = self.stream(tokens)
        values = stream.values.numpy()
        if "mask" in self._symbols.roles and (values == self._symbols.value("mask")).any():
            return self.example(values, None)
        require_apart(stream, self._symbols, any(isinstance(noise, PermuteSentences) for noise in self._noise))
        text = inner(values, self._symbols.are_ordinary(values))
        sizes = stream.items[:, 0].numpy()
        sentence = np.repeat(np.arange(len(sizes)), sizes)[text]
        noisy, sentence = values[text], np.cumsum(np.diff(sentence, prepend=sentence[:1]) != 0)
        for change in self._noise:
            noisy, sentence = change(noisy, sentence, self._symbols, rng)
        return self.example(np.concatenate((values[: text.start], noisy, values[text.stop :])), values)


def require_apart(stream: Stream, symbols: Symbols, needed: bool) -> None:
    """SampleError where sentences are needed and one item holds the text with all that stands around it."""
    ordinary = symbols.are_ordinary(stream.values.numpy())
    if needed and len(stream.items) == 1 and not ordinary.all():
        raise SampleError(
            f"Stream {symbols.name!r} does not tell its sentences apart: one item holds a whole text. Let its "
            "tokenizer make each sentence an item (items: sentences), or leave permute_sentences out."
        )
