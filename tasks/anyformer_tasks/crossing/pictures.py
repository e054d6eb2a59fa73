"""Pictures and what is said of them: each finds the other, or the words are written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from PIL import Image

from anyformer import presets
from anyformer.contracts import Metric, Sample, Score, Split, Task
from anyformer.errors import ConfigError, SampleError, unknown
from anyformer.objectives import ContrastivePairs, SequenceToSequence
from anyformer_tasks.crossing.dataset import CaptionedSet
from anyformer_tasks.crossing.retrieval import chance, metrics, retrieval_scores, texts_of
from anyformer_tasks.files import Record
from anyformer_tasks.language.judgement import prepared
from anyformer_tasks.language.lengths import answered, slots
from anyformer_tasks.language.measures import MEASURES
from anyformer_tasks.language.text_to_text import TOKEN_BUDGET, Asked
from anyformer_tasks.samples import MadeSamples
from anyformer_tasks.vision.augmentation import augmentations, varied
from anyformer_tasks.vision.dataset import PictureSet
from anyformer_tasks.vision.picture import Pixels, pixels

if TYPE_CHECKING:
    from torch import nn

    from anyformer.contracts import Objective
    from anyformer.model import Model

DIRECTIONS = ("to_text_", "to_image_")


@dataclass
class OfPictures(Task):
    """dataset, data_dir: a page of configs/datasets/captioned, or one of configs/datasets/vision, whose labels are then
    what is said; and where its files are.

    size: the side, in pixels, of the square that every picture is brought to, what is transparent on white; 0 leaves
    them as they are. augment: as for image_classification.

    A sample is {"image": uint8[height, width, 3], "text": …}; in training there is one for each text of a picture.
    """

    dataset: str = "emojitwo"
    data_dir: str = ""
    size: int = 0
    augment: list[Any] = field(default_factory=list)

    fields: ClassVar[Mapping[str, str]] = {"image": "image", "text": "text"}
    modality: ClassVar[str] = "image"

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ConfigError(f"size={self.size}; expected a side in pixels, or 0 for pictures as they are.")
        _ = self._transforms  # a wrong one is refused at once

    def records(self, split: Split) -> list[Record]:
        """{image, texts}"""
        if isinstance(self._source, CaptionedSet):
            return self._source.records(split)
        return [{"image": one["image"], "texts": [str(one["label"])]} for one in self._source.records(split)]

    def examples(self, split: Split) -> Sequence[Sample]:
        return Told(self.records(split), split, self.size)

    def varied(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The augmentations, drawn anew at each pass."""
        if self._transforms is None:
            return sample
        return replace(sample, values={**sample.values, "image": varied(sample.values["image"], self._transforms, rng)})

    def corpus(self, field: str) -> Iterable[Any]:
        if field != "text":
            return super().corpus(field)
        return (text for record in self.records("train") for text in record["texts"])

    @cached_property
    def _source(self) -> CaptionedSet | PictureSet:
        of_labels = (presets.root() / PictureSet.shelf / f"{self.dataset}.yaml").is_file()
        return (PictureSet if of_labels else CaptionedSet).named(self.dataset, self.data_dir)

    @cached_property
    def _transforms(self) -> nn.Sequential | None:
        return augmentations(self.augment) if self.augment else None


@dataclass
class PictureRetrieval(OfPictures):
    """Pictures find their texts among those of all samples, and texts their pictures: recall among the first 1, 5 and
    10, of both directions together and of each. A text that is word for word another's is right for both."""

    metrics: ClassVar[tuple[Metric, ...]] = metrics(*DIRECTIONS)

    def default_objective(self) -> Objective:
        return ContrastivePairs(first="image", second="text")

    def score(self, model: Model, samples: Sequence[Sample]) -> Iterator[Score]:
        return retrieval_scores(self, model, samples, "image", DIRECTIONS)

    def baselines(self) -> Mapping[str, Mapping[str, float]]:
        """Chance, with several right answers counted."""
        return chance(self.examples("test"), DIRECTIONS)


