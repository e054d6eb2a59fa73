"""Clips laid one behind the other, as a person would say them in a row: recordings of many words out of recordings of
one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from anyformer.contracts import SPLITS, Sample, Split
from anyformer.errors import ConfigError
from anyformer_tasks.samples import MadeSamples
from anyformer_tasks.sound.clip import Clip, Wave

Span = tuple[str, float, float]
"""What is said, and from when to when, in seconds."""


@dataclass(frozen=True)
class Joined:
    """How a recording is put together: of `least` to `most` clips that share the field `by` (a speaker).

    before, gap: the shortest and the longest pause, in seconds, at both ends and between two clips. What is heard in it
    is a piece of a clip that says nothing or, where there is none, noise: its deviation, where full scale is 1.
    train, held_out: recordings in the training split and in each other one. seed: draws everything.
    """

    by: str = "speaker"
    least: int = 2
    most: int = 6
    before: tuple[float, float] = (0.02, 0.15)
    gap: tuple[float, float] = (0.02, 0.25)
    noise: float = 1e-3
    train: int = 4000
    held_out: int = 300
    seed: int = 0

    def __post_init__(self) -> None:
        pauses_are_ranges = all(len(p) == 2 and 0 <= p[0] <= p[1] for p in (self.before, self.gap))
        if not 1 <= self.least <= self.most or not pauses_are_ranges or min(self.train, self.held_out) < 1:
            raise ConfigError(
                f"{self}; expected 1 <= least <= most, pauses as two numbers of seconds, the shorter one first, and "
                "at least one recording of each kind."
            )


class Recordings(MadeSamples):
    """The recordings of one split, each put together when it is asked for, from clips that are read once.

    told: what a clip says.
    """

    def __init__(self, clips: Sequence[Clip], told: Callable[[Clip], str], split: Split, settings: Joined) -> None:
        self.told, self.split, self.settings = told, split, settings
        self.groups: dict[str, list[Clip]] = {}
        self.waves: dict[str, Wave] = {}
        self.silent = [clip for clip in clips if not told(clip)]
        for clip in clips:
            if told(clip):
                self.groups.setdefault(clip.told(settings.by), []).append(clip)

    def __len__(self) -> int:
        return self.settings.train if self.split == "train" else self.settings.held_out

    def sample(self, index: int) -> Sample:
        return self.timed(index)[0]

    def timed(self, index: int) -> tuple[Sample, list[Span]]:
        """A sample, and from when to when, in seconds, each of its clips is heard, with what it says."""
        chosen, rng = self._drawn(index)
        wave, spans = self._laid(chosen, rng)
        told = [self.told(clip) for clip in chosen]
        values = {"audio": wave, "text": " ".join(told)}
        sample = Sample(f"{self.split}-{index}", values, cluster=chosen[0].told(self.settings.by))
        return sample, [(text, *span) for text, span in zip(told, spans, strict=True)]

    def texts(self) -> list[str]:
        """Of all recordings, none of which is read."""
        return [" ".join(self.told(clip) for clip in self._drawn(index)[0]) for index in range(len(self))]

    def _drawn(self, index: int) -> tuple[list[Clip], np.random.Generator]:
        rng = np.random.default_rng((self.settings.seed, SPLITS.index(self.split), index))
        group = self.groups[sorted(self.groups)[rng.integers(len(self.groups))]]
        count = int(rng.integers(self.settings.least, self.settings.most + 1))
        return [group[i] for i in rng.integers(len(group), size=count).tolist()], rng

    def _laid(self, clips: Sequence[Clip], rng: np.random.Generator) -> tuple[Wave, list[tuple[float, float]]]:
        waves = [self._wave(clip) for clip in clips]
        rate = waves[0][1]
        parts = [self._pause(self.settings.before, rate, rng)]
        for number, (samples, own_rate) in enumerate(waves, 1):
            if own_rate != rate:
                raise ConfigError(
                    f"{clips[0].name} and {clips[number - 1].name} differ in rate: {rate}, {own_rate} Hz."
                )
            last = number == len(waves)
            parts += [samples.mean(0), self._pause(self.settings.before if last else self.settings.gap, rate, rng)]
        ends = (np.cumsum([len(part) for part in parts]) / rate).tolist()
        spans = [(ends[at - 1], ends[at]) for at in range(1, len(parts), 2)]
        return (np.concatenate(parts)[None].astype(np.float32), rate), spans

    def _wave(self, clip: Clip) -> Wave:
        if clip.name not in self.waves:
            self.waves[clip.name] = clip.wave()
        return self.waves[clip.name]

    def _pause(self, seconds: tuple[float, float], rate: int, rng: np.random.Generator) -> np.ndarray:
        size = int(rng.uniform(*seconds) * rate)
        if not self.silent:
            return self.settings.noise * rng.standard_normal(size)
        nothing = self._wave(self.silent[rng.integers(len(self.silent))])[0].mean(0)
        begin = int(rng.integers(len(nothing)))
        return np.take(nothing, np.arange(begin, begin + size), mode="wrap")
