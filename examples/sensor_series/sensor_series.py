"""Sensor series as a modality, and a task on it: what is the wearer of this motion sensor doing?

    sensor.encode(float32[100, 3])   →   13 slots of 8 readings x 3 channels each
    {"series": float32[time, 3], "answer": "running"}

The recordings are synthetic accelerometer readings, made offline: gravity in the sensor's own orientation,
the rhythm of the activity, and noise.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from anyformer import Metric, Objective, Prefix, Sample, Score, Stream, StreamSpec, Task, Tokenizer, Tokens
from anyformer.errors import ConfigError, SampleError, TokenizerError

if TYPE_CHECKING:
    from anyformer import Model

STATISTICS = "statistics.json"
RATE = 50  # readings a second
SPLIT_SIZES = {"train": 3000, "validation": 100, "test": 200}
ACTIVITIES = {  # steps a second, and swing in units of gravity
    "resting": ((0.1, 0.4), (0.00, 0.03)),
    "walking": ((1.4, 2.2), (0.20, 0.45)),
    "running": ((2.4, 3.4), (0.80, 1.60)),
    "cycling": ((0.8, 1.3), (0.08, 0.20)),
}


@dataclass
class SensorTokenizer(Tokenizer):
    """float32[time, channels] ⇄ one continuous stream named after the tokenizer: a row holds `stride`
    consecutive readings and has one slot. The last row is filled by repeating the last reading, so decoding
    may give back up to stride - 1 readings too many.
    """

    name: str = "sensor"
    channels: int = 3
    stride: int = 8
    _scale: tuple[list[float], list[float]] | None = field(default=None, init=False, repr=False)

    fidelity: ClassVar = "approximate"

    def __post_init__(self) -> None:
        if self.channels < 1 or self.stride < 1:
            raise ConfigError(
                f"Tokenizer {self.name!r} has channels={self.channels} and stride={self.stride}; "
                "expected at least 1 of each."
            )

    @property
    def streams(self) -> tuple[StreamSpec, ...]:
        return (StreamSpec.continuous(self.name, self.channels * self.stride),)

    def encode(self, raw: Any) -> Tokens:
        mean, deviation = self._learned()
        readings = (self._checked(raw) - mean) / deviation
        filled = np.pad(readings, ((0, -len(readings) % self.stride), (0, 0)), mode="edge")
        rows = torch.from_numpy(filled.reshape(-1, self.channels * self.stride))
        return Tokens({self.name: Stream.whole(rows)}, len(rows), torch.arange(len(rows))[:, None])

    def decode(self, tokens: Tokens) -> np.ndarray:
        mean, deviation = self._learned()
        readings = tokens.streams[self.name].values.numpy(force=True).reshape(-1, self.channels)
        return (readings * deviation + mean).astype(np.float32)

    def length(self, raw: Any) -> int:
        return -(-len(self._checked(raw)) // self.stride)

    def example(self, rng: np.random.Generator) -> np.ndarray:
        return record(str(rng.choice(list(ACTIVITIES))), rng, channels=self.channels)

    @property
    def fitted(self) -> bool:
        return self._scale is not None

    def fit(self, samples: Iterable[Any]) -> None:
        """Each channel's mean and standard deviation over all readings."""
        readings = np.concatenate([self._checked(raw) for raw in samples]).astype(np.float64)
        self._scale = readings.mean(0).tolist(), readings.std(0).clip(min=1e-3).tolist()

    def state(self) -> dict[str, bytes]:
        return {} if self._scale is None else {STATISTICS: json.dumps(self._scale).encode()}

    def restore(self, state: Mapping[str, bytes]) -> None:
        try:
            mean, deviation = json.loads(state[STATISTICS])
            fits = len(mean) == len(deviation) == self.channels
        except (KeyError, TypeError, ValueError) as error:
            raise TokenizerError(f"Tokenizer {self.name!r} needs {STATISTICS}, readable ({error!r}).") from error
        if not fits:
            raise TokenizerError(f"{STATISTICS} is not of {self.channels} channels; restore the tokenizer's own.")
        self._scale = mean, deviation

    def _learned(self) -> np.ndarray:
        if self._scale is None:
            raise TokenizerError(f"Tokenizer {self.name!r} is not fitted; call its fit(series) first.")
        return np.asarray(self._scale, dtype=np.float32)

    def _checked(self, raw: Any) -> np.ndarray:
        """The readings, if they are what this tokenizer takes."""
        if not isinstance(raw, np.ndarray) or raw.dtype.kind not in "iuf" or raw.ndim != 2:
            raise SampleError(f"A series for {self.name!r} is {type(raw).__name__}; expected float32[time, channels].")
        if len(raw) == 0 or raw.shape[1] != self.channels:
            raise SampleError(
                f"A series for {self.name!r} has shape {list(raw.shape)}; "
                f"expected at least one reading of {self.channels} channels."
            )
        if not np.isfinite(raw).all() or np.abs(raw).max() > 1e6:
            raise SampleError(f"A series for {self.name!r} has readings that are not finite, or beyond ±1e6; drop it.")
        return raw.astype(np.float32)


