"""Small charts as inline SVG. Colours and fonts come from the page's style sheet, so they follow its theme;
every chart also says in words what it shows."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from anyformer.evaluation.text import number, span

if TYPE_CHECKING:
    from anyformer.evaluation.report import Result

WIDTH = 520
LEFT, RIGHT = 16, 504  # the ends of an x axis
STRIP = 250  # samples drawn as single dots: more only darkens the page and weighs megabytes


@dataclass(frozen=True)
class Axis:
    """A linear map from values to pixels."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def around(cls, values: Sequence[float], start: float, end: float, margin: float = 0.06) -> Axis:
        """Holds all the values, with room at both ends."""
        low, high = min(values), max(values)
        largest = max(abs(low), abs(high))
        apart = high - low > 1e-6 * largest  # else an axis of rounding errors
        room = (high - low) * margin if apart else 0.1 * largest
        room = room if room > 1e-30 else 1.0
        return cls(low - room, high + room, start, end)

    def __call__(self, value: float) -> float:
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)

    def ticks(self, about: int = 5) -> list[float]:
        """Round values inside the axis, steps of 1, 2 or 5 times a power of ten."""
        rough = (self.high - self.low) / about
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [float(f"{index * step:.12g}") for index in range(first, math.floor(self.high / step + 1e-9) + 1)]


def beside_baselines(result: Result) -> str:
    """The model's value with its interval, above each simpler method's, on one axis."""
    if result.value is None:
        return ""
    low, high = result.interval or (result.value, result.value)
    axis = Axis.around([result.value, low, high, *result.baselines.values()], LEFT + 4, RIGHT - 4)
    marks, first, pitch = [], 38, 46
    rows = [("this model", result.value), *result.baselines.items()]
    for index, (name, value) in enumerate(rows):
        y, kind = first + pitch * index, "ours" if index == 0 else "theirs"
        marks.append(f'<line class="rail" x1="{LEFT}" x2="{RIGHT}" y1="{y}" y2="{y}"/>')
        if index == 0 and result.interval:
            marks.append(f'<line class="whisker" x1="{axis(low)}" x2="{axis(high)}" y1="{y}" y2="{y}"/>')
        marks.append(f'<circle class="{kind}" cx="{axis(value)}" cy="{y}" r="6"/>')
        marks.append(_text(LEFT, y - 15, name, "name"))
        marks.append(_text(RIGHT, y - 15, number(value), f"number {kind}", "end"))
    last = first + pitch * (len(rows) - 1)
    told = "; ".join(f"{name} {number(value)}" for name, value in rows)
    return _svg(
        last + 42,
        f"{result.metric}: {told}. 95 % interval of this model {span(result.interval)}.",
        [*_x_axis(axis, last + 16), *marks],
    )


def histogram(result: Result, scores: Sequence[float], bins: int = 28) -> str:
    """How the samples' scores are spread; nothing for fewer than three different scores."""
    scores = [score for score in scores if math.isfinite(score)]
    if result.value is None or len(set(scores)) < 3:
        return ""
    axis = Axis.around(scores, LEFT + 4, RIGHT - 4, margin=0.02)
    counts = [0] * bins
    for score in scores:
        counts[min(bins - 1, int((score - axis.low) / (axis.high - axis.low) * bins))] += 1
    base, height, pitch = 140, 112, (axis.end - axis.start) / bins
    bars = []
    for index, count in enumerate(counts):
        if count:
            tall = max(1.5, height * count / max(counts))
            x = axis.start + index * pitch + 0.75
            bars.append(
                f'<rect class="bar" x="{x:.1f}" y="{base - tall:.1f}" width="{pitch - 1.5:.1f}" '
                f'height="{tall:.1f}" rx="1.5"/>'
            )
    at = axis(min(max(result.value, axis.low), axis.high))
    bars.append(f'<line class="mean" x1="{at}" x2="{at}" y1="20" y2="{base}"/>')
    side = "end" if at > WIDTH * 0.7 else "start"
    bars.append(_text(at + (-6 if side == "end" else 6), 16, f"mean {number(result.value)}", "number ours", side))
    told = (
        f"Spread of {result.metric} over {len(scores)} samples, from {number(min(scores))} to "
        f"{number(max(scores))}, mean {number(result.value)}."
    )
    return _svg(base + 26, told, [*_x_axis(axis, base), *bars])


@dataclass(frozen=True)
class Point:
    """A quantity at one setting."""

    setting: float
    value: float
    result: Result


