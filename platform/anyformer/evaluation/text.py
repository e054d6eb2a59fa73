"""The report in words and figures: numbers, the terminal's table, and `report.md`."""

from __future__ import annotations

import io
import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anyformer.evaluation.report import Report, Result

ABSENT = "—"
MARKS = {"better": "▲ better", "worse": "▼ worse", "even": "= even", None: ABSENT}


def number(value: float | None, signed: bool = False) -> str:
    """Four digits, or four decimals below 1, but always three significant ones; thousands grouped.

    >>> number(0.97216), number(1.5), number(437.25), number(12345.6), number(None)
    ('0.9722', '1.500', '437.2', '12,346', '—')
    """
    if value is None or not math.isfinite(value):
        return ABSENT
    magnitude = math.floor(math.log10(abs(value))) if value else 0
    decimals = max(0, 3 - magnitude) if magnitude >= 0 else min(9, max(4, 2 - magnitude))
    return f"{value:+,.{decimals}f}" if signed else f"{value:,.{decimals}f}"


def span(interval: tuple[float, float] | None) -> str:
    return f"{number(interval[0])} to {number(interval[1])}" if interval else ABSENT


def summary(results: Sequence[Result]) -> str:
    """One sentence about all rows.

    >>> summary([])
    'No results.'
    """
    if not results:
        return "No results."
    tasks, verdicts = {row.task for row in results}, [row.verdict for row in results]
    told = [
        f"{verdicts.count('better')} better than the baseline",
        f"{verdicts.count('worse')} worse" if "worse" in verdicts else "",
        f"{verdicts.count('even')} not told apart from it" if "even" in verdicts else "",
        f"{verdicts.count(None)} without a comparison" if None in verdicts else "",
    ]
    failed = len({row.task for row in results if row.error})
    counted = f"{_plural(len(tasks), 'task')}, {_plural(len(results), 'result')}"
    trouble = f" {_plural(failed, 'task')} had an error." if failed else ""
    return f"{counted}: {', '.join(filter(None, told))}.{trouble}"


def plain_table(header: Sequence[str], rows: Sequence[Sequence[str]], width: int, numeric: Collection[int] = ()) -> str:
    """Aligned columns as text; a cell that is too wide is folded, never cut."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(header):
        table.add_column(Text(name), justify="right" if index in numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # Text: a task's own words are never markup
    written = io.StringIO()
    console = Console(file=written, width=width, color_system=None, force_terminal=False)
    console.print(table)
    lines = written.getvalue().splitlines()
    return "\n".join(line.rstrip() for line in lines if line.strip())


def results_table(results: Sequence[Result], width: int) -> str:
    """The rows, then the errors in full."""
    header = ("task", "modality", "metric", "value", "95 % interval", "baseline", "n", "")
    cells = [
        (
            row.task,
            row.modality,
            f"{row.metric} {arrow(row)}",
            number(row.value),
            span(row.interval),
            number(row.baseline),
            str(row.n),
            "✗ failed" if row.value is None else MARKS[row.verdict],
        )
        for row in results
    ]
    errors = [f"{task}: {error}" for task, error in errors_of(results)]
    return "\n".join([plain_table(header, cells, width, numeric=(3, 4, 5, 6)), *bars(results), *errors])


def bars(results: Sequence[Result]) -> list[str]:
    """A line for each bar: whether it is reached."""
    return [
        f"{row.task}, {row.metric}: {number(row.value)}, {'at least' if row.higher_is_better else 'at most'} "
        f"{number(row.bar)}: {'MISSED' if row.missed else 'reached'}"
        for row in results
        if row.bar is not None
    ]


def arrow(row: Result) -> str:
    return "↑" if row.higher_is_better else "↓"


def errors_of(results: Sequence[Result]) -> list[tuple[str, str]]:
    """(task, error), each error once."""
    return list(dict.fromkeys((row.task, row.error) for row in results if row.error))


def markdown(report: Report) -> str:
    """`report.md`: the table, the errors, the provenance."""
    lines = ["# Evaluation", "", summary(report.results), ""]
    lines += ["| task | modality | metric | value | 95 % interval | baseline | n | |", "|" + "---|" * 8]
    for row in report.results:
        first = next(iter(row.baselines), "")
        baseline = number(row.baseline) + (f" ({first})" if row.baseline is not None and first else "")
        mark = "✗ failed" if row.value is None else MARKS[row.verdict]
        cells = (row.task, row.modality, f"{row.metric} {arrow(row)}", number(row.value), span(row.interval))
        lines.append("| " + " | ".join(map(_cell, (*cells, baseline, str(row.n), mark))) + " |")
    lines += [
        "",
        "↑ higher is better, ↓ lower is better. Intervals are bootstrapped over clusters of samples.",
    ]
    more = [row for row in report.results if len(row.baselines) > 1]
    if more:
        lines += ["", "## Other methods", ""]
        lines += [f"- {row.task}, {row.metric}: {methods(row.baselines)}" for row in more]
    if told := bars(report.results):
        lines += ["", "## Bars", "", *(f"- {_cell(line)}" for line in told)]
    errors = errors_of(report.results)
    if errors:
        lines += ["", "## Errors", "", *(f"- **{_cell(task)}**: {_cell(error)}" for task, error in errors)]
    lines += ["", "## Provenance", ""]
    lines += [f"- {label}: {value}" for label, value in provenance(report)]
    return "\n".join(lines) + "\n"


def methods(baselines: Mapping[str, float]) -> str:
    return ", ".join(f"{method} {number(value)}" for method, value in baselines.items())


def provenance(report: Report) -> list[tuple[str, str]]:
    """What a reader needs to get the same numbers again, as (label, words)."""
    machine: Mapping[str, Any] = report.machine
    devices = ", ".join(machine.get("accelerators") or []) or "no accelerator"
    where = [machine.get("processor"), f"{machine.get('cores', '?')} cores", devices, machine.get("system")]
    changed = " with uncommitted changes" if report.uncommitted_changes else ""
    return [
        ("Commit", f"{report.commit}{changed}" if report.commit else "not in a repository"),
        ("Checkpoint", report.checkpoint or "a model in memory"),
        ("Seed", str(report.seed)),
        ("Split", str(report.config.get("split", ABSENT))),
        ("Machine", ", ".join(str(part) for part in where if part) if machine else ABSENT),
        ("Software", f"Python {machine.get('python', '?')}, torch {machine.get('torch', '?')}"),
        ("Created", report.created or ABSENT),
    ]


def _cell(words: str) -> str:
    return words.replace("|", "\\|").replace("\n", " ")


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")
