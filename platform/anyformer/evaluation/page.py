"""`report.html`: one self-contained page, legible in light and dark, on paper and to a screen reader.

Every word that comes from a task, a tokenizer or a configuration is escaped on its way in.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from functools import cache
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING

from anyformer.evaluation import plot
from anyformer.evaluation.text import MARKS, arrow, errors_of, number, provenance, span, summary

if TYPE_CHECKING:
    from anyformer.evaluation.report import Exhibit, Part, Report, Result

LONGEST_TEXT = 2_000  # characters of one shown text
LARGEST_MEDIUM = 2_000_000  # bytes of one shown picture or sound: the page is one file and stays mailable
WIDE_TEXT = 240  # characters from which exhibits get the page's whole width


def render(report: Report) -> str:
    """The whole page."""
    tasks = report.by_task()
    sections = [_task(index, task, rows, report) for index, (task, rows) in enumerate(tasks.items())]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Evaluation report</title>
<style>
{_style()}</style>
</head>
<body>
<main>
<header>
<h1>Evaluation report</h1>
<p class="lead">{escape(summary(report.results))}</p>
</header>
{_results(tasks)}
{"".join(sections)}
{_provenance(report)}
</main>
</body>
</html>
"""


@cache
def _style() -> str:
    return files("anyformer.evaluation").joinpath("page.css").read_text(encoding="utf-8")


def _results(tasks: dict[str, list[Result]]) -> str:
    rows = [_row(index, result) for index, results in enumerate(tasks.values()) for result in results]
    return f"""<div class="scroll" role="region" aria-label="Results" tabindex="0">
<table>
<caption>↑ higher is better, ↓ lower is better. Under each value its 95 % interval, bootstrapped over clusters
of samples; “even” means that the interval holds the baseline.</caption>
<thead><tr><th scope="col">Task</th><th scope="col">Metric</th><th scope="col" class="right">Value</th>
<th scope="col" class="right">Baseline</th><th scope="col">Against it</th>
<th scope="col" class="right">Samples</th><th scope="col" class="right">Time</th></tr></thead>
<tbody>
{"".join(rows)}</tbody>
</table>
</div>"""


def _row(index: int, row: Result) -> str:
    method = next(iter(row.baselines), "")
    interval = span(row.interval) if row.interval else ""
    clusters = f"in {row.clusters} clusters" if row.clusters != row.n else ""
    verdict = f'<span class="{row.verdict or "even"}">{MARKS[row.verdict]}</span>'
    if row.value is None:
        verdict = '<span class="worse">✗ failed</span>'
    return (
        f'<tr><th scope="row"><a href="#task-{index}">{escape(row.task)}</a>{_under(row.modality)}</th>'
        f"<td>{escape(row.metric)} {arrow(row)}</td>"
        f'<td class="right"><span class="value">{number(row.value)}</span>{_under(interval)}</td>'
        f'<td class="right">{number(row.baseline)}{_under(method)}</td>'
        f"<td>{verdict}</td>"
        f'<td class="right">{row.n:,}{_under(clusters)}</td>'
        f'<td class="right">{row.seconds:,.1f} s</td></tr>\n'
    )


def _under(words: str) -> str:
    return f'<span class="under">{escape(words)}</span>' if words else ""


def _task(index: int, task: str, rows: Sequence[Result], report: Report) -> str:
    errors = [f'<p class="error">{escape(error)}</p>' for _, error in errors_of(rows)]
    charts = "".join(_charts(rows, report))
    exhibits = [exhibit for exhibit in report.exhibits if exhibit.task == task]
    return f"""<section id="task-{index}" aria-labelledby="name-{index}">
<div class="heading"><h2 id="name-{index}">{escape(task)}</h2>
<span class="tag">{escape(rows[0].modality)}</span></div>
{"".join(errors)}
{f'<div class="charts">{charts}</div>' if charts else ""}
{_exhibits(exhibits)}
</section>
"""


def _charts(rows: Sequence[Result], report: Report) -> list[str]:
    """One chart per family of metrics, else the value beside its baselines and the spread of its samples."""
    families = plot.sweeps(rows)
    swept = {point.result.metric for points in families.values() for point in points}
    charts = []
    for stem, points in families.items():
        scores = [_values(report, point.result) for point in points]
        about = "by setting: mean and 95 % interval over the samples, drawn as faint dots"
        charts.append(_figure(stem, about, plot.sweep(stem, points, scores)))
    for row in rows:
        if row.metric not in swept and row.value is not None:
            charts.append(_figure(row.metric, "beside simpler methods", plot.beside_baselines(row)))
            charts.append(_figure(row.metric, "sample by sample", plot.histogram(row, _values(report, row))))
    return charts


def _values(report: Report, row: Result) -> list[float]:
    return [sample.score for sample in report.scores(row.task, row.metric)]


def _figure(name: str, about: str, svg: str) -> str:
    if not svg:
        return ""
    return f"<figure><figcaption><b>{escape(name)}</b> {escape(about)}</figcaption>{svg}</figure>"


def _exhibits(exhibits: Sequence[Exhibit]) -> str:
    if not exhibits:
        return ""
    longest = max(
        (len(part.content) for one in exhibits for part in one.parts if isinstance(part.content, str)),
        default=0,
    )
    cards = "".join(map(_exhibit, exhibits))
    return f'<h3>Samples</h3><div class="exhibits{" wide" if longest > WIDE_TEXT else ""}">{cards}</div>'


def _exhibit(exhibit: Exhibit) -> str:
    parts = "".join(f"<div><dt>{escape(part.label)}</dt><dd>{_part(part)}</dd></div>" for part in exhibit.parts)
    return (
        f'<article class="exhibit"><header><span>{escape(exhibit.id)}</span>'
        f"<span>{escape(exhibit.metric)} {number(exhibit.score)}</span></header><dl>{parts}</dl></article>"
    )


def _part(part: Part) -> str:
    """One shown value by its MIME type."""
    kind = part.mime.partition("/")[0]
    if kind not in ("image", "audio"):
        words = part.content if isinstance(part.content, str) else part.content.decode("utf-8", "replace")
        more = "…" if len(words) > LONGEST_TEXT else ""
        return f"<pre>{escape(words[:LONGEST_TEXT])}{more}</pre>"
    content = part.content.encode() if isinstance(part.content, str) else part.content
    if len(content) > LARGEST_MEDIUM:
        return f'<span class="soft">too large to embed ({len(content) / 1e6:.1f} MB)</span>'
    source = f"data:{escape(part.mime)};base64,{base64.b64encode(content).decode()}"
    told = f"{escape(part.label)} of this sample"
    if kind == "image":
        return f'<img src="{source}" alt="{told}">'
    return f'<audio controls preload="metadata" src="{source}" aria-label="{told}"></audio>'


def _provenance(report: Report) -> str:
    facts = "".join(f"<dt>{escape(label)}</dt><dd>{escape(value)}</dd>" for label, value in provenance(report))
    config = escape(json.dumps(report.config, indent=2, ensure_ascii=False, default=str))
    return f"""<section aria-labelledby="provenance">
<h2 id="provenance">Provenance</h2>
<dl class="facts">{facts}</dl>
<details><summary>Configuration</summary><pre>{config}</pre></details>
</section>"""
