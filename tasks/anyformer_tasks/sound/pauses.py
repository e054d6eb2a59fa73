"""Recordings without the silence around what is said; and those of a few words cut up at the pauses between them, so
that other recordings can be laid of the words."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from anyformer.errors import ConfigError
from anyformer_tasks.sound.clip import Clip

FRAME = 0.01
"""Seconds, over which loudness is measured."""

QUIET = (0.1, 0.15, 0.2, 0.3)
"""Of the loudness that one frame in twenty passes: what is softer is a pause, by the first of these that tells apart as
many parts as there should be."""

BREATH = 0.08
"""Seconds: a shorter pause is within a word."""

MARGIN = 15
"""Frames before the first part and behind the last that are still theirs: a sound may begin softly."""


def words_of(clip: Clip, field: str) -> list[Clip]:
    """A clip for each part of a field's list, from the middle of the pause before it to the middle of the one behind,
    and of the silences before all and behind all one each that says nothing. None, where not as many parts are told
    apart. ConfigError for a field that is no list."""
    parts = clip.fields.get(field)
    if not isinstance(parts, list):
        raise ConfigError(f"{clip.name}: the field {field!r} is {parts!r}; expected a list (`parted`), to cut it up.")
    samples, rate = clip.wave()
    if samples.shape[1] < FRAME * rate:
        return []
    loud, hop = loudness(samples, rate), round(FRAME * rate)
    found = next((found for quiet in QUIET if len(found := runs(loud, quiet)) >= len(parts)), None)
    if found is None:
        return []
    spoken = sorted(sorted(found, key=lambda run: run[0] - run[1])[: len(parts)])  # the longest, in their order
    middles = [(one[1] + other[0]) // 2 * hop for one, other in itertools.pairwise(spoken)]
    begin, end = max(0, spoken[0][0] - MARGIN) * hop, min(len(loud), spoken[-1][1] + MARGIN) * hop
    edges = [0, begin, *middles, end, samples.shape[1]]
    return [
        replace(clip, name=f"{clip.name}#{number}", fields={**clip.fields, field: part}, span=span)
        for number, (part, span) in enumerate(zip(["", *parts, ""], itertools.pairwise(edges), strict=True))
        if span[0] < span[1]
    ]


def trimmed(clip: Clip, below: float) -> Clip:
    """From where it is first as loud as `below` decibels under its loudest to where it is last."""
    samples, rate = clip.wave()
    if samples.shape[1] < FRAME * rate:
        return clip
    loud, hop = loudness(samples, rate), round(FRAME * rate)
    heard = np.flatnonzero(loud >= loud.max() * 10 ** (-below / 20))
    start = clip.span[0] if clip.span else 0
    return replace(clip, span=(start + int(heard[0]) * hop, start + (int(heard[-1]) + 1) * hop))


def loudness(samples: Float[np.ndarray, "channels time"], rate: int) -> Float[np.ndarray, " frames"]:
    """The root of the mean square of each frame, smoothed over nine."""
    hop = round(FRAME * rate)
    frames = samples.mean(0)[: samples.shape[1] // hop * hop].reshape(-1, hop)
    return np.convolve(np.sqrt((frames**2).mean(1)), np.ones(9) / 9, "same")


def runs(loud: Float[np.ndarray, " frames"], quiet: float) -> Sequence[tuple[int, int]]:
    """From where to where something is heard, in frames; runs with less than a breath between them are one."""
    heard = np.concatenate(([False], loud > quiet * np.quantile(loud, 0.95), [False]))
    begins, ends = (np.flatnonzero(np.diff(heard.astype(np.int8)) == step) for step in (1, -1))
    found: list[tuple[int, int]] = []
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        if found and begin - found[-1][1] < BREATH / FRAME:
            found[-1] = (found[-1][0], end)
        else:
            found.append((begin, end))
    return found