@dataclass
class Activities(Task):
    """Name the activity behind a few seconds of a motion sensor's readings. seed: draws the recordings."""

    seed: int = 0

    fields: ClassVar[Mapping[str, str]] = {"series": "sensor", "answer": "text"}
    modality: ClassVar[str] = "sensor"
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("accuracy", higher_is_better=True),)

    def default_objective(self) -> Objective:
        return Prefix(target="answer")

    def examples(self, split: str) -> Sequence[Sample]:
        return [self._sample(split, number) for number in range(SPLIT_SIZES[split])]

    def score(self, model: Model, samples: Sequence[Sample]) -> Iterator[Score]:
        """1 for the right word, 0 for anything else."""
        answers = model.complete("activities", self, samples, field="answer", max_new=12)
        for sample, answer in zip(samples, answers, strict=True):
            right = float(answer == sample.values["answer"])
            yield Score(sample.id, "accuracy", right, shown={**sample.values, "prediction": answer})

    def baselines(self) -> Mapping[str, Mapping[str, float]]:
        """The activity whose mean swing, over all channels, is nearest on a logarithmic scale."""
        train = [(swing(sample), sample.values["answer"]) for sample in self.examples("train")]
        means = {name: np.mean([s for s, answer in train if answer == name]) for name in ACTIVITIES}
        test = self.examples("test")
        right = [min(means, key=lambda name: abs(means[name] - swing(s))) == s.values["answer"] for s in test]
        return {"accuracy": {"nearest mean swing": float(np.mean(right))}}

    def _sample(self, split: str, number: int) -> Sample:
        """Drawn from its own key, so that no sample depends on another."""
        rng = np.random.default_rng((self.seed, list(SPLIT_SIZES).index(split), number))
        activity = list(ACTIVITIES)[number % len(ACTIVITIES)]
        return Sample(f"{split}-{number}", {"series": record(activity, rng), "answer": activity})


def record(activity: str, rng: np.random.Generator, channels: int = 3) -> np.ndarray:
    """float32[time, channels]: one to three seconds of readings in units of gravity."""
    frequency, swing = (rng.uniform(*bounds) for bounds in ACTIVITIES[activity])
    seconds = np.arange(int(rng.integers(RATE, 3 * RATE))) / RATE
    phase = 2 * np.pi * (frequency * seconds + rng.uniform())
    rhythm = np.sin(phase)[:, None] + 0.4 * np.sin(2 * phase + 1)[:, None]  # a step has a heel and a toe
    upright = rng.normal(size=channels)
    upright /= np.linalg.norm(upright)
    noise = rng.normal(scale=0.02, size=(len(seconds), channels))
    return (upright + swing * rhythm * rng.normal(size=channels) + noise).astype(np.float32)


def swing(sample: Sample) -> float:
    """How far a series moves about its mean, on a logarithmic scale."""
    return float(np.log(sample.values["series"].std(0).mean()))
