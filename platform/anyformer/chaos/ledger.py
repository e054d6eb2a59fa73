"""The record of all trials, one line of JSON each, and the page that is written from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from anyformer.chaos.trial import Trial
from anyformer.journal import Journal

FILE = "ledger.jsonl"
SHOWN = 5  # failures of a trial that the page tells
RANGE = 10**6  # numbers that belong to one seed


@dataclass(frozen=True)
class Line:
    """How trial number `index` ended. failure: empty if the promise was kept."""

    trial: str
    index: int
    failure: str = ""
    notes: Mapping[str, str | int] = field(default_factory=dict)
    seconds: float = 0.0
    commit: str = ""

    @property
    def passed(self) -> bool:
        return not self.failure


class Ledger:
    """Lines in a folder. Of several lines of one trial's number the last one counts."""

    def __init__(self, folder: Path) -> None:
        self.journal = Journal(folder / FILE)
        self.lines = [line for entry in self.journal.entries if (line := _line(entry)) is not None]

    def add(self, line: Line) -> None:
        """Written before the next trial begins."""
        self.journal.add(asdict(line))
        self.lines.append(line)

    def of(self, name: str) -> dict[int, Line]:
        """A trial's latest lines by number."""
        return {line.index: line for line in self.lines if line.trial == name}

    def next(self, name: str, count: int, seed: int = 0) -> list[int]:
        """Which numbers come next: those that failed, then new ones."""
        known, first = self.of(name), seed * RANGE
        failed = sorted(index for index, line in known.items() if not line.passed and index // RANGE == seed)
        new = (index for index in range(first, first + RANGE) if index not in known)
        return [*failed, *(next(new) for _ in range(max(0, count - len(failed))))][:count]

    def left(self, trial: Trial, seed: int = 0) -> int:
        """How many are wanting to the full figure, with those that failed."""
        passed = sum(line.passed for line in self.of(trial.name).values() if line.index // RANGE == seed)
        return max(0, trial.target - passed)


def _line(entry: Mapping[str, Any]) -> Line | None:
    try:
        return Line(**entry)
    except TypeError:
        return None


def page(ledger: Ledger, trials: Iterable[Trial], machine: str = "") -> str:
    """Markdown: a row for each trial, what kinds there were, and what failed."""
    rows, kinds, failures = [], [], []
    for trial in trials:
        lines = list(ledger.of(trial.name).values())
        if not lines:
            rows.append(f"| `{trial.name}` | {trial.promise} | 0 | 0 | {trial.target * trial.cases:,} | | |")
            continue
        bad = [line for line in lines if not line.passed]
        once = len({line.index for line in ledger.lines if line.trial == trial.name and not line.passed}) - len(bad)
        told = f"{len(bad)}" + (f" ({once} more failed at first, and passed when tried again)" if once else "")
        seconds = sum(line.seconds for line in lines) / (len(lines) * trial.cases)
        commits = list(dict.fromkeys(_short(line.commit) for line in lines if line.commit))
        shown = ", ".join(commits[-2:]) + (f" and {len(commits) - 2} before" if len(commits) > 2 else "")
        counts = f"{len(lines) * trial.cases:,} | {told} | {trial.target * trial.cases:,} | {seconds:.2g}"
        rows.append(f"| `{trial.name}` | {trial.promise} | {counts} | {shown} |")
        if noted := _kinds(lines):
            kinds.append(f"- `{trial.name}`: {noted}")
        failures += [f"- `{trial.name}` number {line.index}: {line.failure}" for line in bad[:SHOWN]]
    return "\n".join(
        [
            "# Promises under faults",
            "",
            "Each row is a promise, tried by `anyformer chaos NAME`; `anyformer chaos --list` says what there is. This",
            "page is written from the ledger of trials by `anyformer chaos --page FILE`.",
            *(["", f"Machine: {machine}."] if machine else []),
            "",
            "| trial | what is promised | tried | failed | full figure | s each | commits |",
            "|---|---|---:|---:|---:|---:|---|",
            *rows,
            *(["", "## What was tried", "", *kinds] if kinds else []),
            *(["", "## What failed", "", *failures] if failures else []),
            "",
        ]
    )


def _short(commit: str) -> str:
    return commit[:10] + "+" * commit.endswith("+")  # with changes that were not committed


def _kinds(lines: list[Line]) -> str:
    """`moment: inside a save 12, training 31; start: cold 3, warm 40; cases: flipped 103, truncated 97`."""
    told: dict[str, Counter[str]] = {}
    for name, note in ((name, note) for line in lines for name, note in line.notes.items()):
        place, kind, count = (name, note, 1) if isinstance(note, str) else ("cases", name, note)
        told.setdefault(place, Counter())[kind] += count
    return "; ".join(
        f"{place}: " + ", ".join(f"{kind} {count:,}" for kind, count in sorted(counts.items()))
        for place, counts in told.items()
    )
