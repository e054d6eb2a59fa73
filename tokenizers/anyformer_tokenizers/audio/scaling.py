"""How the power of mel bands becomes the numbers a model reads: where a clip ends, which logarithm, which scale."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from anyformer.errors import ConfigError, SampleError, unknown

RANGE = 1e-6, 1e6  # of mel power: the noise of 16 bits, and well above any full-scale sound
SILENCE = 1e-10  # of mel power: no recording's loudest band is softer

Edges = Literal["constant", "reflect"]
Bands = Float[Tensor, "frames mels"]
Rows = Float[Tensor, "frames features"]


@dataclass(frozen=True)
class Standardised:
    """Natural logarithms, each band on a scale of its own that `fit` learns; silence is heard beyond both ends.

    range: decibels. Each clip is heard relative to its loudest, and nothing in it as softer than so much below that. By
    default clips keep their loudness, down to the noise of 16 bits. Then their pauses tell who recorded them and with
    what, and a model that has heard a few speakers may not understand the next: for such as are to, set a range.
    """

    range: float | None = None

    learns: ClassVar[bool] = True
    edges: ClassVar[Edges] = "constant"

    def __post_init__(self) -> None:
        if self.range is not None and not 0 < self.range < math.inf:
            raise ConfigError(f"scaling has range={self.range}; expected more than 0 dB, such as 45, or none.")

    def heard(self, samples: int, rate: int) -> int:
        """How many samples are heard of a clip of so many."""
        return samples

    def require(self, item: str, samples: int, rate: int, window: int) -> None:
        """SampleError for a clip that is too short."""

    def frames(self, samples: int, hop: int) -> int:
        """How many frames so many samples make."""
        return 1 + samples // hop

    def samples(self, frames: int, hop: int) -> int:
        """Of the lengths that make so many frames, the middle one."""
        return (frames - 1) * hop + hop // 2

    def logarithm(self, power: Bands) -> Bands:
        if self.range is None:
            return power.clamp(*RANGE).log()
        loudest = power.max().clamp(min=SILENCE)
        return (power / loudest).clamp(min=10 ** (-self.range / 10)).log()

    def features(self, mels: int) -> int:
        """How many numbers a frame of so many bands is told in."""
        return mels

    def told(self, logarithm: Bands) -> Rows:
        """The numbers that a frame is told in."""
        return logarithm

    def power(self, rows: Rows, mels: int) -> Bands:
        """The power that would be told so, about."""
        return rows.clamp(*map(math.log, RANGE)).exp()


@dataclass(frozen=True)
class Cepstral(Standardised):
    """Mel-frequency cepstral coefficients (Davis and Mermelstein 1980, IEEE Transactions on Acoustics, Speech, and
    Signal Processing 28, equation 1): the first few of a frame's cosine transform, each on a scale of its own.

    coefficients: how many. They say where a spectrum is high and where it is low. Its finer teeth, left out, are the
    overtones of a voice, so that a model which has heard few voices cannot tell words by them.
    """

    coefficients: int = 13

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.coefficients < 1:
            raise ConfigError(f"scaling has coefficients={self.coefficients}; expected 1 or more, such as 13.")

    def features(self, mels: int) -> int:
        if self.coefficients > mels:
            raise ConfigError(
                f"scaling has coefficients={self.coefficients} of mels={mels} bands; expected at most as many as bands."
            )
        return self.coefficients

    def told(self, logarithm: Bands) -> Rows:
        return logarithm @ cosines(logarithm.shape[1], self.coefficients)

    def power(self, rows: Rows, mels: int) -> Bands:
        return super().power(rows @ cosines(mels, self.coefficients).T, mels)


def cosines(mels: int, coefficients: int) -> Float[Tensor, "mels coefficients"]:
    """The first columns of the orthonormal cosine transform of type 2."""
    angles = torch.outer(torch.arange(mels) + 0.5, torch.arange(coefficients) * math.pi / mels)
    return angles.cos() * torch.where(torch.arange(coefficients) == 0, 1 / mels, 2 / mels).sqrt()


@dataclass(frozen=True)
class Whisper:
    """Radford et al. 2022, arXiv:2212.04356 §2.2, as its code has it: the clip is mirrored beyond both ends, the last
    frame is left out, and decimal logarithms from eight below the loudest up are divided by four. Nothing is learned.

    pad: a clip is filled up with silence to so many `seconds`, or cut there, so that all have as many frames.
    """

    pad: bool = False
    seconds: float = 30.0

    learns: ClassVar[bool] = False
    edges: ClassVar[Edges] = "reflect"

    def __post_init__(self) -> None:
        if not 0 < self.seconds < math.inf:
            raise ConfigError(f"scaling has seconds={self.seconds}; expected more than 0, such as 30.")

    def heard(self, samples: int, rate: int) -> int:
        return int(self.seconds * rate) if self.pad else samples

    def require(self, item: str, samples: int, rate: int, window: int) -> None:
        if self.heard(samples, rate) <= window // 2:
            raise SampleError(
                f"{item} has {samples} samples, too few to be mirrored at its ends; expected more than {window // 2}. "
                "Drop it, or set pad: true in the tokenizer's scaling."
            )

    def frames(self, samples: int, hop: int) -> int:
        return samples // hop

    def samples(self, frames: int, hop: int) -> int:
        return frames * hop + hop // 2

    def logarithm(self, power: Bands) -> Bands:
        return power[:-1].clamp(min=SILENCE).log10()

    def features(self, mels: int) -> int:
        return mels

    def told(self, logarithm: Bands) -> Bands:
        return logarithm

    def power(self, rows: Bands, mels: int) -> Bands:
        return 10 ** rows.clamp(-10, math.log10(RANGE[1]))

    def apply(self, rows: Bands) -> Bands:
        return (rows.clamp(min=float(rows.max()) - 8) + 4) / 4

    def invert(self, rows: Bands) -> Bands:
        return 4 * rows - 4


Scaling = Standardised | Whisper
SCALINGS: dict[str, type[Scaling]] = {"standardised": Standardised, "cepstral": Cepstral, "whisper": Whisper}


def scaling_of(settings: Mapping[str, Any]) -> Scaling:
    """By plain data, `{type: whisper, pad: true}`; the default is to standardise. ConfigError for what is misspelt."""
    rest = dict(settings)
    name = rest.pop("type", "standardised")
    if name not in SCALINGS:
        raise unknown("scaling", str(name), SCALINGS)
    try:
        return SCALINGS[name](**rest)
    except TypeError as error:
        raise ConfigError(f"scaling={dict(settings)}; expected the settings of {name!r} ({error}).") from error
