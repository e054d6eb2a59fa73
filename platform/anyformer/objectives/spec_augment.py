"""Hiding bands and moments of what is heard, or moving it a little, whatever is learned from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from anyformer.batch import Example
from anyformer.errors import ConfigError
from anyformer.objectives.around import Around
from anyformer.objectives.knowing import fraction
from anyformer.tokens import Tokens


@dataclass
class SpecAugment(Around):
    """Another objective whose training examples have bands and moments of a spectrogram hidden (Park et al. 2019,
    arXiv:1904.08779 §2, without its time warp): a masked value is 0, the mean of a normalised one.

    objective: `{"type": ..., ...}`. stream: of rows, the spectrogram's. In each of its clips, band_masks times, f ~
    U{0 … bands} of its features from f₀ ~ U{0 … features - f}; and frame_masks times, t ~ U{0 … min(frames, most ·
    length)} of its rows from t₀ ~ U{0 … length - t}. By default the paper's LibriSpeech double (table 1).

    noise, offset: deviations, by default 0. Before anything is hidden, each value is moved by noise of its own, and all
    values of a feature in a clip by one more: another speaker, another microphone. With few of either, noise as wide as
    the values themselves keeps a model from learning its clips by heart (Bishop 1995, Neural Computation 7(1)).

    Prompts, which have no targets, are left as they are, and so is all that is held out (`plain`).
    """

    objective: dict[str, Any] = field(default_factory=lambda: {"type": "ctc"})
    stream: str = "audio"
    bands: int = 27
    band_masks: int = 2
    frames: int = 100
    frame_masks: int = 2
    most: float = 1.0
    noise: float = 0.0
    offset: float = 0.0

    called: ClassVar[str] = "spec_augment"

    def __post_init__(self) -> None:
        if min(self.bands, self.band_masks, self.frames, self.frame_masks) < 0:
            raise ConfigError(f"{self}; expected every size and number of masks to be 0 or more.")
        if not (0 <= self.noise < math.inf and 0 <= self.offset < math.inf):
            raise ConfigError(f"{self}; expected noise and offset to be deviations of 0 or more.")
        fraction("spec_augment", most=self.most)
        super().__post_init__()

    def prepare(self, tokens: Mapping[str, Tokens], rng: np.random.Generator) -> Example:
        example = self._inner.prepare(tokens, rng)
        return self._masked(example, rng) if example.targets else example

    def _masked(self, example: Example, rng: np.random.Generator) -> Example:
        """On both axes."""
        source = None if example.source is None else self._masked(example.source, rng)
        heard = example.tokens.streams.get(self.stream)
        if heard is None:
            return replace(example, source=source)
        rows = heard.values.clone()
        for clip in rows.split(heard.items[:, 0].tolist()):  # views of the copy
            self._move(clip, rng)
            self._hide(clip, rng)
        streams = {**example.tokens.streams, self.stream: replace(heard, values=rows)}
        return replace(example, tokens=replace(example.tokens, streams=streams), source=source)

    def _move(self, clip: Tensor, rng: np.random.Generator) -> None:
        length, features = clip.shape
        for deviation, rows in ((self.noise, length), (self.offset, 1)):
            if deviation:
                clip += deviation * torch.from_numpy(rng.standard_normal((rows, features), dtype=np.float32))

    def _hide(self, clip: Tensor, rng: np.random.Generator) -> None:
        length, features = clip.shape
        longest = int(min(self.frames, self.most * length))
        for _ in range(self.band_masks):
            clip[:, _run(min(self.bands, features), features, rng)] = 0
        for _ in range(self.frame_masks):
            clip[_run(longest, length, rng)] = 0


def _run(most: int, length: int, rng: np.random.Generator) -> slice:
    """0 to `most` places in a row, anywhere among `length`."""
    size = int(rng.integers(most + 1))
    start = int(rng.integers(length - size + 1))
    return slice(start, start + size)
