"""Dial tones: a recording of pressed telephone keys goes in, the keys come out as text.

Each key sounds as the sum of a low and a high sine (DTMF, ITU-T Recommendation Q.23); a receiver must bear short
tones, uneven levels and noise (ITU-T Q.24). Recordings are synthesised, each from its own seed. A sample is

    {"audio": (float32[1, time], 8000), "keys": "1 5 9 #"}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Float32

from anyformer.contracts import SPLITS, Metric, Objective, Sample, Score, Split, Task
from anyformer.errors import ConfigError
from anyformer.objectives import Prefix
from anyformer_tasks.goertzel import HIGH, KEYS, LOW, Goertzel
from anyformer_tasks.samples import MadeSamples

if TYPE_CHECKING:
    from anyformer.model import Model

NAME = "dial_tones"
RATE = 8000  # samples a second, as on a telephone line
START, TONE, PAUSE = (0.02, 0.06), (0.06, 0.12), (0.04, 0.08)  # shortest and longest, in seconds
CER = "character_error_rate"


@dataclass
class DialTones(Task):
    """Audio to text: write down the pressed keys.

    clips, held_out: recordings in the training split and in each held-out one.
    least_keys, most_keys: keys in a recording. Short recordings are the easy ones from which the long ones are
    learned: with no fewer than three keys, a model takes longer to find where each one sounds.
    snr: the range in dB of a recording's tone-to-noise ratio, for its loudest possible tone; others are up to 6 dB
    weaker. seed: draws everything.
    """

    clips: int = 8000
    held_out: int = 300
    least_keys: int = 1
    most_keys: int = 6
    snr: tuple[float, float] = (-6.0, 20.0)
    seed: int = 0

    fields: ClassVar[Mapping[str, str]] = {"audio": "audio", "keys": "text"}
    modality: ClassVar[str] = "audio"
    metrics: ClassVar[tuple[Metric, ...]] = (Metric(CER, higher_is_better=False),)

    def __post_init__(self) -> None:
        if not 1 <= self.least_keys <= self.most_keys or self.clips < 1 or self.held_out < 1:
            raise ConfigError(
                f"DialTones has least_keys={self.least_keys}, most_keys={self.most_keys}, clips={self.clips} and "
                f"held_out={self.held_out}; expected 1 <= least_keys <= most_keys and at least one clip of each."
            )
        if len(self.snr) != 2 or not self.snr[0] <= self.snr[1]:
            raise ConfigError(f"DialTones has snr={self.snr}; expected two numbers of dB, the lower one first.")

    def default_objective(self) -> Objective:
        return Prefix(target="keys")

    def examples(self, split: Split) -> Sequence[Sample]:
        return _Recordings(self, split)

    def score(self, model: Model, samples: Sequence[Sample]) -> Iterator[Score]:
        """Edits between the written and the pressed keys, weighted by how many were pressed."""
        predictions = model.complete(NAME, self, samples, field="keys", max_new=2 * self.most_keys + 4)
        for sample, prediction in zip(samples, predictions, strict=True):
            pressed = keys_of(sample.values["keys"])
            rate = edits(keys_of(prediction), pressed) / len(pressed)
            shown = {**sample.values, "prediction": prediction}
            yield Score(sample.id, CER, rate, weight=len(pressed), cluster=sample.cluster, shown=shown)

    def baselines(self) -> Mapping[str, Mapping[str, float]]:
        """A Goertzel-filter decoder whose thresholds are chosen on training recordings."""
        recordings = [(audio(s), keys_of(s.values["keys"])) for s in self.examples("train")[:400]]
        decoder = min(Goertzel.candidates(RATE), key=lambda candidate: error_rate(candidate, recordings))
        unseen = [(audio(s), keys_of(s.values["keys"])) for s in self.examples("test")]
        return {CER: {"Goertzel": error_rate(decoder, unseen)}}


class _Recordings(MadeSamples):
    """The recordings of one split, synthesised when first asked for, and kept (a second is 32 kB)."""

    def __init__(self, task: DialTones, split: Split) -> None:
        self.task, self.split = task, split
        self.kept: dict[int, Sample] = {}

    def __len__(self) -> int:
        return self.task.clips if self.split == "train" else self.task.held_out

    def sample(self, index: int) -> Sample:
        if index not in self.kept:
            self.kept[index] = self._synthesised(index)
        return self.kept[index]

    def _synthesised(self, index: int) -> Sample:
        task = self.task
        rng = np.random.default_rng((task.seed, SPLITS.index(self.split), index))
        keys = "".join(rng.choice(list(KEYS), size=rng.integers(task.least_keys, task.most_keys + 1)))
        sound = dial(keys, rng.uniform(*task.snr), rng)
        return Sample(f"{self.split}-{index}", {"audio": (sound[None], RATE), "keys": " ".join(keys)})


def dial(keys: str, snr: float, rng: np.random.Generator) -> Float32[np.ndarray, " time"]:
    """The sound of `keys`: tones and pauses of random length, up to 6 dB between tones and 4 dB between a tone's
    two sines ("twist"), white noise `snr` dB below the loudest possible tone."""
    parts = [np.zeros(_samples(rng, START))]
    for key in keys:
        time = np.arange(_samples(rng, TONE)) / RATE
        level, twist = _amplitude(rng.uniform(-6, 0)), _amplitude(rng.uniform(-2, 2))
        row, column = divmod(KEYS.index(key), len(HIGH))
        low, high = (np.sin(2 * np.pi * (f * time + rng.uniform())) for f in (LOW[row], HIGH[column]))
        parts += [level * (low / twist + high * twist), np.zeros(_samples(rng, PAUSE))]
    clean = np.concatenate(parts)
    noise = rng.standard_normal(len(clean)) * _amplitude(-snr)  # a tone of two unit sines has power 1
    loudness = 0.25 * _amplitude(rng.uniform(-20, 0))
    return np.clip(loudness * (clean + noise), -1, 1).astype(np.float32)


def _samples(rng: np.random.Generator, seconds: tuple[float, float]) -> int:
    """A random length in samples."""
    return int(rng.uniform(*seconds) * RATE)


def _amplitude(decibels: float) -> float:
    return 10 ** (decibels / 20)


def audio(sample: Sample) -> Float32[np.ndarray, " time"]:
    """A sample's only channel."""
    return sample.values["audio"][0][0]


def keys_of(text: str) -> str:
    """The transcript without its separators.

    >>> keys_of("1 5 9 #")
    '159#'
    """
    return "".join(text.split())


def error_rate(decoder: Goertzel, recordings: Sequence[tuple[Float32[np.ndarray, " time"], str]]) -> float:
    """Edits per pressed key over all recordings."""
    wrong = sum(edits(decoder(sound), pressed) for sound, pressed in recordings)
    return wrong / sum(len(pressed) for _, pressed in recordings)


def edits(written: str, meant: str) -> int:
    """Fewest insertions, deletions and substitutions from one to the other (Levenshtein 1966).

    >>> edits("1239", "12*9#")
    2
    """
    row = list(range(len(meant) + 1))
    for i, a in enumerate(written, start=1):
        above, row[0] = row[0], i
        for j, b in enumerate(meant, start=1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (a != b))
    return row[-1]
