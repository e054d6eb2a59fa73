"""Pictures varied by torchvision's transforms, as a function of a generator that is handed in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from anyformer.errors import ConfigError, unknown
from anyformer_tasks.vision.picture import Pixels
from anyformer_tasks.vision.resolution import RandomPatchBudget

OWN = {"RandomPatchBudget": RandomPatchBudget}
"""What torchvision has not. It comes last and alone may make a picture smaller."""


def augmentations(chosen: Sequence[Any]) -> nn.Sequential:
    """Transforms of torchvision.transforms.v2 and OWN by name, or with arguments:
    `{RandomCrop: {size: 28, padding: 2}}`.

    ConfigError for one that there is not, or that cannot be made from its arguments.
    """
    from torchvision.transforms import v2

    made = []
    for one in chosen:
        if not isinstance(one, str) and not (isinstance(one, Mapping) and len(one) == 1):
            raise ConfigError(f"An augmentation is {one!r}; expected a transform's name, or {{name: arguments}}.")
        name, arguments = (one, {}) if isinstance(one, str) else next(iter(one.items()))
        kinds = {n: k for n, k in vars(v2).items() if isinstance(k, type) and issubclass(k, v2.Transform)} | OWN
        if name not in kinds:
            raise unknown("augmentation", str(name), kinds)
        try:
            made.append(kinds[name](**(arguments or {})))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"The augmentation {name} cannot be made from {arguments}: {error}.") from error
    if any(isinstance(one, RandomPatchBudget) for one in made[:-1]):
        raise ConfigError("RandomPatchBudget changes a picture's size; expected it behind all other augmentations.")
    return nn.Sequential(*made)


def varied(pixels: Pixels, transforms: nn.Sequential, rng: np.random.Generator) -> Pixels:
    """The picture as the transforms make it with one seed from `rng`; the process's own generator stays as it was.

    ConfigError for what changes a picture's size, but for a RandomPatchBudget, or is no picture of bytes any more:
    batches are planned with it.
    """
    grey = pixels.ndim == 2
    planes = torch.from_numpy(np.array(pixels[:, :, None] if grey else pixels)).permute(2, 0, 1)
    scaled = bool(transforms) and isinstance(transforms[-1], RandomPatchBudget)
    before = torch.default_generator.get_state()
    try:
        torch.default_generator.manual_seed(int(rng.integers(2**63)))
        found = (transforms[:-1] if scaled else transforms)(planes)
        if found.shape != planes.shape or found.dtype != torch.uint8:
            raise ConfigError(
                f"The augmentations made {found.dtype}{list(found.shape)} of {planes.dtype}{list(planes.shape)}; "
                "expected the same. Leave out what changes a picture's size or type, or let it end in a crop to that "
                "size."
            )
        found = transforms[-1](found) if scaled else found
    finally:
        torch.default_generator.set_state(before)
    return found[0].numpy() if grey else found.permute(1, 2, 0).numpy()
