"""One picture of a set: where it is, and its pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from anyformer.errors import SampleError

Pixels = UInt8[np.ndarray, "height width *channels"]


@dataclass(frozen=True)
class Nth:
    """A picture of a set that reads its pictures itself: the value of column `key` of its record `number`."""

    owner: Sequence[Any]
    number: int
    key: str | int

    def opened(self) -> Image.Image | np.ndarray:
        return self.owner[self.number][self.key]


def pixels(place: Any, size: int = 0) -> Pixels:
    """uint8[height, width] of what is grey, uint8[height, width, 3] of anything else. SampleError for what is none.

    place: levels 0 to 255, a PIL image, a file's path, or an Nth. size: side of the square that it is brought to, its
    longer side cut at both ends; 0 leaves it as it is.
    """
    try:
        found = place.opened() if isinstance(place, Nth) else place
        if isinstance(found, np.ndarray):
            if size in (0, *found.shape[:2]) and found.shape[0] == found.shape[1]:
                return found
            found = Image.fromarray(found)
        image = found if isinstance(found, Image.Image) else Image.open(found)
        image = ImageOps.exif_transpose(image)
        image = image if image.mode == "L" else image.convert("RGB")
        if size and image.size != (size, size):
            image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
        return np.asarray(image)
    except (OSError, ValueError, TypeError, AttributeError, SyntaxError) as error:  # as Pillow's decoders raise them
        raise SampleError(
            f"The picture {place!r:.120} cannot be read ({type(error).__name__}: {error}); expected an undamaged one. "
            "Replace it or leave it out."
        ) from error


def trimmed(picture: Pixels) -> Pixels:
    """What lies within the outermost pixels that differ from the one in the upper left corner; all of it, if none does.

    >>> trimmed(np.array([[0, 0, 0], [0, 7, 0], [0, 9, 0]], np.uint8)).tolist()
    [[7], [9]]
    """
    differs = picture != picture[:1, :1]
    drawn = differs.any(-1) if picture.ndim == 3 else differs
    rows, columns = (np.flatnonzero(drawn.any(axis)) for axis in (1, 0))
    return picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] if len(rows) else picture
