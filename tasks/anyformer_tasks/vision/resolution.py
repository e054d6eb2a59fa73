"""Pictures at a resolution that is drawn for each, so that a model learns many and is cheaper to train."""

from __future__ import annotations

import math

import torch
from jaxtyping import UInt8
from torch import Tensor, nn


class RandomPatchBudget(nn.Module):
    """A picture scaled down to the finest grid of whole patches that has its aspect ratio and no more patches than its
    budget, which is drawn anew each time (NaViT, Dehghani et al. 2023, arXiv:2307.06304 §2.2, "resolution sampling").
    One that takes no more patches stays as it is.

    patch: side of a patch in pixels, the tokenizer's. least, most: patches. Where pictures exceed the tokenizer's
    `max_patches`, it is at most that, so that none needs more than it was planned with. centre: the side of a square
    that a budget fills is drawn from a normal distribution around this, of a deviation of 1, cut off at -1 (`least`)
    and 1 (`most`); below 0, small ones are more frequent.
    """

    def __init__(self, patch: int, least: int, most: int, centre: float = -0.5) -> None:
        super().__init__()
        if patch < 1 or not 1 <= least <= most or not math.isfinite(centre):
            raise ValueError(f"{patch=}, {least=}, {most=}, {centre=}; expected a side and 1 <= least <= most")
        self.patch, self.least, self.most, self.centre = patch, least, most, centre

    def forward(self, picture: UInt8[Tensor, "channels height width"]) -> UInt8[Tensor, "channels lower narrower"]:
        from torchvision.transforms.v2.functional import resize

        size = self.size(*picture.shape[1:], self.budget())
        return picture if size == tuple(picture.shape[1:]) else resize(picture, list(size), antialias=True)

    def budget(self) -> int:
        """Patches, by torch's own generator."""
        least, most = math.sqrt(self.least), math.sqrt(self.most)
        drawn = float(nn.init.trunc_normal_(torch.empty(()), self.centre, 1.0, -1.0, 1.0))
        return min(self.most, max(self.least, round((least + (drawn + 1) / 2 * (most - least)) ** 2)))

    def size(self, height: int, width: int, budget: int) -> tuple[int, int]:
        """Of a picture of this size, in at most so many patches: floor(s · height) x floor(s · width) of them, with
        s² · height · width = budget, and no side longer than it was."""
        if height * width <= budget * self.patch**2:
            return height, width
        rows, columns = math.isqrt(budget * height // width), math.isqrt(budget * width // height)
        rows, columns = (min(budget, max(1, count)) for count in (rows, columns))
        return min(height, rows * self.patch), min(width, columns * self.patch)
