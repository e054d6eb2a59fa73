"""One self-contained page about one model and one example: nothing is fetched, everything from outside is escaped.

It can be read without scripts, on paper and in the dark; with them, every weight can be asked for.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from html import escape
from importlib.resources import files

from anyformer.evaluation.text import number
from anyformer.inspection import atlas, figures
from anyformer.inspection.ablation import Importance
from anyformer.inspection.axes import Axis
from anyformer.inspection.gather import Inspection
from anyformer.inspection.memories import FeedForwardMemory

MOST_COLUMNS = 128  # slots of the lens
FAINT = 0.1  # of a unit's strongest activation: what is below is not shown
LARGEST_SOUND = 700_000  # bytes of one sound: the page is one file and stays mailable


def render(inspection: Inspection, title: str, notes: Sequence[str] = ()) -> str:
    """The whole page. title: what the model is called; notes: sentences under it."""
    sections = {
        "input": ("What goes in", _axes(inspection)),
        "attention": ("Attention", atlas.section(inspection)),
        "lens": ("Logit lens", _lens(inspection)),
        "memories": ("Feed-forward memories", _memories(inspection)),
        "heads": ("Heads that matter", _importance(inspection.importance)),
    }
    present = {name: (heading, body) for name, (heading, body) in sections.items() if body}
    nav = "".join(f'<a href="#{name}">{heading}</a>' for name, (heading, _) in present.items())
    bodies = "".join(_section(name, heading, body) for name, (heading, body) in present.items())
    lead = " ".join(map(escape, notes))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Inside {escape(title)}</title>
<style>
{_resource("anyformer.evaluation", "page.css")}{_resource("anyformer.inspection", "page.css")}</style>
</head>
<body>
<main>
<header><h1>Inside {escape(title)}</h1>
<p class="lead">{lead}</p>
{_facts(inspection.facts)}<nav>{nav}</nav></header>
{bodies}
</main>
<script type="application/json" id="known">{_known(inspection)}</script>
<script>
{_resource("anyformer.inspection", "page.js")}</script>
</body>
</html>
"""


@cache
def _resource(package: str, name: str) -> str:
    return files(package).joinpath(name).read_text(encoding="utf-8")


def _section(name: str, heading: str, body: str) -> str:
    return f'<section id="{name}" aria-labelledby="of-{name}">\n<h2 id="of-{name}">{heading}</h2>\n{body}</section>\n'


def _known(inspection: Inspection) -> str:
    """What the script needs besides the pictures. No `<` may stand in it: it would be read as markup."""
    axes = {"target": inspection.target.words}
    if inspection.source is not None:
        axes["source"] = inspection.source.words
    colours = [red << 16 | green << 8 | blue for red, green, blue in figures.PALETTE]
    known = {"axes": axes, "palette": colours, "levels": figures.LEVELS}
    return json.dumps(known, ensure_ascii=False).replace("<", "\\u003c")


def _axes(inspection: Inspection) -> str:
    if inspection.source is None:
        return _axis("target", inspection.target)
    return (
        f"<h3>The source, which the encoder reads</h3>{_axis('source', inspection.source)}"
        f"<h3>The sequence, which the decoder goes on with</h3>{_axis('target', inspection.target)}"
    )


def _axis(name: str, axis: Axis) -> str:
    """Every slot once, as an element that says which it is: the script shades them by weight."""
    parts = []
    for grid in axis.grids:
        cells = "".join(
            f'<i data-s="{slot}" style="left:{left:.2%};top:{top:.2%};width:{width:.2%};height:{height:.2%}"></i>'
            for slot, (left, top, width, height) in grid.cells.items()
        )
        parts.append(_pictured("grid", grid.name, grid.png, cells))
    for strip in axis.strips:
        share = 100 / len(strip.slots)
        cells = "".join(
            f'<i data-s="{slot}" style="left:{share * index:.2f}%;width:{share:.2f}%"></i>'
            for index, slot in enumerate(strip.slots)
        )
        parts.append(_pictured("strip", strip.name, strip.png, cells) + _sound(strip.name, strip.sound))
    chips = "".join(f'<b data-s="{slot}">{escape(axis.words[slot])}</b>' for slot in axis.chips)
    chips = f'<div class="chips">{chips}</div>' if chips else ""
    return f'<div class="axis" id="axis-{name}" data-axis="{name}">{"".join(parts)}{chips}</div>'


def _pictured(kind: str, name: str, png: bytes, cells: str) -> str:
    source = figures.data_uri("image/png", png)
    return (
        f'<figure class="{kind}"><div class="frame"><img src="{source}" alt="{escape(name)}">{cells}</div>'
        f"<figcaption>{escape(name)}</figcaption></figure>"
    )


def _sound(name: str, sound: bytes) -> str:
    if not sound or len(sound) > LARGEST_SOUND:
        return ""
    source = figures.data_uri("audio/wav", sound)
    return f'<audio controls preload="metadata" src="{source}" aria-label="{escape(name)}, as it decodes"></audio>'


