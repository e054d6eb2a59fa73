"""Continuous features on one scale: mean and deviation learned from training data, kept as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from anyformer.errors import TokenizerError

STATISTICS = "statistics.json"


@dataclass(frozen=True)
class Standardisation:
    """(x - mean) / deviation, and back, feature by feature."""

    mean: Float[Tensor, " features"]
    deviation: Float[Tensor, " features"]

    @classmethod
    def learned(cls, pieces: Iterable[Float[Tensor, "rows features"]], least: float) -> Standardisation:
        """Over all rows of all pieces, in one pass.

        A feature that varied less than `least` is only centred: what was still in training must not explode
        when it moves.
        """
        count, total, squares = 0, torch.zeros(1).double(), torch.zeros(1).double()
        for piece in pieces:
            rows = piece.double()
            count, total, squares = count + len(rows), total + rows.sum(0), squares + rows.square().sum(0)
        if not count:
            raise TokenizerError("Statistics were to be learned from no samples; fit on at least one.")
        mean = total / count
        deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
        return cls(mean.float(), torch.where(deviation < least, 1.0, deviation).float())

    def apply(self, rows: Float[Tensor, "rows features"]) -> Float[Tensor, "rows features"]:
        return (rows - self.mean) / self.deviation

    def invert(self, rows: Float[Tensor, "rows features"]) -> Float[Tensor, "rows features"]:
        return rows * self.deviation + self.mean

    def to_json(self) -> bytes:
        return json.dumps({"mean": self.mean.tolist(), "deviation": self.deviation.tolist()}).encode()

    @classmethod
    def from_json(cls, content: bytes | None, features: int) -> Standardisation:
        """TokenizerError unless it holds `features` finite means and positive deviations."""
        try:
            learned = json.loads(content or b"")
            read = cls(*(torch.tensor(learned[key], dtype=torch.float32) for key in ("mean", "deviation")))
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise TokenizerError(
                f"{STATISTICS} is missing or unreadable ({error!r}); restore the tokenizer's own."
            ) from error
        finite = read.mean.isfinite().all() and read.deviation.isfinite().all() and (read.deviation > 0).all()
        if not finite or not read.mean.shape == read.deviation.shape == (features,):
            raise TokenizerError(
                f"{STATISTICS} does not hold {features} finite means and positive deviations; "
                "restore the one saved with these settings."
            )
        return read
