"""Where a token is. A scheme acts in one of three places: on the embedding, on q and k, or on the scores.

Positions arrive as int64[tokens, rank]; every scheme serves any rank.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from anyformer.errors import ConfigError, SampleError, unknown

Bias = Callable[[int], Float[Tensor, "heads queries keys"]]


@dataclass(frozen=True)
class Placement:
    """A scheme applied to one batch's positions, computed once and used by every layer.

    rotate: maps queries and keys, `[tokens, heads, head_dim]` to the same shape; None leaves them alone.
    bias: for a document's index, what is added to its scaled scores; None adds nothing.
    """

    rotate: Callable[[Tensor], Tensor] | None = None
    bias: Bias | None = None


class PositionScheme(nn.Module):
    """Base of all schemes: by default nothing is added, mapped or biased."""

    def embed(self, positions: Int64[Tensor, "tokens rank"]) -> Float[Tensor, "tokens dim"] | None:
        """What is added to the token embeddings before the first block, or None."""
        return None

    def place(self, positions: Int64[Tensor, "tokens rank"]) -> Placement:
        """The two hooks inside attention, for these tokens."""
        return Placement()


class NoPositions(PositionScheme):
    """Order is seen through the mask alone."""

    def __init__(self, dim: int, head_dim: int, rank: int) -> None:
        super().__init__()


class LearnedPositions(PositionScheme):
    """A trained vector per index and axis; axes add up. `size` is the number of indices (positions 0 … size-1)."""

    def __init__(self, dim: int, head_dim: int, rank: int, size: int) -> None:
        super().__init__()
        self.size = size
        tables = [nn.Embedding(size, dim) for _ in range(rank)]
        for table in tables:
            nn.init.normal_(table.weight, std=0.02)
        self.tables = nn.ModuleList(tables)

    def embed(self, positions):
        if positions.numel() and int(positions.max()) >= self.size:
            raise SampleError(
                f"A token stands at position {int(positions.max())}, but the learned table ends at "
                f"{self.size - 1}. Use shorter sequences, a larger `size`, or rotary positions."
            )
        return sum(table(axis) for table, axis in zip(self.tables, positions.unbind(1), strict=True))


class SinusoidalPositions(PositionScheme):
    """sin and cos of geometric frequencies, interleaved (Vaswani et al., arXiv:1706.03762 §3.5); axes add up."""

    def __init__(self, dim: int, head_dim: int, rank: int, base: float = 10_000.0) -> None:
        super().__init__()
        if dim % 2:
            raise ConfigError(f"Sinusoidal positions need an even dim; got dim={dim}.")
        self.register_buffer("frequencies", _frequencies(dim // 2, base), persistent=False)

    def embed(self, positions):
        angles = positions[:, :, None] * self.frequencies
        return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(2).sum(1)


class Rotary(PositionScheme):
    """Rotary embedding, half-split layout (Su et al., arXiv:2104.09864 eq. 34; pairing i with i + head_dim/2).

    With several position axes the frequencies are dealt out to the axes in turn, so each axis keeps both fast
    and slow ones; a sequence whose axes all carry the same index is rotated exactly as with one axis.
    """

    def __init__(self, dim: int, head_dim: int, rank: int, base: float = 10_000.0) -> None:
        super().__init__()
        if head_dim % 2:
            raise ConfigError(f"Rotary positions need an even head_dim; got head_dim={head_dim}.")
        self.register_buffer("frequencies", _frequencies(head_dim // 2, base), persistent=False)
        self.register_buffer("axis", torch.arange(head_dim // 2) % rank, persistent=False)

    def place(self, positions):
        angles = positions[:, self.axis] * self.frequencies
        cos = torch.cat((angles.cos(), angles.cos()), dim=-1)[:, None]
        sin = torch.cat((-angles.sin(), angles.sin()), dim=-1)[:, None]

        def rotate(x: Float[Tensor, "tokens heads head_dim"]) -> Float[Tensor, "tokens heads head_dim"]:
            swapped = x.roll(x.shape[-1] // 2, dims=-1)
            return x * cos.to(x.dtype) + swapped * sin.to(x.dtype)

        return Placement(rotate=rotate)


def _frequencies(count: int, base: float) -> Float[Tensor, " count"]:
    return base ** (-torch.arange(count, dtype=torch.float32) / count)


SCHEMES: dict[str, type[PositionScheme]] = {
    "none": NoPositions,
    "learned": LearnedPositions,
    "sinusoidal": SinusoidalPositions,
    "rotary": Rotary,
}


def make_positions(config: dict[str, Any], dim: int, head_dim: int, rank: int) -> PositionScheme:
    """A scheme from data: `{"type": "rotary", "base": 10000}`."""
    settings = dict(config)
    kind = settings.pop("type", None)
    if kind not in SCHEMES:
        raise unknown("position scheme", str(kind), SCHEMES)
    try:
        return SCHEMES[kind](dim=dim, head_dim=head_dim, rank=rank, **settings)
    except TypeError as error:
        raise ConfigError(f"The position scheme {kind!r} cannot be made from {settings}: {error}.") from error
