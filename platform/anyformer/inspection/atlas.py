"""The attention part of a page: a small map for every head, and a desk where one of them is read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

import numpy as np
from jaxtyping import Float
from torch import Tensor

from anyformer.inspection.figures import LEVELS, data_uri, heat_map
from anyformer.inspection.gather import Inspection

SITES = {
    "encoder.attention": "Within the source",
    "attention": "Within the sequence",
    "cross_attention": "From the sequence to its source",
}
AXES = {
    "encoder.attention": ("source", "source"),
    "attention": ("target", "target"),
    "cross_attention": ("target", "source"),
}
"""By site, the axes of queries and keys."""

MOST_SLOTS = 256
MOST_CELLS = 3_000_000  # weights on a page; each takes at most a byte, and a third more as text
ROW = 8  # maps of a layer side by side
PATTERN = 0.4  # mean weight from which a head is said to look mostly somewhere

Maps = dict[str, list[Float[Tensor, "heads queries keys"]]]


@dataclass(frozen=True)
class Excerpt:
    """What fits on a page: the layers of each site, and how many slots from the first on."""

    layers: dict[str, list[int]]
    slots: int

    @classmethod
    def of(cls, maps: Maps) -> Excerpt:
        """All layers if they fit, else some from first to last, evenly spread; fewer slots if one alone does not."""
        slots = MOST_SLOTS
        while slots > 1 and sum(_cells(layers[0], slots) for layers in maps.values()) > MOST_CELLS:
            slots //= 2
        total = sum(_cells(weights, slots) for layers in maps.values() for weights in layers)
        share = min(1.0, MOST_CELLS / max(total, 1))
        return cls({site: _spread(len(layers), share) for site, layers in maps.items()}, slots)

    def left_out(self, maps: Maps) -> str:
        """In a sentence, or nothing."""
        parts = []
        longest = max((max(weights.shape[1:]) for layers in maps.values() for weights in layers), default=0)
        if longest > self.slots:
            parts.append(f"slots {self.slots} to {longest - 1}")
        for site, layers in maps.items():
            missing = [str(layer) for layer in range(len(layers)) if layer not in self.layers[site]]
            if missing:
                parts.append(f"layers {', '.join(missing)} of “{SITES[site].lower()}”")
        return f"Left out, to keep this page small: {'; '.join(parts)}." if parts else ""


def _cells(weights: Tensor, slots: int) -> int:
    heads, queries, keys = weights.shape
    return heads * min(queries, slots) * min(keys, slots)


def _spread(count: int, share: float) -> list[int]:
    return sorted({int(layer) for layer in np.linspace(0, count - 1, max(1, int(count * share))).round()})


def section(inspection: Inspection) -> str:
    """Maps on the left, the desk on the right."""
    maps = inspection.maps
    if not maps:
        return ""
    excerpt = Excerpt.of(maps)
    left_out = excerpt.left_out(maps)
    first = _first(inspection, excerpt)
    sites = "".join(_site(site, layers, excerpt, first, named=len(maps) > 1) for site, layers in maps.items())
    return f"""<p class="soft">A map for every head: a row for each slot that asks, a column for each slot it may look
at; the deeper the colour, the larger the weight. Hover to read a weight, choose a map to open it on the
desk. Weights are kept in {LEVELS} levels of their root: 0.5 is right to 0.6 %, 0.01 to 4 %.</p>
{f'<p class="left-out">{escape(left_out)}</p>' if left_out else ""}
<div class="atlas"><div class="sheets">{sites}</div>
<aside id="desk" tabindex="0" aria-label="One head" hidden></aside></div>
"""


def _first(inspection: Inspection, excerpt: Excerpt) -> tuple[str, int, int]:
    """The head that lies on the desk when the page is opened: the one that matters most, or the last layer's first."""
    site = "attention" if "attention" in excerpt.layers else next(iter(excerpt.layers))
    layers = excerpt.layers[site]
    if inspection.importance is None or site not in inspection.importance.changes:
        return site, layers[-1], 0
    changes = inspection.importance.changes[site][layers]
    best = int(changes.argmax())
    return site, layers[best // changes.shape[1]], best % changes.shape[1]


def _site(site: str, layers: list[Tensor], excerpt: Excerpt, first: tuple[str, int, int], named: bool) -> str:
    rows = []
    for layer in excerpt.layers[site]:
        weights = layers[layer][:, : excerpt.slots, : excerpt.slots].float()
        tiles = "".join(_tile(site, layer, head, one, first == (site, layer, head)) for head, one in enumerate(weights))
        rows.append(
            f'<section class="layer"><h4>Layer {layer}</h4>'
            f'<div class="maps" style="--columns:{_columns(len(weights))}">{tiles}</div></section>\n'
        )
    return f"{f'<h3>{SITES[site]}</h3>' if named else ''}{''.join(rows)}"


def _columns(heads: int) -> int:
    """At most `ROW` maps side by side, and about as many in every row."""
    return math.ceil(heads / math.ceil(heads / ROW))


def _tile(site: str, layer: int, head: int, weights: Float[Tensor, "queries keys"], first: bool) -> str:
    queries, keys = AXES[site]
    ratio = min(2.0, max(0.5, weights.shape[1] / max(1, weights.shape[0])))
    habit = pattern(weights) if queries == keys else ""
    name = f"{SITES[site]}, layer {layer}, head {head}"
    return (
        f'<button type="button" class="map" data-site="{site}" data-layer="{layer}" data-head="{head}" '
        f'data-queries="{queries}" data-keys="{keys}"{" data-first" if first else ""}>'
        f'<img src="{data_uri("image/png", heat_map(weights))}" alt="{name}" style="aspect-ratio:{ratio:.3f}">'
        f"<span>head {head}<em>{habit}</em></span></button>"
    )


def pattern(weights: Float[Tensor, "slots slots"]) -> str:
    """Where a head looks most of the time, if there is such a place (heads of this kind: Clark et al.,
    arXiv:1906.04341). Means are over the slots that have such a neighbour."""
    if len(weights) < 3:
        return ""
    means = {
        "previous": float(weights.diagonal(-1).mean()),
        "itself": float(weights.diagonal()[1:].mean()),
        "next": float(weights.diagonal(1).mean()),
        "first": float(weights[2:, 0].mean()),
    }
    place, mean = max(means.items(), key=lambda item: item[1])
    return f"{place} {mean:.0%}" if mean >= PATTERN else ""