def _lens(inspection: Inspection) -> str:
    """A row for each depth, a column for each slot: the likeliest value, the deeper the surer."""
    lens = inspection.lens
    if lens is None:
        return ""
    say = lambda value: inspection.words.of(lens.stream, value)  # noqa: E731
    columns = min(lens.values.shape[1], MOST_COLUMNS)
    words = inspection.target.words[:columns]
    head = "".join(f'<th scope="col"><span>{slot}</span>{escape(word)}</th>' for slot, word in enumerate(words))
    rows = []
    for depth in range(len(lens)):
        cells = []
        for slot in range(columns):
            values, shares = lens.values[depth, slot].tolist(), lens.probabilities[depth, slot].tolist()
            told = "\n".join(f"{say(value)}  {share:.3f}" for value, share in zip(values, shares, strict=True))
            hit = ' class="hit"' if inspection.expected.get(slot) == values[0] else ""
            cells.append(f'<td{hit} style="--p:{shares[0]:.2f}" title="{escape(told)}">{escape(say(values[0]))}</td>')
        rows.append(f'<tr><th scope="row">{depth_name(depth)}</th>{"".join(cells)}</tr>\n')
    if inspection.expected:
        wanted = [inspection.expected.get(slot) for slot in range(columns)]
        cells = "".join(f"<td>{'' if value is None else escape(say(value))}</td>" for value in wanted)
        rows.append(f'<tr class="wanted"><th scope="row">wanted</th>{cells}</tr>\n')
    return f"""<p class="soft">The likeliest {escape(lens.stream)} if the model stopped there: each block's output
through the final norm and the head. The darker, the surer; underlined where it is what was wanted; hover for the next
likeliest.</p>{_cut(columns, lens.values.shape[1])}
<div class="scroll" role="region" aria-label="Logit lens" tabindex="0"><table class="lens">
<thead><tr><td></td>{head}</tr></thead>
<tbody>{"".join(rows)}</tbody></table></div>
"""


def depth_name(depth: int) -> str:
    return f"layer {depth - 1}" if depth else "entry"


def _cut(shown: int, all_: int) -> str:
    return "" if shown == all_ else f'<p class="left-out">Left out: slots {shown} to {all_ - 1} of {all_}.</p>'


def _memories(inspection: Inspection) -> str:
    """The units that add most, layer by layer: where their keys fire, and what their values promote."""
    if not inspection.memories:
        return ""
    layers = inspection.memories
    several = any(memory.network for layer in layers for memory in layer)
    tables = []
    for layer, found in enumerate(layers):
        strongest = max((memory.strength for memory in found), default=1.0) or 1.0
        rows = "".join(_memory(memory, strongest, several, inspection) for memory in found)
        opened = " open" if len(layers) <= 4 or layer == len(layers) - 1 else ""
        tables.append(
            f'<details{opened}><summary>Layer {layer}</summary><div class="scroll"><table class="memories"><thead><tr>'
            f'<th scope="col">Unit</th><th scope="col">Adds</th><th scope="col">Fires at</th>'
            f'<th scope="col">Promotes</th></tr></thead><tbody>{rows}</tbody></table></div></details>'
        )
    return f"""<p class="soft">The units whose activation times value is longest on this input: the slots where each
fires with its activation there, and the {escape(inspection.stream or "")} values whose scores its value vector raises
most in that direction, read by the head alone.</p>
{"".join(tables)}
"""


def _memory(memory: FeedForwardMemory, strongest: float, several: bool, inspection: Inspection) -> str:
    words, stream = inspection.target.words, inspection.stream or ""
    fires = "".join(
        f'<span class="chip" title="slot {slot}">{escape(words[slot])}<sub>{value:.2f}</sub></span>'
        for slot, value in memory.triggers
        if abs(value) >= FAINT * abs(memory.triggers[0][1])
    )
    promotes = "".join(
        f'<span class="chip">{escape(inspection.words.of(stream, value))}<sub>{score:+.2f}</sub></span>'
        for value, score in memory.promoted
    )
    network = f"network {memory.network}, " if several else ""
    return (
        f'<tr><th scope="row">{network}unit {memory.unit}</th>'
        f'<td class="adds"><i style="width:{memory.strength / strongest:.1%}"></i>{memory.strength:.2f}</td>'
        f"<td>{fires}</td><td>{promotes}</td></tr>"
    )


def _importance(importance: Importance | None) -> str:
    if importance is None:
        return ""
    charts = []
    for site, changes in importance.changes.items():
        names = [f"layer {layer}" for layer in range(len(changes))]
        heading = f"<figcaption><b>{atlas.SITES[site]}</b></figcaption>" if len(importance.changes) > 1 else ""
        charts.append(f"<figure>{heading}{figures.bars(changes, importance.measure, names)}</figure>")
    return f"""<p class="soft">Change of the {escape(importance.measure)} ({number(importance.intact)} with every head)
when one head's output is zeroed. Up: it is needed here. Down: the model does better without it. All bars of a chart
have one scale.</p>
<div class="charts">{"".join(charts)}</div>
"""


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    told = "".join(f"<dt>{escape(label)}</dt><dd>{escape(words)}</dd>" for label, words in facts)
    return f'<dl class="facts">{told}</dl>\n'
