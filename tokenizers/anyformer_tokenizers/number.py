"""A number that is only predicted: a rating, a score.

NumberTokenizer().encode(4.5)    →  float32[1, 1]: standard deviations above the mean of what it was fitted on
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from anyformer.contracts import Tokenizer
from anyformer.errors import SampleError, TokenizerError
from anyformer.tokens import StreamSpec, Tokens

SCALE_FILE = "scale.json"


@dataclass
class NumberTokenizer(Tokenizer):
    """A finite number ⇄ a row of one feature. `fit` takes mean and standard deviation, so that what a model is trained
    on has the mean 0 and the deviation 1."""

    name: str = "number"
    _scale: tuple[float, float] | None = field(default=None, init=False, repr=False)

    fidelity: ClassVar[Literal["exact", "approximate", "none"]] = "approximate"

    @property
    def streams(self) -> tuple[StreamSpec, ...]:
        return (StreamSpec.continuous(self.name, 1, input=False),)

    def encode(self, raw: Any) -> Tokens:
        mean, deviation = self._known
        return Tokens.of(self.name, torch.tensor([[(self._checked(raw) - mean) / deviation]], dtype=torch.float32))

    def decode(self, tokens: Tokens) -> float:
        if self.name not in tokens.streams:
            raise TokenizerError(
                f"Tokenizer {self.name!r} decodes the stream {self.name!r}; got {sorted(tokens.streams)}."
            )
        mean, deviation = self._known
        return float(tokens.streams[self.name].values.flatten()[0]) * deviation + mean

    def length(self, raw: Any) -> int:
        self._checked(raw)
        return 1

    def example(self, rng: np.random.Generator) -> float:
        return float(rng.normal())

    @property
    def fitted(self) -> bool:
        return self._scale is not None

    def fit(self, samples: Iterable[Any]) -> None:
        values = [self._checked(sample) for sample in samples]
        if not values:
            raise TokenizerError(f"Tokenizer {self.name!r} got no numbers to fit on; give some.")
        self._scale = float(np.mean(values)), float(np.std(values)) or 1.0

    def state(self) -> dict[str, bytes]:
        return {} if self._scale is None else {SCALE_FILE: json.dumps(self._scale).encode()}

    def restore(self, state: Mapping[str, bytes]) -> None:
        try:
            mean, deviation = (float(number) for number in json.loads(state[SCALE_FILE]))
            if not math.isfinite(mean) or not 0 < deviation < math.inf:
                raise ValueError(f"mean {mean} and deviation {deviation} are no scale")
        except (KeyError, TypeError, ValueError) as error:
            raise TokenizerError(
                f"Tokenizer {self.name!r} cannot read {SCALE_FILE!r} of the files {sorted(state)} ({error}); "
                "restore it from an undamaged checkpoint."
            ) from error
        self._scale = mean, deviation

    @property
    def _known(self) -> tuple[float, float]:
        if self._scale is None:
            raise TokenizerError(f"Tokenizer {self.name!r} knows no scale yet; call fit(numbers).")
        return self._scale

    def _checked(self, raw: Any) -> float:
        if isinstance(raw, bool) or not isinstance(raw, int | float) or not abs(raw) < 2**64:
            raise SampleError(f"Tokenizer {self.name!r} takes a finite number; got {raw!r:.40}.")
        return float(raw)
