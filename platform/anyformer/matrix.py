"""What rows of beginnings bring to columns of tasks: every cell trained and judged, over seeds, at the best of several
settings, and kept as it is finished.

A file of `configs/matrices` names rows and columns. A column is an experiment and one of its tasks; a row says what the
column's experiment begins with and which of its settings differ:

    columns:
      digits: {experiment: digits-small, task: scans, metric: accuracy}
    rows:
      random, frozen: {set: {model.freeze: [backbone]}}
      text, frozen:   {begin: [text-small], take: [backbone], set: {model.freeze: [backbone]}}
    sweep: {model.lr: [0.001, 0.003]}           # chosen on the validation split, at the first seed
    seeds: 3
    control: random, frozen                     # what every other row is compared with, seed by seed

`anyformer reproduce NAME` runs it. Cells that are finished are skipped when it is run again into the same folder.
"""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from anyformer import presets
from anyformer.checkpoint import load
from anyformer.errors import ConfigError, EvaluationError, unknown
from anyformer.evaluation import evaluate, provenance
from anyformer.evaluation.report import write_whole
from anyformer.journal import Kept
from anyformer.reproduction import Step, cpu_seconds, own_settings, step_of, train


@dataclass(frozen=True)
class Column:
    """An experiment, its task that is judged, and the metric. limit: the most samples that are judged."""

    experiment: str
    task: str
    metric: str
    set: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None


@dataclass(frozen=True)
class Row:
    """begin: experiments before the column's, each beginning with the one before it; take: the parts that the column's
    takes over from the last of them, see Learner.start_parts, by default all, and tokenizers. experiment: in place of
    the column's. set: settings that differ; per: those of single columns, whose place wins."""

    begin: tuple[Step, ...] = ()
    take: tuple[str, ...] = ()
    experiment: str | None = None
    set: Mapping[str, Any] = field(default_factory=dict)
    per: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """One row's figures in one column. values: the metric on the test split, by seed. chosen: of the sweep. validation:
    the metric on the validation split, by setting of the sweep. difference: to the control, by seed."""

    row: str
    column: str
    metric: str
    values: Sequence[float]
    chosen: Mapping[str, Any]
    validation: Mapping[str, float]
    cpu_seconds: float
    difference: Sequence[float] | None = None


@dataclass(frozen=True)
class Matrix:
    """What a file of `configs/matrices` says. control, headline: rows; what is printed as the value is the mean of the
    headline's cells in the columns that have the first one's metric, and as the baseline that of the control's. about,
    conclusions: what the report says before and behind its tables."""

    name: str
    columns: Mapping[str, Column]
    rows: Mapping[str, Row]
    control: str
    headline: str
    sweep: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    seeds: int = 1
    about: str = ""
    conclusions: str = ""

    @classmethod
    def of(cls, path: Path) -> Matrix:
        content = presets.read_mapping(path, "The matrix")
        known = [f.name for f in fields(cls) if f.name != "name"]
        for key in content:
            if key not in known:
                raise unknown("matrix setting", str(key), known)
        for key in ("columns", "rows"):
            if not isinstance(content.get(key), Mapping) or not content[key]:
                raise ConfigError(f"{path}: expected `{key}`, a mapping from names to settings.")
        columns = {str(name): _made(Column, "column", name, given) for name, given in content["columns"].items()}
        rows = {str(name): _row(path, str(name), given, columns) for name, given in content["rows"].items()}
        order = list(rows)
        roles = {"control": content.get("control", order[0]), "headline": content.get("headline", order[-1])}
        for role in roles.values():
            if role not in rows:
                raise unknown("row", str(role), order)
        sweep = content.get("sweep") or {}
        if len(sweep) > 1 or not all(isinstance(values, list) and values for values in sweep.values()):
            raise ConfigError(f"{path}: sweep is {sweep!r}; expected one setting with a list of values, or none.")
        if not isinstance(content.get("seeds", 1), int) or content.get("seeds", 1) < 1:
            raise ConfigError(f"{path}: seeds is {content['seeds']!r}; expected how many, at least 1.")
        rest = {key: content[key] for key in ("seeds", "about", "conclusions") if key in content}
        return cls(path.stem, columns, rows, **roles, sweep=sweep, **rest)

    def chain(self, row: str, column: str, changes: Mapping[str, Any]) -> tuple[Step, ...]:
        """Every step of a cell; the last one is judged."""
        one, asked = self.rows[row], self.columns[column]
        settings = {**asked.set, **changes, **one.set, **one.per.get(column, {})}
        return (*one.begin, Step(one.experiment or asked.experiment, settings, take=one.take if one.begin else ()))

    def choices(self, row: str, column: str) -> list[dict[str, Any]]:
        """The settings of the sweep for a cell, one of them empty where there is none or the row says its own."""
        own = {**self.rows[row].set, **self.rows[row].per.get(column, {})}
        return [{name: value} for name, values in self.sweep.items() if name not in own for value in values] or [{}]


