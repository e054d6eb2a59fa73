"""What was measured, as tables for a person."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anyformer.bench.conductor import best, ours
from anyformer.bench.suite import ACCELERATOR, CPU, OURS, PEERS, Bar, Suite
from anyformer.errors import ConfigError

Line = dict[str, Any]

NARROW = re.compile("bf16|bfloat16")
DATA_SHEETS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""FLOP/s of dense products in bfloat16, by a part of the accelerator's name."""


def table(line: Line) -> list[str]:
    """A line of Markdown for each contender of each case."""
    flops, second = line["flops"], "CPU s" if line.get("device", CPU) == CPU else "s"
    unit = line["unit"] if line["amount"] else f"{line['unit']} / {second}"
    ratio = "ours / it" if _has_peers(line) else "it / the first"
    share = " of GEMM |" if flops else ""
    lines = [f"| case | | {unit} (lowest to highest) | {ratio} |{share} peak memory, MB |"]
    lines.append("|---|---|---|---|" + ("---|" if flops else "") + "---|")
    for row in line["rows"]:
        name = row["contender"]
        label = f"**{name}**" if name.startswith(OURS) else name
        if "value" not in row:
            why = f"not installed: {row['absent']}" if "absent" in row else f"failed: {row.get('failed', 'not run')}"
            lines.append(f"| {row['case']} | {label} | {why} | |{' |' if flops else ''} |")
            continue
        of = f" {_share(line, row):.0%} |" if flops else ""
        lines.append(
            f"| {row['case']} | {label} | {_seen(line, row)} | {_ratio(line, row)} |{of} {row['peak_mb']:,.0f} |"
        )
    return lines


def _has_peers(line: Line) -> bool:
    return not all(row["contender"].startswith(OURS) for row in line["rows"])


def _seen(line: Line, row: Line) -> str:
    """The figure, and what a case of several threads or a compiler is about."""
    spread = f"{number(row['value'])} ({number(min(row['values']))} to {number(max(row['values']))})"
    case = line.get("cases", {}).get(row["case"], {})
    if "threads" in case:
        spread += f"; {number(row['wall'])} by the clock"
    if case.get("compiled"):
        spread += f"; ready after {row['first']:,.0f} s"
    return spread


def _ratio(line: Line, row: Line) -> str:
    if not _has_peers(line):
        first = next(one for one in line["rows"] if one["case"] == row["case"])
        return f"{row['value'] / first['value']:.2f}" if first.get("value") else ""
    own = ours(line, row["case"])
    return "" if own is None or not row["value"] else f"{own['value'] / row['value']:.2f}"


def _share(line: Line, row: Line) -> float:
    narrow = NARROW.search(f"{row['case']} {row['contender']}")
    limit = line["limits"][f"GEMM {'bfloat16' if narrow else 'float32'}, GFLOP/s"]
    return row["value"] * line["flops"][row["case"]] / (limit * 1e9)


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def verdicts(suite: Suite, line: Line) -> list[str]:
    """Each bar, and what was reached."""
    found = []
    for bar in suite.bars:
        reached = achieved(bar, line)
        if reached is None:
            found.append(f"* {bar}: not measured")
            continue
        met = reached >= bar.at_least if bar.at_least is not None else reached <= (bar.at_most or 0)
        found.append(f"* {bar}: {reached:.3g}, {'met' if met else '**missed**'}")
    return found


def achieved(bar: Bar, line: Line) -> float | None:
    own = ours(line, bar.case)
    if own is None or bar.beside is None:
        return None if own is None else own["value"]
    rows = [row for row in line["rows"] if row["case"] == bar.case]
    others = [
        row for row in rows
        if (not row["contender"].startswith(OURS) if bar.beside == PEERS else row["contender"] == bar.beside)
    ]  # fmt: skip
    other = best(line, others)
    return None if other is None else own["value"] / other["value"]


def section(suite: Suite, line: Line) -> list[str]:
    limits = ", ".join(
        f"{name.split(',')[0]} {value:,.0f}{name.split(',')[1]}" for name, value in line["limits"].items()
    )
    versions = ", ".join(f"{name} {version or '(not installed)'}" for name, version in line["versions"].items())
    machine = line["machine"]
    load = f"{line['load'][0]:.0f}" if line["load"] else "unknown"
    agree = "; ".join(line["disagree"]) or "agree"
    compared = any(row.get("answer") for row in line["rows"])
    on = "" if line.get("device", CPU) == CPU else f", on {', '.join(machine['accelerators'])}"
    return [
        f"## {line['suite']}{on}", "", *([line["title"], ""]), *table(line), "",
        *verdicts(suite, line), *utilisation(line), "",
        *([line["notes"], ""] if line["notes"] else []),
        *([_formula(suite), ""] if suite.flops else []),
        *([f"Answers: {agree}, within {suite.tolerance:g} of the largest number.", ""] if compared else []),
        f"Limits in the same run: {limits}. {line['rounds']} rounds, {line['threads']} threads, "
        f"load {load} at the end. {machine['processor']}, {machine['cores']} cores; Python {machine['python']}, "
        f"{versions}; commit {(line['commit'] or 'none')[:10]}{' and changes' if line['changed'] else ''}, "
        f"{line['begun']}.", "",
    ]  # fmt: skip


def _formula(suite: Suite) -> str:
    """What is counted for the share of the limit, which is the model FLOP utilisation (arXiv:2204.02311 appendix B) by
    what the machine was seen to do."""
    counted = " ".join((suite.flops.__doc__ or "").split()) if suite.flops else ""
    return f"Of GEMM: the rate times these FLOP, over the rate of GEMM in the same run. {counted}"


def utilisation(line: Line) -> list[str]:
    """The same by the accelerator's data sheet, where that is known: a sentence for each case in bfloat16."""
    names = " ".join(line["machine"]["accelerators"])
    peak = next((peak for name, peak in DATA_SHEETS.items() if name in names), None)
    if line.get("device", CPU) == CPU or peak is None:
        return []
    own = {case: ours(line, case) for case in line["flops"] if NARROW.search(case)}
    return [
        f"* {case}: MFU {row['value'] * line['flops'][case] / peak:.1%} of the data sheet's {peak / 1e12:.0f} TFLOP/s"
        for case, row in own.items()
        if row is not None
    ]


def page(suites: Sequence[Suite], out: Path) -> str:
    """All suites, those that were not measured too."""
    parts = [
        "# Results: speed", "",
        "Written by `anyformer bench --page FILE` from the lines of `anyformer bench NAME`. Each contender has a",
        "process of its own and all take turns; figures are medians over the turns, by CPU seconds, so that what else",
        "runs on the machine hardly counts. Differences below 10 % are ties. Peaks are of the whole process, with its",
        "imports. What can be measured on an accelerator, by `--device cuda`, says whether it was.", "",
    ]  # fmt: skip
    for suite in suites:
        for device in (CPU, *([ACCELERATOR] if suite.accelerated is not None else [])):
            line, name = kept(suite, out, device), suite.file.stem.replace("_", "-")
            on = "" if device == CPU else ", on an accelerator"
            parts += section(suite, line) if line else [f"## {name}{on}", "", suite.title, "", "Not measured.", ""]
    return "\n".join(parts)


def kept(suite: Suite, out: Path, device: str = CPU) -> Line | None:
    """What was last measured; ConfigError for a file that is none of ours."""
    file = out / f"{suite.file.stem.replace('_', '-')}{'' if device == CPU else f'.{device}'}.json"
    if not file.exists():
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{file} is no JSON; remove it and measure again.") from error
