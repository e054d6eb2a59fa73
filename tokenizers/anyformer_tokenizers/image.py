"""Images as square patches, at any resolution and aspect ratio, normalised, each with its row and column.

    uint8[32, 48, 3]  →  "image": float32[6, 768]    positions (0,0) (0,1) (0,2) (1,0) (1,1) (1,2)

Patches as tokens, and a class token before them: Dosovitskiy et al. 2021, arXiv:2010.11929 §3.1.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from PIL import Image, ImageOps
from torch import Tensor

from anyformer.contracts import Tokenizer
from anyformer.errors import AnyformerError, ConfigError, LimitError, SampleError, TokenizerError, unknown
from anyformer.tokens import Stream, StreamSpec, Tokens

FitMode = Literal["pad", "refuse", "resize"]
Pixels = UInt8[np.ndarray, "height width channels"]

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF")
"""Files we open: pictures only. Pillow would also run interpreters (EPS) and obscure decoders on them."""

PILLOW_MODES = {1: "L", 3: "RGB", 4: "RGBA"}

PADDING = -1.0
"""The level of pixels beyond the picture, on the scale of 0 to 255. No pixel of a picture has it, so `decode`
finds the picture's true size again, and a model can tell black from beyond."""


@dataclass
class ImageTokenizer(Tokenizer):
    """`uint8[height, width, channels]` ⇄ patches, a continuous stream named after the tokenizer.

    Also read: `uint8[height, width]` (grey, repeated over the channels), a PIL image or a path. Those are
    first brought to the form above: orientation from EXIF applied, transparency laid on white (kept when
    channels=4), 16 bits cut to 8, an animation's first frame.

    patch: side of a patch in pixels.
    mean, std: of the levels on the scale 0 to 1, for all channels or one for each: a value is
        `(level / 255 - mean) / std`.
    fit_mode: a size that the patch does not divide is padded at the right and the bottom ("pad", undone by
        `decode`), refused ("refuse"), or brought to the nearest size that it divides ("resize").
    max_patches: a picture of more patches is scaled down to the finest grid of at most so many that has, as nearly as
        whole patches allow, its aspect ratio (Pix2Struct, arXiv:2210.03347 §2.2; NaViT, arXiv:2307.06304 §2); 0 takes
        any number. Smaller ones stay as they are.
    max_pixels: a larger picture is a LimitError, raised before any pixel is decoded.
    class_slot: one more slot, before the patches, which holds a trained vector (ViT's class token, arXiv:2010.11929
        equation 1), the only value of a stream of its own.
    flat: positions count on from slot to slot, row by row, as published Vision Transformers have them. They then say
        nothing of a picture's width, so it cannot be decoded.
    """

    name: str = "image"
    patch: int = 16
    channels: int = 3
    mean: float | list[float] = 0.5
    std: float | list[float] = 0.5
    fit_mode: FitMode = "pad"
    max_patches: int = 0
    max_pixels: int = 64_000_000
    class_slot: bool = False
    flat: bool = False

    def __post_init__(self) -> None:
        for setting in ("patch", "channels", "max_pixels"):
            if getattr(self, setting) < 1:
                raise ConfigError(f"Tokenizer {self.name!r} has {setting}={getattr(self, setting)}; expected >= 1.")
        if self.max_patches < 0:
            raise ConfigError(f"Tokenizer {self.name!r} has max_patches={self.max_patches}; expected 0 or more.")
        if self.fit_mode not in get_args(FitMode):
            raise unknown("fit_mode", self.fit_mode, get_args(FitMode))
        for setting, low in (("mean", 0.0), ("std", 0.001)):
            value = getattr(self, setting)
            each = [value] * self.channels if isinstance(value, int | float) else list(value)
            if len(each) != self.channels or not all(low <= v <= 1 for v in each):
                raise ConfigError(
                    f"Tokenizer {self.name!r} has {setting}={value}; expected a number from {low} to 1, or "
                    f"{self.channels} of them. Divide statistics of 8-bit levels by 255."
                )
            setattr(self, setting, value if isinstance(value, int | float) else each)

    @property
    def fidelity(self) -> Literal["exact", "approximate", "none"]:  # ty: ignore[incompatible-property-override]
        """ "exact" for `uint8[height, width, channels]` of any size; "approximate" when resizing, "none" when flat."""
        if self.flat:
            return "none"
        return "approximate" if self.fit_mode == "resize" or self.max_patches else "exact"

    @property
    def streams(self) -> tuple[StreamSpec, ...]:
        features = self.channels * self.patch**2
        patches = StreamSpec.continuous(self.name, features, rank=1 if self.flat else 2)
        first = [StreamSpec.discrete(self._class, 1, special={"class": 0})] if self.class_slot else []
        return (patches, *first)

    def encode(self, raw: Any) -> Tokens:
        """Raises SampleError for an unreadable or empty picture, LimitError beyond `max_pixels`."""
        levels = self._fitted(self.pixels(raw))
        patches = patchify(levels.div_(255).sub_(self._mean).div_(self._std), self.patch)
        rows, columns, features = patches.shape
        values = patches.reshape(rows * columns, features)
        places = torch.arange(rows * columns)[:, None] if self.flat else grid(rows, columns)
        picture = Tokens({self.name: Stream.whole(values)}, rows * columns, places)
        if not self.class_slot:
            return picture
        return Tokens.laid_end_to_end([Tokens.of(self._class, torch.zeros(1, dtype=torch.int64)), picture])

    def decode(self, tokens: Tokens) -> Pixels:
        """The picture that the patches make by their positions, wherever on the axes it starts.

        Raises TokenizerError when they do not fill a rectangle or are not finite.
        """
        if self.flat:
            raise TokenizerError(f"Tokenizer {self.name!r} is flat: its positions do not say how wide a picture was.")
        first = tokens.streams.get(self._class)
        if first is not None and bool(first.values.any()):
            raise TokenizerError(f"Tokenizer {self.name!r} has one class token, 0; got {first.values.tolist()}.")
        patches = self._grid_of(tokens)
        levels = (unpatchify(patches, self.channels) * self._std + self._mean) * 255
        if not levels.isfinite().all():
            raise TokenizerError(
                f"Tokenizer {self.name!r} cannot decode NaN or infinite values; expected finite patches."
            )
        levels = levels.round().clamp(PADDING, 255)
        if self.fit_mode == "pad":
            beyond = (levels == PADDING).all(dim=2)
            levels = levels[: self._extent(beyond.all(dim=1)), : self._extent(beyond.all(dim=0))]
        return levels.clamp(min=0).to(torch.uint8).numpy()

    def length(self, raw: Any) -> int:
        """Patches and the class slot, from the shape or the file's header alone.

        Turning a picture by its EXIF orientation swaps rows and columns, which leaves their product as it is.
        """
        if isinstance(raw, np.ndarray):
            self._check_array(raw)
            height, width = raw.shape[:2]
        else:
            with opened(raw) as image:
                width, height = image.size
        rows, columns = self._grid(height, width, raw)
        return rows * columns + self.class_slot

    def example(self, rng: np.random.Generator) -> Pixels:
        """A colour ramp with noise, one to three patches high and wide; of any size if any size is taken."""
        height, width = rng.integers(1, 4, size=2) * self.patch
        if self.fit_mode != "refuse":
            height, width = (side - rng.integers(self.patch) for side in (height, width))
        ramp = np.linspace(0, 200, height * width).reshape(height, width, 1)
        return (ramp + rng.uniform(0, 55, size=(height, width, self.channels))).astype(np.uint8)

    def render(self, raw: Any) -> dict[str, bytes | str]:
        pixels = self.pixels(raw)
        if self.channels not in PILLOW_MODES:
            return {"text/plain": "uint8[{}, {}, {}]".format(*pixels.shape)}
        png = io.BytesIO()
        Image.fromarray(pixels.squeeze(2) if self.channels == 1 else pixels).save(png, "PNG")
        return {"image/png": png.getvalue()}

    def pixels(self, raw: Any) -> Pixels:
        """Any raw value as `uint8[height, width, channels]`, its true size."""
        if isinstance(raw, np.ndarray):
            self._check_array(raw)
            self._grid(*raw.shape[:2], raw)
            return raw if raw.ndim == 3 else np.repeat(raw[:, :, None], self.channels, axis=2)
        if self.channels not in PILLOW_MODES:
            raise SampleError(
                f"Tokenizer {self.name!r} has channels={self.channels}, which no picture file has; "
                f"expected uint8[height, width, {self.channels}]."
            )
        with opened(raw) as image:
            width, height = image.size
            self._grid(height, width, raw)
            upright = ImageOps.exif_transpose(image)
            converted = np.asarray(convert(upright, PILLOW_MODES[self.channels]))
        return converted[:, :, None] if converted.ndim == 2 else converted

    def _check_array(self, raw: np.ndarray) -> None:
        if raw.dtype != np.uint8 or raw.ndim not in (2, 3) or (raw.ndim == 3 and raw.shape[2] != self.channels):
            raise SampleError(
                f"An image for {self.name!r} is {raw.dtype}{list(raw.shape)}; "
                f"expected uint8[height, width] or uint8[height, width, {self.channels}]. "
                "Convert it, or set channels."
            )

    def _grid(self, height: int, width: int, raw: Any) -> tuple[int, int]:
        """Rows and columns of patches for a picture of this size, if it is one we take."""
        if height * width == 0:
            raise SampleError(f"The image {label(raw)} is {height}x{width}; expected at least one pixel. Leave it out.")
        if height * width > self.max_pixels:
            raise LimitError(
                f"The image {label(raw)} is {height}x{width}, {height * width} pixels; expected at most "
                f"max_pixels={self.max_pixels}. Scale it down or raise max_pixels."
            )
        if self._is_too_fine(height, width):
            return self._coarser(height, width)
        if self.fit_mode == "refuse" and (height % self.patch or width % self.patch):
            raise SampleError(
                f"The image {label(raw)} is {height}x{width}; expected multiples of patch={self.patch}. "
                "Crop it, or set fit_mode to 'pad' or 'resize'."
            )
        return self._patches(height), self._patches(width)

    def _patches(self, side: int) -> int:
        """How many a side of so many pixels takes."""
        return max(1, round(side / self.patch)) if self.fit_mode == "resize" else math.ceil(side / self.patch)

    def _is_too_fine(self, height: int, width: int) -> bool:
        return bool(self.max_patches) and self._patches(height) * self._patches(width) > self.max_patches

    def _coarser(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns, floor(s · height) and floor(s · width), with s² · height · width = max_patches; a picture
        too long for that is one patch wide."""
        rows = max(1, math.isqrt(self.max_patches * height // width))
        columns = max(1, math.isqrt(self.max_patches * width // height))
        return min(rows, self.max_patches), min(columns, self.max_patches)

    def _fitted(self, pixels: Pixels) -> Float[Tensor, "height width channels"]:
        """Levels 0 to 255 (and PADDING) on whole patches, which are the caller's to write into."""
        height, width = pixels.shape[:2]
        rows, columns = self._grid(height, width, pixels)
        whole = (rows * self.patch, columns * self.patch)
        source = torch.tensor(np.ascontiguousarray(pixels))  # PyTorch takes no negative strides
        resized = self.fit_mode == "resize" or self._is_too_fine(height, width)
        if resized and whole != (height, width):
            image = source.float().permute(2, 0, 1)[None]
            fitted = torch.nn.functional.interpolate(image, whole, mode="bilinear", antialias=True)
            return fitted[0].permute(1, 2, 0)
        if whole == (height, width):
            return source.float()
        levels = torch.full((*whole, self.channels), PADDING)
        levels[:height, :width] = source
        return levels

    def _grid_of(self, tokens: Tokens) -> Float[Tensor, "rows columns features"]:
        """The stream's patches in their places."""
        if self.name not in tokens.streams:
            raise TokenizerError(
                f"Tokenizer {self.name!r} decodes the stream {self.name!r}; got {sorted(tokens.streams)}."
            )
        stream, features = tokens.streams[self.name], self.streams[0].width
        positions = tokens.positions[stream.slots]
        if len(positions) and positions.shape[1] == 2 and stream.values.shape[1:] == (features,):
            places = positions - positions.amin(dim=0)
            rows, columns = (places.amax(dim=0) + 1).tolist()
            order = (places[:, 0] * columns + places[:, 1]).argsort()
            if len(places) == rows * columns and torch.equal(places[order].cpu(), grid(rows, columns)):
                return stream.values[order].detach().float().cpu().reshape(rows, columns, features)
        raise TokenizerError(
            f"Tokenizer {self.name!r} got values {list(stream.values.shape)} at positions "
            f"{list(positions.shape)}; expected patches of {features} features that fill a rectangle of "
            "(row, column) positions, each once."
        )

    def _extent(self, beyond: Bool[Tensor, " lines"]) -> int:
        """How many lines (rows or columns) are picture; padding never takes a whole patch."""
        within = (~beyond).nonzero()
        last = int(within.max()) + 1 if len(within) else 0
        return max(last, len(beyond) - self.patch + 1)

    @property
    def _class(self) -> str:
        """The class token's stream."""
        return f"{self.name}.class"

    @property
    def _mean(self) -> float | Tensor:  # or [channels]
        return torch.tensor(self.mean) if isinstance(self.mean, list) else self.mean

    @property
    def _std(self) -> float | Tensor:
        return torch.tensor(self.std) if isinstance(self.std, list) else self.std


@lru_cache(maxsize=256)
def grid(rows: int, columns: int) -> Int64[Tensor, "cells 2"]:
    """(row, column) of each cell, row by row; nobody may write into it, because it is made once."""
    return torch.cartesian_prod(torch.arange(rows), torch.arange(columns))


def patchify(image: Float[Tensor, "height width channels"], patch: int) -> Float[Tensor, "rows columns features"]:
    """Square patches; `patch` divides both sides.

    A patch's features run over channel, row, column, as the weight of a ViT's patch convolution does:
    reshaped to [dim, features], that weight is the linear map of this stream.
    """
    height, width, channels = image.shape
    cells = image.reshape(height // patch, patch, width // patch, patch, channels)
    return cells.permute(0, 2, 4, 1, 3).reshape(height // patch, width // patch, channels * patch * patch)


def unpatchify(
    patches: Float[Tensor, "rows columns features"], channels: int
) -> Float[Tensor, "height width channels"]:
    """The inverse of `patchify`."""
    rows, columns, features = patches.shape
    patch = math.isqrt(features // channels)
    cells = patches.reshape(rows, columns, channels, patch, patch)
    return cells.permute(0, 3, 1, 4, 2).reshape(rows * patch, columns * patch, channels)


@contextmanager
def opened(raw: Any) -> Generator[Image.Image]:
    """A PIL image as it is, or a path's with its header read; what fails inside becomes a SampleError."""
    try:
        if isinstance(raw, Image.Image):
            yield raw
        elif isinstance(raw, str | os.PathLike):
            with Image.open(raw, formats=FORMATS) as image:
                yield image
        else:
            raise SampleError(
                f"An image is a {type(raw).__name__}; expected uint8[height, width, channels], a PIL image or a path."
            )
    except AnyformerError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise LimitError(
            f"The image {label(raw)} is refused by Pillow ({error}); expected fewer pixels. Scale it down."
        ) from error
    except Exception as error:  # Pillow's decoders raise a dozen types on damaged files
        raise SampleError(
            f"The image {label(raw)} cannot be read ({type(error).__name__}: {error}); expected an undamaged "
            f"picture ({', '.join(FORMATS)}). Replace it or leave it out."
        ) from error


def convert(image: Image.Image, mode: str) -> Image.Image:
    """Any Pillow mode as 8-bit "L", "RGB" or "RGBA". Raises ValueError for pixels without a known range."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known white")
    if image.mode.startswith("I"):  # 16 bits, or 32 that hold 16; Pillow itself would clip at 255
        deep = np.asarray(image).astype(np.int64)
        if np.min(deep) < 0 or np.max(deep) > 0xFFFF:
            raise ValueError("pixels exceed 16 bits")
        image = Image.fromarray((deep >> 8).astype(np.uint8))
    if image.has_transparency_data and mode != "RGBA":
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def label(raw: Any) -> str:
    """How an error names a picture: its path where it has one."""
    if isinstance(raw, str | os.PathLike):
        return repr(os.fspath(raw))
    return repr(getattr(raw, "filename", "") or f"in a {type(raw).__name__}")