def sweeps(results: Sequence[Result]) -> dict[str, list[Point]]:
    """Metrics that differ only in a number at the end of their name, by the rest of the name: one quantity at
    several settings (`return_at_50`, `return_at_200`; `recall@1`, `recall@5`; `return@-200`), lowest setting first."""
    families: dict[str, list[Point]] = {}
    for result in results:
        split = re.fullmatch(r"(.+?)(?:@(?=-)|[-_@ /]*(?!-))(-?\d+(?:\.\d+)?)", result.metric)
        if split and result.value is not None:
            families.setdefault(split[1], []).append(Point(float(split[2]), result.value, result))
    return {
        stem: sorted(points, key=lambda point: point.setting) for stem, points in families.items() if len(points) > 1
    }


def sweep(stem: str, points: Sequence[Point], scores: Sequence[Sequence[float]]) -> str:
    """One quantity at several settings: samples as faint dots, means with intervals, baselines dashed.

    scores: the samples' scores at each point.
    """
    methods = list(dict.fromkeys(name for point in points for name in point.result.baselines))
    across = Axis.around([point.setting for point in points], 84, RIGHT - 30)
    everything = [score for some in scores for score in some if math.isfinite(score)]
    for point in points:
        everything += [*(point.result.interval or ()), *point.result.baselines.values(), point.value]
    up = Axis.around(everything, 236, 16)
    marks = _y_axis(up)
    for point, some in zip(points, scores, strict=True):
        marks += _strip(across(point.setting), [up(score) for score in some if math.isfinite(score)])
    for name in methods:
        marks += _reference(name, points, across, up)
    path = " ".join(f"{across(point.setting)},{up(point.value)}" for point in points)
    marks.append(f'<polyline class="trend" points="{path}"/>')
    for point in points:
        marks += _estimate(point, across(point.setting), up)
    told = ", ".join(f"{number(point.value)} at {point.setting:g}" for point in points)
    others = f" Dashed: {', '.join(methods)}." if methods else ""
    return _svg(262, f"{stem} by setting: {told}.{others}", marks)


def _reference(name: str, points: Sequence[Point], across: Axis, up: Axis) -> list[str]:
    """A simpler method's values at the same settings."""
    known = [point for point in points if name in point.result.baselines]
    ends = [(across(point.setting), up(point.result.baselines[name])) for point in known]
    last = known[-1].result.baselines[name]
    return [
        f'<polyline class="reference" points="{" ".join(f"{x},{y}" for x, y in ends)}"/>',
        _text(RIGHT, ends[-1][1] - 6, f"{name} {number(last)}", "name", "end"),
    ]


def _estimate(point: Point, x: float, up: Axis) -> list[str]:
    """A mean with its interval and its number, above the setting."""
    y, marks = up(point.value), []
    if point.result.interval:
        low, high = map(up, point.result.interval)
        marks.append(f'<line class="whisker" x1="{x}" x2="{x}" y1="{low}" y2="{high}"/>')
    marks.append(f'<circle class="ours" cx="{x}" cy="{y}" r="6"/>')
    marks.append(_text(x - 11, y - 9, number(point.value), "number ours", "end"))
    marks.append(_text(x, 254, f"{point.setting:g}", "tick", "middle"))
    return marks


def _strip(x: float, heights: Sequence[float]) -> list[str]:
    """Dots spread sideways by the golden ratio, so that equal scores do not hide each other."""
    every = max(1, math.ceil(len(heights) / STRIP))
    return [
        f'<circle class="sample" cx="{x + (index * 0.618 % 1 - 0.5) * 26:.1f}" cy="{y}" r="2.2"/>'
        for index, y in enumerate(heights[::every])
    ]


def _x_axis(axis: Axis, y: float) -> list[str]:
    marks = [f'<line class="axis" x1="{LEFT}" x2="{RIGHT}" y1="{y}" y2="{y}"/>']
    for tick in axis.ticks():
        marks.append(f'<line class="axis" x1="{axis(tick)}" x2="{axis(tick)}" y1="{y}" y2="{y + 4}"/>')
        marks.append(_text(axis(tick), y + 17, f"{tick:g}", "tick", "middle"))
    return marks


def _y_axis(axis: Axis) -> list[str]:
    marks = []
    for tick in axis.ticks(4):
        marks.append(f'<line class="rail" x1="52" x2="{RIGHT}" y1="{axis(tick)}" y2="{axis(tick)}"/>')
        marks.append(_text(46, axis(tick) + 4, f"{tick:g}", "tick", "end"))
    return marks


def _text(x: float, y: float, words: str, kind: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(words)}</text>'


def _svg(height: float, told: str, marks: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(told)}">'
        f"<title>{escape(told)}</title>{''.join(marks)}</svg>"
    )
