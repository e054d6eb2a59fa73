"""Leaving slots out of what a model reads, whatever is learned from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from anyformer.batch import Example
from anyformer.contracts import Loss, Objective
from anyformer.errors import ConfigError
from anyformer.model import ForwardPass, Model
from anyformer.objectives.knowing import fraction
from anyformer.registry import objectives
from anyformer.tokens import Stream, StreamSpec, Tokens


@dataclass
class TokenDropping(Objective):
    """Another objective whose training samples lack a part of their patches, another one each time and for each sample
    (NaViT, Dehghani et al. 2023, arXiv:2307.06304 §2.2, "continuous token dropping"). What is left keeps its positions.

    objective: `{"type": ..., ...}`. stream: of rows with a slot each. least, most: the part of a sample's rows that is
    left out is drawn evenly between them; one row always stays.

    Prompts, which lack a field, are left as they are. So are not samples of a held-out split that lack none: a
    validation loss is that of what is left.
    """

    objective: dict[str, Any] = field(default_factory=lambda: {"type": "classification"})
    stream: str = "image"
    least: float = 0.0
    most: float = 0.5
    _fields: frozenset[str] = field(default=frozenset(), init=False, repr=False)

    def __post_init__(self) -> None:
        fraction("token_dropping", least=self.least, most=self.most)
        if self.least > self.most:
            raise ConfigError(f"token_dropping has least={self.least}, most={self.most}; expected least to be less.")
        settings = dict(self.objective)
        self._inner = objectives.create(str(settings.pop("type", "")), settings)

    @property
    def coupled(self) -> bool:  # ty: ignore[incompatible-property-override]
        return self._inner.coupled

    def predicts(self, specs: Mapping[str, Sequence[StreamSpec]]) -> list[str]:
        return self._inner.predicts(specs)

    def ready(self, specs: Mapping[str, Sequence[StreamSpec]]) -> Self:
        streams = {spec.name: spec for each in specs.values() for spec in each}
        if self.stream not in streams or streams[self.stream].is_discrete:
            rows = sorted(name for name, spec in streams.items() if not spec.is_discrete)
            raise ConfigError(
                f"token_dropping has stream={self.stream!r}; expected one of rows, of: {', '.join(rows) or 'none'}."
            )
        twin = copy(self)
        twin._inner, twin._fields = self._inner.ready(specs), frozenset(specs)
        return twin

    def length(self, lengths: Mapping[str, int]) -> int:
        return self._inner.length(lengths)

    def beside(
        self, model: Model, specs: Mapping[str, Sequence[StreamSpec]], load: Callable[[str], Model]
    ) -> nn.Module | None:
        return self._inner.beside(model, specs, load)

    def prepare(self, tokens: Mapping[str, Tokens], rng: np.random.Generator) -> Example:
        if set(tokens) < self._fields:
            return self._inner.prepare(tokens, rng)
        return self._inner.prepare({name: self._fewer(part, rng) for name, part in tokens.items()}, rng)

    def read(self, forward: ForwardPass, name: str, target: Stream) -> Tensor:
        return self._inner.read(forward, name, target)

    def loss(self, forward: ForwardPass, targets: Mapping[str, Stream]) -> Loss:
        return self._inner.loss(forward, targets)

    def _fewer(self, tokens: Tokens, rng: np.random.Generator) -> Tokens:
        stream = tokens.streams.get(self.stream)
        if stream is None or not self.most:
            return tokens
        rate = rng.uniform(self.least, self.most)
        left = max(1, round(len(stream.slots) * (1 - rate)))
        kept = torch.ones(tokens.length, dtype=torch.bool)
        kept[stream.slots[torch.from_numpy(rng.permutation(len(stream.slots))[left:])]] = False
        return tokens.only(kept)
