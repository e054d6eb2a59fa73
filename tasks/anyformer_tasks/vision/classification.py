"""What a picture shows: one label out of a few."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Float

from anyformer.contracts import Metric, Sample, Score, Split, Task
from anyformer.errors import ConfigError
from anyformer.objectives import Classification
from anyformer_tasks.files import Record
from anyformer_tasks.language.judgement import label_scores
from anyformer_tasks.language.measures import macro_f1
from anyformer_tasks.packages import require
from anyformer_tasks.samples import MadeSamples
from anyformer_tasks.vision.augmentation import augmentations, varied
from anyformer_tasks.vision.dataset import PictureSet
from anyformer_tasks.vision.picture import Pixels, pixels, trimmed

if TYPE_CHECKING:
    from torch import nn

    from anyformer.contracts import Objective
    from anyformer.model import Model

NAME = "image_classification"
LOGISTIC = "logistic regression"
MOST_FITTED = 5000
"""Training pictures that the baseline is fitted to."""
MOST_SIDE = 32
"""Pixels of the squares that it sees."""
MOST_HELD = 2**28
"""Bytes of pictures that a split keeps once they are read."""


@dataclass
class ImageClassification(Task):
    """dataset, data_dir: a page of configs/datasets/vision, and where its files are.

    trim: cut a picture to what is drawn on it, so that each has a height and a width of its own.
    size: the side, in pixels, of the square that every picture is brought to then; 0 leaves them as they are.
    augment: what is done to a picture each time that it is trained on, in this order: transforms of
    torchvision.transforms.v2, by name (`RandomHorizontalFlip`) or by name with arguments
    (`{RandomCrop: {size: 28, padding: 2}}`), and behind them perhaps a resolution that is drawn for each picture
    (`{RandomPatchBudget: {patch: 4, least: 9, most: 36}}`).

    A sample is {"image": uint8[height, width] or uint8[height, width, 3], "label": …}.
    """

    dataset: str = "digits"
    data_dir: str = ""
    trim: bool = False
    size: int = 0
    augment: list[Any] = field(default_factory=list)

    fields: ClassVar[Mapping[str, str]] = {"image": "image", "label": "label"}
    modality: ClassVar[str] = "image"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("accuracy", higher_is_better=True),
        Metric("macro_f1", higher_is_better=True),
    )

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ConfigError(f"{NAME} has size={self.size}; expected a side in pixels, or 0 for pictures as they are.")
        _ = self._transforms  # a wrong one is refused at once

    def default_objective(self) -> Objective:
        return Classification(target="label", pooling="mean")

    @cached_property
    def source(self) -> PictureSet:
        return PictureSet.named(self.dataset, self.data_dir)

    def examples(self, split: Split) -> Sequence[Sample]:
        return Shown(self.source.records(split), split, self.size, self.trim)

    def varied(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The augmentations, drawn anew at each pass."""
        if self._transforms is None:
            return sample
        return replace(sample, values={**sample.values, "image": varied(sample.values["image"], self._transforms, rng)})

    def corpus(self, field: str) -> Iterable[Any]:
        return (r["label"] for r in self.source.records("train")) if field == "label" else super().corpus(field)

    def score(self, model: Model, samples: Sequence[Sample]) -> Iterator[Score]:
        """Whether the likeliest label is the right one; and the macro-averaged F1 of these samples."""
        return label_scores(NAME, self, model, samples)

    def baselines(self) -> Mapping[str, Mapping[str, float]]:
        """Logistic regression on the levels of squares of at most 32 x 32 pixels, as large as the smallest picture has
        room for, fitted to at most 5,000 of the training split's, drawn by lot."""
        train, test = self.examples("train"), self.examples("test")
        chosen = np.random.default_rng(0).permutation(len(train))[:MOST_FITTED]
        seen, unseen = [train[i] for i in chosen.tolist()], list(test)
        labels, wanted = ([sample.values["label"] for sample in split] for split in (seen, unseen))
        side = min(MOST_SIDE, *(min(sample.values["image"].shape[:2]) for sample in (*seen, *unseen)))
        found = _logistic_regression().fit(levels(seen, side), labels).predict(levels(unseen, side)).tolist()
        return {
            "accuracy": {LOGISTIC: float(np.mean(np.equal(found, wanted)))},
            "macro_f1": {LOGISTIC: float(np.mean(macro_f1(wanted, found)))},
        }

    @cached_property
    def _transforms(self) -> nn.Sequential | None:
        return augmentations(self.augment) if self.augment else None


class Shown(MadeSamples):
    """The samples of a split, each picture read when it is first asked for and then kept, as far as there is room."""

    def __init__(self, records: Sequence[Record], split: Split, size: int, trim: bool = False) -> None:
        self.records, self.split, self.size, self.trim = records, split, size, trim
        self._kept: dict[int, Pixels] = {}
        self._room = MOST_HELD

    def __len__(self) -> int:
        return len(self.records)

    def sample(self, index: int) -> Sample:
        values = {"image": self._picture(index), "label": str(self.records[index]["label"])}
        return Sample(f"{self.split}-{index}", values)

    def _picture(self, index: int) -> Pixels:
        if index in self._kept:
            return self._kept[index]
        place = self.records[index]["image"]
        found = pixels(trimmed(pixels(place)) if self.trim else place, self.size)
        if found.nbytes <= self._room:
            self._kept[index], self._room = found, self._room - found.nbytes
        return found


def levels(samples: Sequence[Sample], side: int) -> Float[np.ndarray, "samples features"]:
    """Levels 0 to 1 of all channels of pictures brought to side x side."""
    small = [pixels(sample.values["image"], side) for sample in samples]
    deep = max(picture.ndim for picture in small)
    if deep == 3:  # grey ones among colours
        small = [picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, 2) for picture in small]
    return np.stack(small).reshape(len(small), -1) / 255


def _logistic_regression() -> Any:
    require("scikit-learn", "demo", f"The baseline of {NAME!r} is fitted by")
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=200)
