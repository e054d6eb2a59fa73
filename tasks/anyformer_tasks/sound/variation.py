"""A recording as it might have been as well: louder, by another microphone, faster, begun elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from jaxtyping import Float, Float64

from anyformer.errors import ConfigError
from anyformer_tasks.sound.clip import Wave


@dataclass(frozen=True)
class Variation:
    """How training varies a recording, each time anew; it keeps its length, because batches are planned with it.

    gain: at most so many decibels louder or softer. speed: at most so much faster or slower, pitch and all (0.1: a
    tenth; Ko et al. 2015, Interspeech, "Audio augmentation for speech recognition"). turned: it begins anywhere and
    goes on from its start behind its end; so does a faster one, which ends too soon, while a slower one is cut.
    colour: at most so many decibels louder at some frequencies and softer at others, as another microphone and room
    would have it (Nam et al. 2022, arXiv:2110.03282, in its linear form).
    """

    gain: float = 0.0
    speed: float = 0.0
    turned: bool = False
    colour: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.gain < math.inf or not 0 <= self.colour < math.inf or not 0 <= self.speed < 1:
            raise ConfigError(f"{self}; expected a gain and a colour of 0 dB or more, and a speed from 0 to below 1.")

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        try:
            return cls(**settings)
        except TypeError as error:
            raise ConfigError(f"augment={settings}; expected the settings of Variation ({error}).") from error

    def __call__(self, wave: Wave, rng: np.random.Generator) -> Wave:
        samples, rate = wave
        length = samples.shape[1]
        factor = 10 ** (rng.uniform(-self.gain, self.gain) / 20)
        pace = math.exp(rng.uniform(-1, 1) * math.log1p(self.speed))
        begin = int(rng.integers(length)) if self.turned and length else 0
        heard = np.roll(samples, -begin, axis=1) if pace == 1 else between(samples, begin + pace * np.arange(length))
        heard = coloured(heard, rate, self.colour, rng) if self.colour and length else heard
        return (factor * heard).astype(np.float32), rate


def coloured(
    samples: Float[np.ndarray, "channels time"], rate: int, most: float, rng: np.random.Generator
) -> Float64[np.ndarray, "channels time"]:
    """A recording of another frequency response: 3 to 6 frequencies, the lowest and the highest among them, have gains
    ~ U{-most … most} dB, and those between two of them lie on the line from one to the other, on the mel scale."""
    length = samples.shape[1]
    mel = np.log1p(np.fft.rfftfreq(length, 1 / rate) / 700)
    places = np.concatenate(([0.0], np.sort(rng.uniform(size=rng.integers(1, 5))), [1.0])) * mel[-1]
    decibels = np.interp(mel, places, rng.uniform(-most, most, len(places)))
    return np.fft.irfft(np.fft.rfft(samples) * 10 ** (decibels / 20), length)


def between(
    samples: Float[np.ndarray, "channels time"], times: Float64[np.ndarray, " times"]
) -> Float64[np.ndarray, "channels times"]:
    """A recording at these times, in samples, on the line between two of them; behind its end it begins again.

    >>> between(np.array([[0.0, 10.0, 20.0]]), np.array([0.5, 2.0, 2.5, 3.0])).tolist()
    [[5.0, 20.0, 10.0, 0.0]]
    """
    whole = np.floor(times).astype(np.int64)
    later, length = times - whole, samples.shape[1]
    return samples[:, whole % length] * (1 - later) + samples[:, (whole + 1) % length] * later