def _row(path: Path, name: str, given: Any, columns: Mapping[str, Column]) -> Row:
    settings = dict(given or {}) if isinstance(given or {}, Mapping) else given
    row = _made(Row, "row", name, settings)
    for column in row.per:
        if column not in columns:
            raise unknown("column", str(column), columns)
    return replace(row, begin=tuple(step_of(path, entry) for entry in row.begin), take=tuple(row.take))


def _made(kind: type[Column] | type[Row], noun: str, name: str, given: Any) -> Any:
    if not isinstance(given, Mapping):
        raise ConfigError(f"The {noun} {name!r} is {given!r}; expected a mapping of its settings.")
    known = [f.name for f in fields(kind)]
    for key in given:
        if key not in known:
            raise unknown(f"setting of the {noun} {name!r}:", str(key), known)
    try:
        return kind(**given)
    except TypeError as error:
        raise ConfigError(f"The {noun} {name!r} cannot be made from {dict(given)}: {error}.") from error


@dataclass
class Run:
    """A matrix on its way: trainings that several cells share are made once."""

    matrix: Matrix
    out: Path
    data_dir: str | None
    first_seed: int
    say: Callable[[str], None]

    def __post_init__(self) -> None:
        self.kept, self.code = Kept(self.out / "cells.jsonl"), provenance.content()

    def cell(self, row: str, column: str) -> Cell:
        matrix, metric = self.matrix, self.matrix.columns[column].metric
        choices, seeds = matrix.choices(row, column), range(self.first_seed, self.first_seed + matrix.seeds)
        swept = choices if len(choices) > 1 else []
        tried = [self.judged(row, column, choice, self.first_seed, "validation") for choice in swept]
        goodness = [value if higher else -value for value, higher, _ in tried]
        best = choices[goodness.index(max(goodness))] if tried else choices[0]
        found = [self.judged(row, column, best, seed, "test") for seed in seeds]
        values, cost = [value for value, _, _ in found], sum(seconds for _, _, seconds in (*tried, *found))
        held_out = {json.dumps(choice): one[0] for choice, one in zip(choices, tried, strict=False)}
        spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
        self.say(f"{row} → {column}: {metric} {statistics.mean(values):.4f}{spread} {best or ''}")
        return Cell(row, column, metric, values, best, held_out, round(cost, 2))

    def judged(
        self, row: str, column: str, choice: Mapping[str, Any], seed: int, split: str
    ) -> tuple[float, bool, float]:
        """The metric, whether higher is better, and the CPU seconds that nothing else has paid for."""
        chain, asked = self.matrix.chain(row, column, choice), self.matrix.columns[column]
        key = self._key(chain, seed, split, asdict(asked))

        def make() -> list[Any]:
            began = cpu_seconds()
            checkpoint = self.trained(chain, seed)
            settings = chain[-1].settings().data["tasks"]
            if asked.task not in settings:
                raise unknown(f"task of column {column!r}:", asked.task, settings)
            limit = {} if asked.limit is None else {"limit": asked.limit}
            plan = {
                "seed": seed, "split": split, "baselines": False,
                "tasks": {asked.task: {**own_settings(settings[asked.task]), **limit}},
            }  # fmt: skip
            report = evaluate(load(checkpoint), plan, data_dir=self.data_dir, checkpoint=str(checkpoint))
            results = {result.metric: result for result in report.results}
            if asked.metric not in results:
                raise unknown("metric", asked.metric, results)
            result = results[asked.metric]
            if result.value is None:
                raise EvaluationError(f"{row} → {column}: {result.error}")
            return [result.value, result.higher_is_better, cpu_seconds() - began]

        return tuple(self.kept.once(key, make))

    def trained(self, chain: Sequence[Step], seed: int) -> Path:
        """The checkpoint of a chain's last step. It is kept while something may begin with it or be judged by it."""
        before = self.trained(chain[:-1], seed) if len(chain) > 1 else None
        folder = self.out / "trained" / self._key(chain, seed)
        if not (folder / "finished").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            self.say(f"training {chain[-1].experiment}, seed {seed}")
            train(chain[-1], folder, self.data_dir, seed, before)
            (folder / "finished").touch()
        return folder / "last"

    def _key(self, chain: Sequence[Step], *more: Any) -> str:
        """Of all that a training and its judgement follow from: a changed experiment or source is another one."""
        parts = [self.code, self.data_dir, *more, *((asdict(step), asdict(step.settings())) for step in chain)]
        return sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def fill(
    matrix: Matrix, out: Path, data_dir: str | None = None, seed: int = 0, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Every cell, as one line of JSON would hold it; matrix.md and matrix.json tell the same in the folder `out`."""
    commit, changed = provenance.commit()
    run = Run(matrix, out, data_dir, seed, say)
    cells = {(row, column): run.cell(row, column) for row in matrix.rows for column in matrix.columns}
    for (row, column), cell in list(cells.items()):
        if row != matrix.control:
            beside = zip(cell.values, cells[matrix.control, column].values, strict=True)
            cells[row, column] = replace(cell, difference=[own - other for own, other in beside])
    metric = next(iter(matrix.columns.values())).metric
    alike = [name for name, column in matrix.columns.items() if column.metric == metric]
    mean = lambda row: statistics.mean(statistics.mean(cells[row, c].values) for c in alike)  # noqa: E731
    result = {
        "name": matrix.name,
        "metric": metric,
        "value": mean(matrix.headline),
        "baseline": mean(matrix.control),
        "seed": seed,
        "cpu_seconds": round(sum(cell.cpu_seconds for cell in cells.values()), 2),
        "commit": commit,
        "rows": [asdict(cell) for cell in cells.values()],
    }
    told = {"uncommitted_changes": changed, "machine": provenance.machine()}
    write_whole(out / "matrix.json", json.dumps(result | told, indent=1) + "\n")
    write_whole(out / "matrix.md", page(matrix, result | told))
    shutil.rmtree(out / "trained", ignore_errors=True)  # all that is asked of them is told
    return result


def page(matrix: Matrix, result: Mapping[str, Any]) -> str:
    """The table with spread, differences to the control, what the sweep chose, and where it comes from."""
    cells = {(cell["row"], cell["column"]): cell for cell in result["rows"]}
    columns = list(matrix.columns)
    head = [_line("", [f"{c} ({matrix.columns[c].metric})" for c in columns]), "|---" * (len(columns) + 1) + "|"]
    lines = [f"# {matrix.name}", "", matrix.about.strip(), "", *head]
    lines += [_line(row, [_spread(cells[row, c]["values"]) for c in columns]) for row in matrix.rows]
    lines += ["", f"Less `{matrix.control}`, seed by seed:", "", *head]
    rest = [row for row in matrix.rows if row != matrix.control]
    lines += [_line(row, [_spread(cells[row, c]["difference"], signed=True) for c in columns]) for row in rest]
    if matrix.sweep:
        (name,) = matrix.sweep
        tried = ", ".join(map(str, matrix.sweep[name]))
        lines += ["", f"`{name}`, chosen on the validation split at the first seed among {tried}:", "", *head]
        chosen = lambda cell: str(cell["chosen"].get(name, "the row's own"))  # noqa: E731
        lines += [_line(row, [chosen(cells[row, c]) for c in columns]) for row in matrix.rows]
    if matrix.conclusions:
        lines += ["", "## What it shows", "", matrix.conclusions.strip()]
    machine = ", ".join(f"{key} {value}" for key, value in result["machine"].items())
    changed = " with uncommitted changes" if result["uncommitted_changes"] else ""
    lines += ["", f"{matrix.seeds} seeds from {result['seed']}, ± standard deviations over them; "
              f"{result['cpu_seconds']:.0f} CPU seconds; commit {result['commit']}{changed}; {machine}."]  # fmt: skip
    return "\n".join(lines) + "\n"


def _line(row: str, cells: Sequence[str]) -> str:
    return f"| {row} | " + " | ".join(cells) + " |"


def _spread(values: Sequence[float], signed: bool = False) -> str:
    sign, size = "+" if signed else "", max(abs(value) for value in values)
    digits = 1 if size > 10 else 3
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{sign}.{digits}f}{spread}"
