"""What was measured, as tables for a person."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anyformer.bench.conductor import best, ours
from anyformer.bench.suite import OURS, PEERS, Bar, Suite
from anyformer.errors import ConfigError

Line = dict[str, Any]


def table(line: Line) -> list[str]:
    """A line of Markdown for each contender of each case."""
    flops = line["flops"]
    unit = line["unit"] if line["amount"] else f"{line['unit']} / CPU s"
    share = " of GEMM |" if flops else ""
    lines = [f"| case | | {unit} (lowest to highest) | ours / it |{share} peak memory, MB |"]
    lines.append("|---|---|---|---|" + ("---|" if flops else "") + "---|")
    for row in line["rows"]:
        own, name = ours(line, row["case"]), row["contender"]
        label = f"**{name}**" if name.startswith(OURS) else name
        if "value" not in row:
            why = f"not installed: {row['absent']}" if "absent" in row else f"failed: {row.get('failed', 'not run')}"
            lines.append(f"| {row['case']} | {label} | {why} | |{' |' if flops else ''} |")
            continue
        spread = f"{number(row['value'])} ({number(min(row['values']))} to {number(max(row['values']))})"
        ratio = "" if own is None or not row["value"] else f"{own['value'] / row['value']:.2f}"
        of = f" {_share(line, row):.0%} |" if flops else ""
        lines.append(f"| {row['case']} | {label} | {spread} | {ratio} |{of} {row['peak_mb']:,.0f} |")
    return lines


def _share(line: Line, row: Line) -> float:
    narrow = any(word in f"{row['case']} {row['contender']}" for word in ("bf16", "bfloat16"))
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
    return [
        f"## {line['suite']}", "", *([line["title"], ""]), *table(line), "", *verdicts(suite, line), "",
        *([line["notes"], ""] if line["notes"] else []),
        *([f"Answers: {agree}.", ""] if compared else []),
        f"Limits in the same run: {limits}. {line['rounds']} rounds, {line['threads']} threads, "
        f"load {load} at the end. {machine['processor']}, {machine['cores']} cores; Python {machine['python']}, "
        f"{versions}; commit {(line['commit'] or 'none')[:10]}{' and changes' if line['changed'] else ''}, "
        f"{line['begun']}.", "",
    ]  # fmt: skip


def page(suites: Sequence[Suite], out: Path) -> str:
    """All suites, those that were not measured too."""
    parts = [
        "# Results: speed", "",
        "Written by `anyformer bench --page FILE` from the lines of `anyformer bench NAME`. Each contender has a",
        "process of its own and all take turns; figures are medians over the turns, by CPU seconds, so that what else",
        "runs on the machine hardly counts. Differences below 10 % are ties. Peaks are of the whole process, with its",
        "imports. On accelerators nothing was measured.", "",
    ]  # fmt: skip
    for suite in suites:
        line = kept(suite, out)
        name = suite.file.stem.replace("_", "-")
        parts += section(suite, line) if line else [f"## {name}", "", suite.title, "", "Not measured.", ""]
    return "\n".join(parts)


def kept(suite: Suite, out: Path) -> Line | None:
    """What was last measured; ConfigError for a file that is none of ours."""
    file = out / f"{suite.file.stem.replace('_', '-')}.json"
    if not file.exists():
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{file} is no JSON; remove it and measure again.") from error
