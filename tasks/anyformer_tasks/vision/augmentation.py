"""Pictures varied by torchvision's transforms, as a function of a generator that is handed in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from anyformer.errors import ConfigError, unknown
from anyformer_tasks.vision.picture import Pixels


def augmentations(chosen: Sequence[Any]) -> nn.Sequential:
    """Transforms of torchvision.transforms.v2 by name, or with arguments: `{RandomCrop: {size: 28, padding: 2}}`.

    ConfigError for one that there is not, or that cannot be made from its arguments.
    """
    from torchvision.transforms import v2

    made = []
    for one in chosen:
        if not isinstance(one, str) and not (isinstance(one, Mapping) and len(one) == 1):
            raise ConfigError(f"An augmentation is {one!r}; expected a transform's name, or {{name: arguments}}.")
        name, arguments = (one, {}) if isinstance(one, str) else next(iter(one.items()))
        kind = getattr(v2, str(name), None)
        if not (isinstance(kind, type) and issubclass(kind, v2.Transform)):
            known = [n for n, kind in vars(v2).items() if isinstance(kind, type) and issubclass(kind, v2.Transform)]
            raise unknown("augmentation", str(name), known)
        try:
            made.append(kind(**(arguments or {})))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"The augmentation {name} cannot be made from {arguments}: {error}.") from error
    return nn.Sequential(*made)


def varied(pixels: Pixels, transforms: nn.Sequential, rng: np.random.Generator) -> Pixels:
    """The picture as the transforms make it with one seed from `rng`; the process's own generator stays as it was.

    ConfigError for one that changes a picture's size or is no picture of bytes any more: batches are planned with it.
    """
    grey = pixels.ndim == 2
    planes = torch.from_numpy(np.array(pixels[:, :, None] if grey else pixels)).permute(2, 0, 1)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(rng.integers(2**63)))
        found = transforms(planes)
    if found.shape != planes.shape or found.dtype != torch.uint8:
        raise ConfigError(
            f"The augmentations made {found.dtype}{list(found.shape)} of {planes.dtype}{list(planes.shape)}; expected "
            "the same. Leave out what changes a picture's size or type, or let it end in a crop to that size."
        )
    return found[0].numpy() if grey else found.permute(1, 2, 0).numpy()
