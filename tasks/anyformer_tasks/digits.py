"""Handwritten digits, read aloud: an image goes in, the digit's English name comes out.

The pictures are the 1797 real 8x8 scans that scikit-learn ships (E. Alpaydin and C. Kaynak, "Optical Recognition of
Handwritten Digits", UCI 1998, https://archive.ics.uci.edu/dataset/80), enlarged so that one digit spans several
patches. A sample is

    {"image": uint8[size, size], "answer": "seven"}
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Float, Int64, UInt8

from anyformer.contracts import Metric, Objective, Sample, Score, Split, Task
from anyformer.errors import ConfigError
from anyformer.objectives import Prefix
from anyformer_tasks.packages import require

if TYPE_CHECKING:
    from anyformer.model import Model

NAME = "digits"
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LEVELS = 16  # grey levels of the scans: 0 is paper, 16 is ink
HELD_OUT = {"validation": 200, "test": 400}


@dataclass
class Digits(Task):
    """Image to text: name the handwritten digit.

    size: side of the enlarged picture in pixels; 32 gives four 16x16 patches.
    copies: how often a training scan appears: once as it is, the others slightly turned, scaled and shifted, so
        that ~1200 scans suffice. Held-out scans appear once, untouched.
    seed: draws the split and the copies. The data set does not say who wrote a digit, so one writer's digits may
        be on both sides of the split.
    """

    size: int = 32
    copies: int = 8
    seed: int = 0

    fields: ClassVar[Mapping[str, str]] = {"image": "image", "answer": "text"}
    modality: ClassVar[str] = "image"
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("accuracy", higher_is_better=True),)

    def __post_init__(self) -> None:
        if self.size < 8 or self.copies < 1:
            raise ConfigError(
                f"Digits has size={self.size} and copies={self.copies}; "
                "expected a size of at least 8 pixels and at least 1 copy."
            )

    def default_objective(self) -> Objective:
        return Prefix(target="answer")

    def examples(self, split: Split) -> Sequence[Sample]:
        """The split's scans; in training `copies` of each, ids `<scan>-<copy>`, clustered by scan."""
        scans, labels = self._data
        copies = self.copies if split == "train" else 1
        return [
            Sample(
                id=f"{scan}-{copy}",
                values={"image": self._picture(scans[scan], int(scan), copy), "answer": WORDS[labels[scan]]},
                cluster=str(scan),
            )
            for copy in range(copies)
            for scan in self._members(split)
        ]

    def score(self, model: Model, samples: Sequence[Sample]) -> Iterator[Score]:
        """1 for the right word, 0 for anything else."""
        predictions = model.complete(NAME, self, samples, field="answer", max_new=12)
        for sample, prediction in zip(samples, predictions, strict=True):
            answer = sample.values["answer"]
            shown = {**sample.values, "prediction": prediction}
            yield Score(sample.id, "accuracy", float(prediction == answer), cluster=sample.cluster, shown=shown)

    def baselines(self) -> Mapping[str, Mapping[str, float]]:
        """Logistic regression on the 64 grey values, fitted to the same training scans."""
        from sklearn.linear_model import LogisticRegression

        scans, labels = self._data
        pixels = scans.reshape(len(scans), -1) / LEVELS
        train, test = self._members("train"), self._members("test")
        fitted = LogisticRegression(max_iter=1000).fit(pixels[train], labels[train])
        return {"accuracy": {"logistic regression": float(fitted.score(pixels[test], labels[test]))}}

    @cached_property
    def _data(self) -> tuple[Float[np.ndarray, "scans 8 8"], Int64[np.ndarray, " scans"]]:
        require("scikit-learn", "demo", "The task 'digits' is a part of")
        from sklearn.datasets import load_digits

        found = load_digits()
        return found.images, found.target

    def _members(self, split: Split) -> Int64[np.ndarray, " scans"]:
        """Scan numbers of a split: one seeded shuffle, cut into test, validation and the rest."""
        order = np.random.default_rng(self.seed).permutation(len(self._data[0]))
        test, held_out = HELD_OUT["test"], sum(HELD_OUT.values())
        return {"test": order[:test], "validation": order[test:held_out], "train": order[held_out:]}[split]

    def _picture(self, scan: Float[np.ndarray, "8 8"], number: int, copy: int) -> UInt8[np.ndarray, "size size"]:
        if copy == 0:
            return enlarge(scan, self.size)
        rng = np.random.default_rng((self.seed, number, copy))
        turn = math.radians(rng.uniform(-12, 12))
        return enlarge(scan, self.size, turn, zoom=rng.uniform(0.9, 1.1), shift=tuple(rng.uniform(-0.8, 0.8, size=2)))


def enlarge(
    scan: Float[np.ndarray, "8 8"],
    size: int,
    turn: float = 0.0,
    zoom: float = 1.0,
    shift: Sequence[float] = (0.0, 0.0),
) -> UInt8[np.ndarray, "size size"]:
    """White ink on black, interpolated bilinearly.

    turn: radians, counter-clockwise; shift: scan pixels (right, down).
    """
    from PIL import Image

    # PIL's affine map takes an output pixel to the input pixel it shows; both centres are held in place.
    step = scan.shape[0] / (size * zoom)
    cosine, sine = step * math.cos(turn), step * math.sin(turn)
    centre, here = scan.shape[0] / 2, size / 2
    right, down = centre - shift[0], centre - shift[1]
    rows = (cosine, -sine, right - (cosine - sine) * here, sine, cosine, down - (sine + cosine) * here)
    image = Image.fromarray(np.rint(scan * (255 / LEVELS)).astype(np.uint8))
    return np.asarray(image.transform((size, size), Image.Transform.AFFINE, rows, Image.Resampling.BILINEAR))
