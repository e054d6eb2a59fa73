"""Sounds and the words for them, and from a sound to a picture by way of words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from anyformer.contracts import Metric, Sample, Score, Split, Task
from anyformer.objectives import ContrastivePairs
from anyformer_tasks.crossing.pictures import on_white
from anyformer_tasks.crossing.retrieval import best_places, chance, metrics, retrieval_scores, vectors_of
from anyformer_tasks.language.text_to_text import Asked
from anyformer_tasks.sound.dataset import SoundSet
from anyformer_tasks.vision.dataset import PictureSet

if TYPE_CHECKING:
    from anyformer.contracts import Objective
    from anyformer.model import Model

DIRECTIONS = ("to_text_", "to_audio_")


@dataclass(frozen=True)
class Heard(Asked):
    """A clip that looks for the pictures of its split."""

    split: Split = "test"


@dataclass
class SoundRetrieval(Task):
    """dataset, data_dir: a page of configs/datasets/sound, and where its files are. text: the clips' field that is said
    of them. leave_out: as for sound_classification.

    Clips find their texts, and texts any clip that they are said of: see image_text_retrieval. A sample is
    {"audio": …, "text": …}.
    """

    dataset: str = "fsdd"
    data_dir: str = ""
    text: str = "digit"
    leave_out: dict[str, Any] = field(default_factory=dict)

    fields: ClassVar[Mapping[str, str]] = {"audio": "audio", "text": "text"}
    modality: ClassVar[str] = "audio"
    metrics: ClassVar[tuple[Metric, ...]] = metrics(*DIRECTIONS)

    def default_objective(self) -> Objective:
        return ContrastivePairs(first="audio", second="text")

    @cached_property
    def source(self) -> SoundSet:
        return SoundSet.named(self.dataset, self.data_dir, self.leave_out)

    def examples(self, split: Split) -> Sequence[Sample]:
        return [
            Asked(clip.name, {"audio": clip.sound, "text": told}, cluster=clip.speaker, right=(told,))
            for clip in self.source.clips(split)
            for told in [clip.told(self.text)]
        ]

    def score(self, model: Model, samples: Sequence[Sample]) -> Iterator[Score]:
        return retrieval_scores(self, model, samples, "audio", DIRECTIONS)

    def baselines(self) -> Mapping[str, Mapping[str, float]]:
        """Chance, with several right answers counted."""
        return chance(self.examples("test"), DIRECTIONS)


@dataclass
class Bridge(Task):
    """From sounds to pictures that were never seen together, by words that were said of both (ImageBind's emergent
    alignment, arXiv:2305.05665 §3.2, with text in the middle).

    sounds, pictures: pages of configs/datasets/sound and configs/datasets/vision. text: the clips' field that is a
    picture's label. size: of the pictures, see image_classification.

    r1, r5: a picture of the right label is among the nearest to a clip. precision_10: how many of the ten nearest are.
    by_text_r1: the word nearest to the clip, then the picture nearest to the word. There is nothing to train on: a clip
    and its word are.
    """

    sounds: str = "fsdd"
    pictures: str = "digits-in-words"
    data_dir: str = ""
    text: str = "digit"
    size: int = 0

    fields: ClassVar[Mapping[str, str]] = {"audio": "audio", "image": "image", "text": "text"}
    modality: ClassVar[str] = "audio → image"
    metrics: ClassVar[tuple[Metric, ...]] = tuple(
        Metric(name, higher_is_better=True) for name in ("r1", "r5", "precision_10", "by_text_r1")
    )

    def default_objective(self) -> Objective:
        return ContrastivePairs(first="audio", second="text")

    def examples(self, split: Split) -> Sequence[Sample]:
        clips = SoundSet.named(self.sounds, self.data_dir).clips(split)
        return [
            Heard(c.name, {"audio": c.sound, "text": told}, cluster=c.speaker, right=(told,), split=split)
            for c in clips
            for told in [c.told(self.text)]
        ]

    def score(self, model: Model, samples: Sequence[Sample]) -> Iterator[Score]:
        (split,) = {sample.split if isinstance(sample, Heard) else "test" for sample in samples}
        shown = self._shown(split)
        words = list(dict.fromkeys([*(label for _, label in shown), *(s.values["text"] for s in samples)]))
        pictures = vectors_of(self, model, "image", [picture for picture, _ in shown])
        clips = vectors_of(self, model, "audio", [sample.values["audio"] for sample in samples])
        texts = vectors_of(self, model, "text", words)
        labels = np.array([label for _, label in shown])
        right = torch.from_numpy(np.array([labels == sample.values["text"] for sample in samples]))
        cosines, by_text = clips @ pictures.T, texts[(clips @ texts.T).argmax(1)] @ pictures.T
        direct, through = best_places(cosines, right), best_places(by_text, right)
        near = right.gather(1, cosines.topk(min(10, len(shown))).indices).float().mean(1)
        for row, sample in enumerate(samples):
            values = (direct[row] <= 1, direct[row] <= 5, near[row], through[row] <= 1)
            found = {**sample.values, "image": shown[int(cosines[row].argmax())][0]}
            for metric, value in zip(self.metrics, values, strict=True):
                yield Score(sample.id, metric.name, float(value), cluster=sample.cluster, shown=found)

    def baselines(self) -> Mapping[str, Mapping[str, float]]:
        """Chance."""
        labels = np.array([label for _, label in self._shown("test")])
        shares = [np.mean(labels == sample.values["text"]) for sample in self.examples("test")]
        return {name: {"chance": float(np.mean(shares))} for name in ("r1", "precision_10", "by_text_r1")}

    def _shown(self, split: Split) -> list[tuple[Any, str]]:
        records = PictureSet.named(self.pictures, self.data_dir).records(split)
        return [(on_white(record["image"], self.size), str(record["label"])) for record in records]
