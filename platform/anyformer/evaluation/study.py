"""A study from its settings to a report: the table, the settings that gave it, and where it comes from."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from anyformer.errors import ConfigError
from anyformer.evaluation import provenance
from anyformer.evaluation.report import writable, write_whole
from anyformer.evaluation.text import number, plain_table, span
from anyformer.registry import studies

if TYPE_CHECKING:
    from anyformer.model import Model

Row = Mapping[str, Any]


@dataclass(frozen=True)
class StudyReport:
    """rows: by column. settings: every one of the study, defaults written out."""

    study: str
    settings: Mapping[str, Any]
    rows: Sequence[Row]
    checkpoint: str | None = None
    commit: str | None = None
    uncommitted_changes: bool | None = None
    machine: Mapping[str, Any] = field(default_factory=dict)
    created: str = ""

    def columns(self) -> list[str]:
        """Every row's columns, in the order in which they are first met."""
        return list(dict.fromkeys(column for row in self.rows for column in row))

    def table(self, width: int = 160) -> str:
        """Plain text, at most `width` characters wide."""
        columns = self.columns()
        numeric = [i for i, c in enumerate(columns) if not any(isinstance(row.get(c), str) for row in self.rows)]
        return plain_table([_words(column) for column in columns], self._cells(columns), width, numeric)

    def markdown(self) -> str:
        columns = self.columns()
        lines = [f"# {self.study}", "", _line(map(_words, columns)), "|" + "---|" * len(columns)]
        lines += [_line(cells) for cells in self._cells(columns)]
        lines += ["", "## Settings", "", "```json", json.dumps(self.settings, indent=1, ensure_ascii=False), "```"]
        changed = " with uncommitted changes" if self.uncommitted_changes else ""
        told = {
            "Commit": f"{self.commit}{changed}" if self.commit else "not in a repository",
            "Checkpoint": self.checkpoint or "none",
            "Machine": ", ".join(f"{name} {value}" for name, value in self.machine.items()),
            "Created": self.created,
        }
        lines += ["", "## Provenance", "", *(f"- {label}: {value}" for label, value in told.items())]
        return "\n".join(lines) + "\n"

    def json(self) -> str:
        """Strict JSON: what is not finite is null."""
        content = asdict(self) | {"rows": [{column: _strict(row[column]) for column in row} for row in self.rows]}
        return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def save(self, folder: Path) -> None:
        """study.md and study.json, each whole or not at all."""
        write_whole(folder / "study.md", self.markdown())
        write_whole(folder / "study.json", self.json())

    def _cells(self, columns: Sequence[str]) -> list[list[str]]:
        return [[_cell(row.get(column)) for column in columns] for row in self.rows]


def study(
    name: str,
    settings: Mapping[str, Any],
    model: Model | None = None,
    out: Path | str | None = None,
    *,
    checkpoint: str | None = None,
) -> StudyReport:
    """Run the study `name` of the registry. The model is in the mode `eval`.

    out: the folder for study.json, study.md and what the study itself writes; nothing is written without it.
    checkpoint: what to call the model in the report. ConfigError says what is wrong with a setting, with `out`, or that
    a model is missing or not asked for.
    """
    made = studies.create(name, dict(settings))
    if made.asks_a_model != (model is not None):
        cure = "give it a checkpoint" if made.asks_a_model else "leave the checkpoint out"
        raise ConfigError(f"The study {name!r} asks {'a' if made.asks_a_model else 'no'} model; {cure}.")
    folder = writable(out)
    with torch.no_grad():
        rows = made.run(model, folder)
    found, changed = provenance.commit()
    created = datetime.now(UTC).isoformat(timespec="seconds")
    report = StudyReport(name, made.config(), rows, checkpoint, found, changed, provenance.machine(), created)
    if folder is not None:
        report.save(folder)
    return report


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        return span((value[0], value[1]))
    return str(value) if isinstance(value, int) else number(value)


def _strict(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _words(column: str) -> str:
    return column.replace("_", " ")


def _line(cells: Any) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
