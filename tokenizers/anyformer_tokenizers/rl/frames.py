"""What a camera sees at each step: pictures of one size as square patches, each of which is a slot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from anyformer.errors import ConfigError, SampleError, TokenizerError
from anyformer.tokens import StreamSpec


@dataclass(frozen=True)
class Frames:
    """uint8[height, width, channels], cut into squares of `patch` pixels. One frame is one value of its stream, and
    fills a slot a patch."""

    shape: Sequence[int]
    patch: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        if len(self.shape) != 3 or min((*self.shape, self.patch)) < 1 or any(s % self.patch for s in self.shape[:2]):
            raise ConfigError(
                f"Frames have shape={list(self.shape)}, patch={self.patch}; expected [height, width, channels], both "
                "sides multiples of the patch."
            )

    def spec(self, name: str) -> StreamSpec:
        cut = Cut(tuple(self.shape), self.patch)
        return StreamSpec.continuous(name, math.prod(self.shape), slots=cut.slots, embedder=cut)

    def rows(self, raw: np.ndarray, what: str, start: int) -> Float[Tensor, "steps features"]:
        """Levels from 0 to 1. SampleError for other shapes, or numbers that are no bytes."""
        if raw.shape[1:] != self.shape:
            raise SampleError(
                f"Each {what} has shape {list(raw.shape[1:])}; expected frames of {list(self.shape)}. "
                f"Correct the {what}s, or the tokenizer's {what} space."
            )
        if raw.dtype != np.uint8:
            raise SampleError(f"The {what} at step {start} is {raw.dtype}; expected frames of uint8. Convert them.")
        return torch.from_numpy(raw.reshape(len(raw), -1).astype(np.float32) / 255)

    def values(self, rows: Float[Tensor, "steps features"]) -> np.ndarray:
        """The way back, exactly."""
        numbers = rows.detach().cpu().float().numpy()
        if numbers.size % math.prod(self.shape) or not np.isfinite(numbers).all():
            raise TokenizerError(f"Cannot decode rows of {list(numbers.shape)}; expected frames of {list(self.shape)}.")
        return (numbers.clip(0, 1) * 255).round().astype(np.uint8).reshape(-1, *self.shape)

    def sample(self, rng: np.random.Generator, steps: int) -> np.ndarray:
        return rng.integers(0, 256, (steps, *self.shape), dtype=np.uint8)


@dataclass(frozen=True)
class Cut:
    """The factory of a stream's embedder; equal ones compare equal, and pickle."""

    shape: tuple[int, ...]
    patch: int

    @property
    def slots(self) -> Each:
        return Each(math.prod(side // self.patch for side in self.shape[:2]))

    def __call__(self, dim: int) -> nn.Module:
        return PatchedFrames(self.shape, self.patch, dim)


@dataclass(frozen=True)
class Each:
    """The slot rule of values that fill so many slots each."""

    slots: int

    def __call__(self, values: int) -> int:
        return values * self.slots


class PatchedFrames(nn.Module):
    """A linear map of each patch (arXiv:2010.11929 equation 1) and a trained vector for its place in the frame: the
    position of a slot is its timestep, which all of them share."""

    def __init__(self, shape: Sequence[int], patch: int, dim: int) -> None:
        super().__init__()
        height, width, channels = shape
        self.cut = (height // patch, patch, width // patch, patch, channels)
        self.linear = nn.Linear(patch * patch * channels, dim)
        self.places = nn.Parameter(torch.randn(self.cut[0] * self.cut[2], dim) * 0.02)

    def forward(self, values: Float[Tensor, "steps features"], items: Tensor) -> Float[Tensor, "slots dim"]:
        patches = values.view(-1, *self.cut).permute(0, 1, 3, 2, 4, 5).reshape(-1, self.linear.in_features)
        embedded = self.linear(patches).view(-1, *self.places.shape) + self.places
        return embedded.flatten(0, 1)


def likely_patch(height: int, width: int) -> int:
    """The divisor of both sides that is nearest to 14 pixels."""
    both = math.gcd(height, width)
    return min((n for n in range(1, both + 1) if both % n == 0), key=lambda n: abs(n - 14))
