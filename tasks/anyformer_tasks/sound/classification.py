"""What a sound is: a spoken word out of a few, a dog, a helicopter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float

from anyformer.contracts import Metric, Sample, Score, Split, Task
from anyformer.objectives import Classification
from anyformer.tokens import Tokens
from anyformer_tasks.language.judgement import prepared, told
from anyformer_tasks.packages import require
from anyformer_tasks.sound.clip import Clip
from anyformer_tasks.sound.dataset import SoundSet
from anyformer_tasks.sound.variation import Variation

if TYPE_CHECKING:
    from anyformer.contracts import Objective
    from anyformer.model import Model

NAME = "sound_classification"


@dataclass
class SoundClassification(Task):
    """dataset, data_dir: a page of configs/datasets/sound, and where its files are.

    label: the clips' field to be told. leave_out: by field, what the clips of the test split have, whatever the page
    says of it, and no other has: `{speaker: george}`, `{fold: 1}`. trim: of every clip, what is softer at both ends
    than so many decibels below its loudest is cut off. augment: how training varies a recording, see Variation; by
    default not at all.

    A sample is {"audio": …, "label": …}.
    """

    dataset: str = "fsdd"
    data_dir: str = ""
    label: str = "digit"
    leave_out: dict[str, Any] = field(default_factory=dict)
    trim: float | None = None
    augment: dict[str, Any] = field(default_factory=dict)

    fields: ClassVar[Mapping[str, str]] = {"audio": "audio", "label": "label"}
    modality: ClassVar[str] = "audio"
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("accuracy", higher_is_better=True),)

    def __post_init__(self) -> None:
        self._variation = Variation.of(self.augment) if self.augment else None

    def default_objective(self) -> Objective:
        return Classification(target="label")

    @cached_property
    def source(self) -> SoundSet:
        return SoundSet.named(self.dataset, self.data_dir, self.leave_out, self.trim)

    def examples(self, split: Split) -> Sequence[Sample]:
        return [
            Sample(clip.name, {"audio": clip.sound, "label": clip.told(self.label)}, cluster=clip.speaker)
            for clip in self.source.clips(split)
        ]

    def varied(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if self._variation is None:
            return sample
        heard = sample.values["audio"]
        wave = Clip(sample.id, heard, {}).wave() if isinstance(heard, str) else heard
        return replace(sample, values={**sample.values, "audio": self._variation(wave, rng)})

    def score(self, model: Model, samples: Sequence[Sample]) -> Iterator[Score]:
        """Whether the likeliest label is the right one."""
        tokenizer = model.tokenizers[self.fields["label"]]
        (stream,) = tokenizer.streams
        examples = prepared(NAME, self, model, samples)
        for sample, logits in zip(samples, told(model, self, examples, stream.name), strict=True):
            chance = logits.softmax(-1)
            name = tokenizer.decode(Tokens.of(stream.name, chance.argmax()[None]))
            shown = {**sample.values, "prediction": f"{name} ({float(chance.max()):.2f})"}
            yield Score(
                sample.id, "accuracy", float(name == sample.values["label"]), cluster=sample.cluster, shown=shown
            )

    def baselines(self) -> Mapping[str, Mapping[str, float]]:
        """Two classifiers of the mean and the deviation over time of each band of a log-mel spectrogram, fitted to the
        training split that the model has."""
        train, test = self.source.clips("train"), self.source.clips("test")
        rate = max(clip.wave()[1] for clip in train[:1])
        seen, unseen = (np.stack([summary(clip, rate) for clip in clips]) for clips in (train, test))
        labels, wanted = ([clip.told(self.label) for clip in clips] for clips in (train, test))
        return {
            "accuracy": {
                name: float(np.mean(classifier().fit(seen, labels).predict(unseen) == np.array(wanted)))
                for name, classifier in _classifiers().items()
            }
        }


def summary(clip: Clip, rate: int, mels: int = 64) -> Float[np.ndarray, " features"]:
    """The mean and the deviation of each of `mels` log-mel bands, of frames of 25 ms every 10."""
    from torchaudio.functional import resample
    from torchaudio.transforms import MelSpectrogram

    samples, own_rate = clip.wave()
    wave = torch.from_numpy(samples).mean(0)
    window = rate // 40
    transform = MelSpectrogram(rate, n_fft=max(512, window), win_length=window, hop_length=rate // 100, n_mels=mels)
    bands = (transform(resample(wave, own_rate, rate)) + 1e-6).log()
    return torch.cat((bands.mean(1), bands.std(1, correction=0))).numpy()


def _classifiers() -> dict[str, Callable[[], Any]]:
    require("scikit-learn", "demo", f"The baselines of {NAME!r} are fitted by")
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return {
        "random forest": lambda: RandomForestClassifier(500, random_state=0),
        "logistic regression": lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
    }
