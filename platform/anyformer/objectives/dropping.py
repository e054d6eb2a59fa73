"""Leaving slots out of what a model reads, whatever is learned from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import torch

from anyformer.batch import Example
from anyformer.errors import ConfigError
from anyformer.objectives.around import Around
from anyformer.objectives.knowing import fraction
from anyformer.tokens import StreamSpec, Tokens


@dataclass
class TokenDropping(Around):
    """Another objective whose training samples lack a part of their patches, another one each time and for each sample
    (NaViT, Dehghani et al. 2023, arXiv:2307.06304 §2.2, "continuous token dropping"), or of their pieces of text (word
    dropout, Iyyer et al. 2015, P15-1162 §2.3). What is left keeps its positions.

    objective: `{"type": ..., ...}`. stream: of values or rows with a slot each. least, most: the part of a sample's
    that is left out is drawn evenly between them; one always stays.

    Prompts, which lack a field, are left as they are, and so is all that is held out (`plain`).
    """

    objective: dict[str, Any] = field(default_factory=lambda: {"type": "classification"})
    stream: str = "image"
    least: float = 0.0
    most: float = 0.5
    _fields: frozenset[str] = field(default=frozenset(), init=False, repr=False)

    called: ClassVar[str] = "token_dropping"
    of_values: ClassVar[bool] = True

    def __post_init__(self) -> None:
        fraction("token_dropping", least=self.least, most=self.most)
        if self.least > self.most:
            raise ConfigError(f"token_dropping has least={self.least}, most={self.most}; expected least to be less.")
        super().__post_init__()

    def ready(self, specs: Mapping[str, Sequence[StreamSpec]]) -> Self:
        twin = super().ready(specs)
        twin._fields = frozenset(specs)
        return twin

    def prepare(self, tokens: Mapping[str, Tokens], rng: np.random.Generator) -> Example:
        if set(tokens) < self._fields:
            return self._inner.prepare(tokens, rng)
        return self._inner.prepare({name: self._fewer(part, rng) for name, part in tokens.items()}, rng)

    def _fewer(self, tokens: Tokens, rng: np.random.Generator) -> Tokens:
        stream = tokens.streams.get(self.stream)
        if stream is None or not self.most:
            return tokens
        rate = rng.uniform(self.least, self.most)
        left = max(1, round(len(stream.slots) * (1 - rate)))
        kept = torch.ones(tokens.length, dtype=torch.bool)
        kept[stream.slots[torch.from_numpy(rng.permutation(len(stream.slots))[left:])]] = False
        return tokens.only(kept)
