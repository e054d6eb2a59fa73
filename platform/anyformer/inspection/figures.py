"""Pictures and charts of a page, with nothing to fetch: PNG as data, SVG in place."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from anyformer.evaluation.text import number

LEVELS = 254
COLOURS = ((0.0, (240, 244, 254)), (0.3, (158, 190, 247)), (0.65, (36, 86, 200)), (1.0, (9, 20, 66)))
"""From pale to deep, by the root of a weight; a page in the dark turns them round."""


def _palette() -> list[tuple[int, int, int]]:
    """One colour for each level, no two alike; the first stands for what the mask hides."""
    levels, at = np.linspace(0, 1, LEVELS + 1), [place for place, _ in COLOURS]
    red, green, blue = (np.interp(levels, at, [colour[i] for _, colour in COLOURS]).round() for i in range(3))
    return [(255, 255, 255), *((int(r), int(g), int(b)) for r, g, b in zip(red, green, blue, strict=True))]


PALETTE = _palette()


def heat_map(weights: Float[Tensor, "queries keys"]) -> bytes:
    """A PNG with one pixel a weight. A pixel's index is 0 for exactly nothing, else 1 + LEVELS · √weight, so that
    small weights are told apart and a page can read them back."""
    levels = (weights.clamp(0, 1).sqrt() * LEVELS).round().to(torch.uint8) + 1
    image = Image.fromarray(levels.masked_fill(weights == 0, 0).numpy())
    image.putpalette([channel for colour in PALETTE for channel in colour])
    return _png(image, transparency=0)


def grey_png(values: Float[Tensor, "height width"]) -> bytes:
    """The smallest value white, the largest black."""
    low, high = float(values.min()), float(values.max())
    scaled = (high - values) / (high - low) if high > low else torch.zeros_like(values)
    return _png(Image.fromarray((scaled * 255).round().to(torch.uint8).numpy()))


def _png(image: Image.Image, **more: int) -> bytes:
    written = io.BytesIO()
    image.save(written, "PNG", compress_level=9, **more)
    return written.getvalue()


def size_of(png: bytes) -> tuple[int, int]:
    """Width and height in pixels."""
    with Image.open(io.BytesIO(png)) as image:
        return image.size


def data_uri(mime: str, content: bytes) -> str:
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


def bars(changes: Float[Tensor, "layers heads"], measure: str, names: Sequence[str]) -> str:
    """A row of bars for each layer on one scale: up where the model needs the head, down where it is better off."""
    layers, heads = changes.shape
    left, pitch, tall = 56, min(40.0, 640 / heads), 22.0
    most = float(changes.abs().max()) or 1.0
    width, row = left + pitch * heads + 8, 2 * tall + 14
    marks = []
    for layer in range(layers):
        zero = row * layer + tall + 10
        marks.append(f'<text class="name" x="0" y="{zero + 4:g}">{escape(names[layer])}</text>')
        marks.append(f'<line class="axis" x1="{left}" x2="{width - 8:g}" y1="{zero:g}" y2="{zero:g}"/>')
        for head, change in enumerate(changes[layer].tolist()):
            size = abs(change) / most * tall
            told = f"{names[layer]}, head {head}: {number(change, signed=True)}"
            kind, y = ("bar", zero - size) if change >= 0 else ("bar spared", zero)
            marks.append(
                f'<g><title>{escape(told)}</title><rect class="{kind}" x="{left + pitch * head + 1:g}" y="{y:.1f}" '
                f'width="{pitch - 2:g}" height="{max(size, 0.6):.1f}"/>'
                f'<rect class="touch" x="{left + pitch * head:g}" y="{zero - tall:g}" width="{pitch:g}" '
                f'height="{2 * tall:g}"/></g>'
            )
    bottom = row * layers + 22
    for head in range(0, heads, max(1, heads // 16)):
        marks.append(
            f'<text class="tick" x="{left + pitch * (head + 0.5):g}" y="{bottom - 6:g}" text-anchor="middle">'
            f"{head}</text>"
        )
    marks.append(f'<text class="tick" x="0" y="{bottom - 6:g}">head</text>')
    told = f"Change of the {measure} without each head, at most {number(most)}."
    return (
        f'<svg class="heads" style="max-width:{width:g}px" viewBox="0 0 {width:g} {bottom:g}" role="img" '
        f'aria-label="{escape(told)}">{"".join(marks)}</svg>'
    )
