"""Pictures with what is said of them, as data: a page of configs/datasets/captioned says where both are.

CaptionedSet.named("emojitwo", "data/emojitwo").records("train")[0]
    →  {"image": Path("data/emojitwo/png/96/1f600.png"), "texts": ["grinning face, happy, smiley"]}
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from anyformer.errors import ConfigError
from anyformer_tasks.files import FORMATS, Found, Record
from anyformer_tasks.language.dataset import Dataset

TONES = {f"1f3f{digit}" for digit in "bcdef"}
"""The code points that only change the colour of skin (Unicode Technical Standard 51 §2.4)."""


def emoji(text: str, source: str) -> Iterator[Found]:
    """EmojiOne's and EmojiTwo's emoji.json, by code points; `base` is the emoji without tones of skin, which is the
    same drawing."""
    try:
        listed = json.loads(text)
        for number, (code, record) in enumerate(listed.items(), 1):
            base = "-".join(point for point in code.split("-") if point not in TONES)
            yield Found(source, number, {**record, "code": code, "base": base}, "record")
    except (ValueError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"{source}: expected a JSON object of records by code points ({error}); download it again."
        ) from error


@dataclass
class CaptionedSet(Dataset):
    """The records {image, texts} of a set of pictures; what is not said here is as for a set of texts.

    format: one more, emoji. picture: the path of a record's picture, and texts: what is said of it, as templates over
    the columns (`{name}, {keywords}`); of a list, the parts with commas between them. Records of one picture are one.
    parts: as there, but of the units, which are all records with one value of `unit`. order: the seed by which units
    are shuffled before that; without one, they stay in the order of the set.
    """

    picture: str = "{image}"
    texts: Sequence[str] = ("{text}",)
    order: int | None = None

    shelf: ClassVar[str] = "datasets/captioned"
    formats: ClassVar[Mapping[str, Any]] = {**FORMATS, "emoji": (emoji, emoji)}

    def _source(self, split: Any) -> list[Found]:
        """What is wanted of each record, one for each picture."""
        merged: dict[str, Found] = {}
        for one in super()._source(split):
            try:
                said = {name: _in_words(value) for name, value in one.values.items()}
                image = self.picture.format(**said)
                texts = [template.format(**said).strip(" ,") for template in self.texts]
            except (KeyError, IndexError, TypeError) as error:
                raise ConfigError(f"{one.at()}: has no {error}, which the page of {self.name!r} asks for.") from error
            known = merged.setdefault(image, Found(one.source, one.number, {"image": image, "texts": []}, one.unit))
            known.values["texts"].extend(text for text in texts if text and text not in known.values["texts"])
        for one in merged.values():
            if not one.values["texts"]:
                raise ConfigError(f"{one.at()}: nothing is said of the picture {one.values['image']!r}; take it out.")
        return list(merged.values())

    def _part(self, found: list[Found], begin: float, end: float) -> list[Found]:
        units: dict[Any, list[Found]] = {}
        for one in found:
            units.setdefault(one.values[self.unit] if self.unit else one.number, []).append(one)
        groups = list(units.values())
        if self.order is not None:
            groups = [groups[i] for i in np.random.default_rng(self.order).permutation(len(groups))]
        return [one for group in groups[int(begin * len(groups)) : int(end * len(groups))] for one in group]

    def _finished(self, found: Found) -> Record:
        return {"image": self._folder / found.values["image"], "texts": found.values["texts"]}


def _in_words(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, list) else value
