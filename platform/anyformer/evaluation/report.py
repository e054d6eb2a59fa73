"""What an evaluation found: a row per task and metric, a score per sample, and where they came from."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from anyformer.errors import ConfigError
from anyformer.evaluation import page, text

Verdict = Literal["better", "worse", "even"]

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Result:
    """One row: a task's value on one metric beside what simpler methods reach.

    interval: 95 % interval over clusters, None when there are fewer than two. baseline: the first of
    `baselines`. n: samples; clusters: independent groups of them. seconds: what scoring the task took.
    error: why something is missing, as one sentence; `value` is None when the metric itself could not be had.
    bar: what the value must reach, if anything.
    """

    task: str
    modality: str
    metric: str
    value: float | None
    baseline: float | None
    n: int
    higher_is_better: bool
    interval: tuple[float, float] | None = None
    baselines: Mapping[str, float] = field(default_factory=dict)
    clusters: int = 0
    seconds: float = 0.0
    error: str | None = None
    bar: float | None = None

    @property
    def missed(self) -> bool:
        """Whether there is a bar that the value does not reach; one that could not be had misses it."""
        if self.bar is None:
            return False
        return self.value is None or (self.value < self.bar if self.higher_is_better else self.value > self.bar)

    @property
    def verdict(self) -> Verdict | None:
        """The value against the baseline: "even" when the interval holds it, None without one of them."""
        if self.value is None or self.baseline is None:
            return None
        low, high = self.interval or (self.value, self.value)
        if low <= self.baseline <= high:
            return "even"
        return "better" if (self.value > self.baseline) == self.higher_is_better else "worse"


@dataclass(frozen=True)
class SampleScore:
    """One sample's score, a line of `samples.jsonl`."""

    task: str
    id: str
    cluster: str
    metric: str
    score: float
    weight: float = 1.0


@dataclass(frozen=True)
class Part:
    """One thing to show of a sample: `content` is bytes or text of the MIME type `mime`."""

    label: str
    mime: str
    content: bytes | str


@dataclass(frozen=True)
class Exhibit:
    """A scored sample as a person sees it."""

    task: str
    id: str
    metric: str
    score: float
    parts: Sequence[Part]


@dataclass(frozen=True)
class Report:
    """The outcome of one evaluation. `exhibits` live in `report.html` only; `load` leaves them out."""

    results: list[Result]
    samples: list[SampleScore]
    seed: int
    config: Mapping[str, Any]
    commit: str | None = None
    uncommitted_changes: bool | None = None
    machine: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: str | None = None
    created: str = ""
    exhibits: list[Exhibit] = field(default_factory=list, compare=False)

    @property
    def failed(self) -> list[Result]:
        """The rows with an error; a command that evaluates exits 1 when there are any."""
        return [result for result in self.results if result.error]

    @property
    def missed(self) -> list[Result]:
        """The rows that miss their bar; a command that evaluates exits 1 when there are any."""
        return [result for result in self.results if result.missed]

    def by_task(self) -> dict[str, list[Result]]:
        """Rows by task, in the order of the configuration."""
        grouped: dict[str, list[Result]] = {}
        for result in self.results:
            grouped.setdefault(result.task, []).append(result)
        return grouped

    def scores(self, task: str, metric: str) -> list[SampleScore]:
        return [sample for sample in self.samples if (sample.task, sample.metric) == (task, metric)]

    def summary(self) -> str:
        """One sentence: how many rows, and how they stand to their baselines."""
        return text.summary(self.results)

    def table(self, width: int = 110) -> str:
        """The results as plain text for a terminal of `width` columns."""
        return text.results_table(self.results, width)

    def markdown(self) -> str:
        return text.markdown(self)

    def html(self) -> str:
        """One self-contained page."""
        return page.render(self)

    def json(self) -> str:
        """The report without its samples, as strict JSON: what is not finite is null."""
        content = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("samples", "exhibits")}
        content["results"] = [asdict(result) for result in self.results]
        return json.dumps(_strict(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def save(self, folder: Path | str) -> Path:
        """Write the four files, each whole or not at all; `report.json` comes last and vouches for them."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(_strict(asdict(sample)), ensure_ascii=False) for sample in self.samples]
        write_whole(folder / "samples.jsonl", "".join(line + "\n" for line in lines))
        write_whole(folder / "report.md", self.markdown())
        write_whole(folder / "report.html", self.html())
        write_whole(folder / "report.json", self.json())
        return folder

    @classmethod
    def load(cls, folder: Path | str) -> Report:
        """Read what `save` wrote, by its folder or its `report.json`. ConfigError names a file that is missing or
        unreadable."""
        folder = Path(folder)
        folder = folder.parent if folder.name == "report.json" else folder
        content = _read(folder / "report.json", json.loads)
        lines = _read(folder / "samples.jsonl", lambda text: [json.loads(line) for line in text.splitlines()])
        try:
            return _rebuilt(content, lines)
        except (KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"{folder} holds no report as this version writes it ({type(error).__name__}: {error}). Evaluate again."
            ) from error


def writable(out: Path | str | None) -> Path | None:
    """The folder, made now: hours of scoring must not end at a mistyped path."""
    if out is None:
        return None
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"The report cannot be written to {folder} ({error.strerror}); expected a folder or a new name."
        ) from error
    return folder


def write_whole(path: Path, content: str) -> None:
    """Replace a file in one step, so that a reader or a crash never meets half of it."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(content, encoding="utf-8")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _rebuilt(content: dict[str, Any], lines: list[dict[str, Any]]) -> Report:
    results = []
    for row in content.pop("results"):
        interval = row.pop("interval", None)
        results.append(Result(**row, interval=tuple(interval) if interval else None))
    for line in lines:
        if line["score"] is None:  # JSON has no NaN
            line["score"] = math.nan
    return Report(results, [SampleScore(**line) for line in lines], **content)


def _read(path: Path, parse: Any) -> Any:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"There is no {path.name} in {path.parent}; expected the folder of a report, "
            "as `anyformer evaluate --out` writes it."
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); evaluate again to replace it.") from error


def _strict(value: Any) -> Any:
    """Plain JSON values only."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case None | bool() | int() | str():
            return value
        case Mapping():
            return {str(name): _strict(item) for name, item in value.items()}
        case list() | tuple():
            return [_strict(item) for item in value]
    return str(value)
