"""A sequence for a person: a word for every slot, and pictures of what has no words.

No modality is asked for. A stream's values are discrete (then each is said by its own tokenizer), or they stand on
two position axes (then they make a grid), or they follow each other on a line.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor

from anyformer.contracts import Tokenizer
from anyformer.inspection.figures import grey_png, size_of
from anyformer.model import Model
from anyformer.tokens import Stream, StreamSpec, Tokens

LONGEST_WORD = 40
WIDEST_STRIP = 1024  # columns of a drawn line of values
VISIBLE = {" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍"}

Media = Mapping[str, bytes | str]


@dataclass(frozen=True)
class Grid:
    """A picture, and the fractions of it (left, top, width, height) that its slots cover."""

    name: str
    png: bytes
    cells: dict[int, tuple[float, float, float, float]]


@dataclass(frozen=True)
class Strip:
    """A line of values drawn as columns of grey, from first to last slot; `sound`: how they sound, as WAV."""

    name: str
    png: bytes
    slots: list[int]
    sound: bytes = b""


@dataclass(frozen=True)
class Axis:
    """One axis of an example. words: by slot. chips: slots that are shown by their word."""

    words: list[str]
    chips: list[int]
    grids: list[Grid] = field(default_factory=list)
    strips: list[Strip] = field(default_factory=list)


class Words:
    """What single values of discrete streams are called, by the tokenizers that brought the streams."""

    def __init__(self, model: Model) -> None:
        self.owners = {spec.name: t for t in model.tokenizers.values() for spec in t.streams}
        self.of = cache(self._of)

    def _of(self, stream: str, value: int) -> str:
        """A piece of text with its spaces made visible, or `#17` for what says nothing by itself, as part of a
        character does."""
        said = ""
        if stream in self.owners:
            shown = rendered(self.owners[stream], Tokens.of(stream, torch.tensor([value])))
            said = shown.get("text/plain", "")
        said = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
        return visible(said) if said.strip("\ufffd") else f"#{value}"


def visible(text: str) -> str:
    """On one line, with a mark for each space and none for what cannot be printed."""
    marked = "".join(VISIBLE.get(c, c if c.isprintable() else "\ufffd") for c in text[: LONGEST_WORD + 1])
    return marked if len(marked) <= LONGEST_WORD else marked[:LONGEST_WORD] + "…"


def rendered(tokenizer: Tokenizer, tokens: Tokens) -> Media:
    """What the tokenizer shows of these tokens, or nothing: a lone value need not make sense to a plugin, and a word
    on a page is not worth failing for."""
    try:
        return tokenizer.render(tokenizer.decode(tokens))
    except Exception:
        return {}


def axis(model: Model, tokens: Tokens, words: Words) -> Axis:
    """One axis of an example as it is shown."""
    named, chips = [f"#{slot}" for slot in range(tokens.length)], []
    grids, strips = [], []
    for name, stream in tokens.streams.items():
        spec = model.specs[name]
        if spec.overlay:
            continue
        if spec.is_discrete and len(stream.values) == len(stream.slots):
            for slot, value in zip(stream.slots.tolist(), stream.values.tolist(), strict=True):
                named[slot] = words.of(name, value)
                chips.append(slot)
            continue
        for number, (values, slots) in enumerate(_items(stream)):
            item = f"{name} {number + 1}" if len(stream.items) > 1 else name
            shown = _shown(words.owners.get(name), spec, values, tokens.positions[slots])
            if spec.rank == 2 and tokens.positions.shape[1] == 2:
                grids.append(_grid(item, values, slots, tokens.positions[slots], shown))
                labels = [f"{item} {row},{column}" for row, column in _places(tokens.positions[slots]).tolist()]
            else:
                sound = shown.get("audio/wav", b"")
                strips.append(Strip(item, _columns(values), slots.tolist(), sound if isinstance(sound, bytes) else b""))
                labels = [f"{item} {index}" for index in range(len(slots))]
            for slot, label in zip(slots.tolist(), labels, strict=True):
                named[slot] = label
    return Axis(named, sorted(chips), grids, strips)


def _items(stream: Stream) -> Iterator[tuple[Tensor, Tensor]]:
    """Values and slots of each clip, picture or run."""
    value = slot = 0
    for values, slots in stream.items.tolist():
        if slots:
            yield stream.values[value : value + values], stream.slots[slot : slot + slots]
        value, slot = value + values, slot + slots


def _shown(owner: Tokenizer | None, spec: StreamSpec, values: Tensor, positions: Tensor) -> Media:
    """One item by its own tokenizer, where that needs no other stream for it."""
    if owner is None or len(owner.streams) != 1:
        return {}
    stream = Stream.whole(values, torch.arange(len(positions)))
    return rendered(owner, Tokens({spec.name: stream}, len(positions), positions))


def _places(positions: Tensor) -> Tensor:
    return positions - positions.amin(dim=0)


def _grid(name: str, values: Tensor, slots: Tensor, positions: Tensor, shown: Media) -> Grid:
    """The picture its tokenizer shows, or a grey cell for each slot's mean."""
    places = _places(positions)
    rows, columns = (places.amax(dim=0) + 1).tolist()
    png: Any = shown.get("image/png")
    if png is None:
        means = values.float().flatten(1).mean(1)
        cells = torch.full((rows, columns), float(means.min()))
        cells[places[:, 0], places[:, 1]] = means
        png = grey_png(cells)
    width, height = _cell(png, rows, columns, values[0].numel())
    cells = {
        slot: (column * width, row * height, min(width, 1 - column * width), min(height, 1 - row * height))
        for slot, (row, column) in zip(slots.tolist(), places.tolist(), strict=True)
    }
    return Grid(name, png, cells)


def _cell(png: bytes, rows: int, columns: int, features: int) -> tuple[float, float]:
    """Width and height of a cell as fractions of the picture.

    Cells are squares of pixels, and the last ones of a picture that they do not divide stick out of it. Of the sides
    that fit, it is one whose square divides a cell's features; where none fits, cells share the picture evenly.
    """
    width, height = size_of(png)
    least = max(math.ceil(width / columns), math.ceil(height / rows))
    fit = [s for s in range(least, max(width, height) + 1) if (columns - 1) * s < width and (rows - 1) * s < height]
    if not fit:
        return 1 / columns, 1 / rows
    side = next((s for s in fit if features % (s * s) == 0), fit[0])
    return side / width, side / height


def _columns(values: Tensor) -> bytes:
    """Features from bottom to top, values from left to right; the largest ones where there is no room for all."""
    lines = values.float().flatten(1).T
    if lines.shape[1] > WIDEST_STRIP:
        lines = torch.nn.functional.adaptive_max_pool1d(lines, WIDEST_STRIP)
    return grey_png(lines.flip(0))