@dataclass
class Captioning(OfPictures):
    """What is said of a picture, written: by an encoder and a decoder, or, with the objective `prefix`, by one stack.

    metric: one of MEASURES. max_new: the most tokens of an answer.
    """

    metric: str = "f1"
    max_new: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.metric not in MEASURES:
            raise unknown("metric", self.metric, MEASURES)
        if self.max_new < 1:
            raise ConfigError(f"captioning has max_new={self.max_new}; expected at least 1.")

    @property
    def metrics(self) -> tuple[Metric, ...]:  # ty: ignore[incompatible-property-override]
        return MEASURES[self.metric].metrics

    def default_objective(self) -> Objective:
        return SequenceToSequence(target="text")

    def score(self, model: Model, samples: Sequence[Sample]) -> Iterator[Score]:
        measure = MEASURES[self.metric]
        measure.require()
        tokenizer = model.tokenizers[self.fields["text"]]
        bare = [replace(sample, values={"image": sample.values["image"]}) for sample in samples]
        written = answered(
            prepared("captioning", self, model, bare),
            lambda prompt: slots(prompt) + self.max_new,
            TOKEN_BUDGET,
            lambda batch: model.generate(batch, tokenizer.streams[0].name, self.max_new),
        )
        said = [tokenizer.decode(tokens) for tokens in written]
        found = measure.judge(said, [texts_of(sample) for sample in samples])
        for sample, text, *values in zip(samples, said, *found.values(), strict=True):
            for name, value in zip(found, values, strict=True):
                yield Score(sample.id, name, value, cluster=sample.cluster, shown={**sample.values, "said": text})

    def baselines(self) -> Mapping[str, Mapping[str, float]]:
        """The text of the training picture that is nearest by its pixels, at 16 x 16."""
        measure = MEASURES[self.metric]
        measure.require()
        train, test = self.records("train"), self.records("test")
        seen, asked = (np.stack([small(record["image"]) for record in records]) for records in (train, test))
        nearest = [int(((seen - one) ** 2).sum(1).argmin()) for one in asked]
        found = measure.judge([train[i]["texts"][0] for i in nearest], [record["texts"] for record in test])
        return {name: {"nearest picture": float(np.mean(values))} for name, values in found.items()}


class Told(MadeSamples):
    """The samples of a split, each picture read when it is first asked for and then kept."""

    def __init__(self, records: Sequence[Record], split: Split, size: int) -> None:
        self.split, self.size = split, size
        each = split == "train"
        self.said = [
            (number, record["image"], texts)
            for number, record in enumerate(records)
            for texts in ([[text] for text in record["texts"]] if each else [record["texts"]])
        ]
        self._kept: dict[int, Pixels] = {}

    def __len__(self) -> int:
        return len(self.said)

    def sample(self, index: int) -> Sample:
        number, place, texts = self.said[index]
        if number not in self._kept:
            self._kept[number] = on_white(place, self.size)
        return Asked(f"{self.split}-{index}", {"image": self._kept[number], "text": texts[0]}, right=tuple(texts))


def on_white(place: Any, size: int = 0) -> Pixels:
    """uint8[height, width, 3]; what is transparent in a picture's file lies on white. Otherwise as `pixels`."""
    try:
        if not isinstance(place, np.ndarray) and hasattr(place, "suffix"):
            with Image.open(place) as opened:
                image = opened.convert("RGBA")
            place = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:  # as Pillow's decoders raise them
        raise SampleError(f"The picture {place} cannot be read ({error}); get it again or leave it out.") from error
    found = pixels(place, size)
    return found if found.ndim == 3 else np.repeat(found[..., None], 3, 2)


def small(place: Any) -> np.ndarray:
    """float64[768]: the levels 0 to 1 of 16 x 16 pixels."""
    return on_white(place, 16).reshape(-1) / 255
