"""The parity table: what each family was compared with, how near it came, and what would have been noticed."""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import references
from safetensors.torch import load_file

from anyformer.architecture import names, parameters, preset
from anyformer.weights.parity import Comparison, check_weights
from parity.counts import COUNTS
from parity.fixtures import Fixture, sketched
from parity.invisible import reason_for
from parity.noise import VISIBLE, disturbed, silent
from parity.stances import UNPROVEN, Stance, stances
from parity.trial import Verdict, judged

MAIN_OUTPUTS = "logits", "prediction_logits", "action_preds"


@dataclass(frozen=True)
class Distance:
    """How far we are from a reference in one regime.

    difference: the largest of all float outputs. share: the largest share of what an output is allowed. scale: the
    largest absolute value of the main output. equal, sequences: generated ones, and how many there are.
    """

    difference: float
    share: float
    scale: float
    equal: int = 0
    sequences: int = 0


@dataclass(frozen=True)
class Row:
    """One family.

    tensors: disturbed one at a time; noticed: those that outputs showed or need not show. stances: the positions of
    switches that it proves.
    """

    family: str
    reference: str
    distances: Mapping[str, Distance]
    verdicts: Sequence[Verdict]
    tensors: int
    noticed: int
    stances: Collection[Stance] = ()
    failures: Sequence[str] = field(default_factory=list)

    def count(self, *hows: str) -> int:
        """Flipped switches of which this became."""
        return sum(verdict.how in hows for verdict in self.verdicts)


def measured(family: str, directory: Path, seed: int = 0) -> Row:
    """Build, import, compare, flip and disturb one family in every regime."""
    distances, failures, fixtures = {}, [], []
    for regime in references.REGIMES:
        whole = references.build(family, directory / regime / "whole", seed, regime)
        compared = check_weights(whole)
        failures += [f"{family}, {regime}: {c.name} differs by {c.difference:.1e}" for c in compared if not c.holds]
        distances[regime] = distance(compared, load_file(whole / "outputs.safetensors"))
        sketch = sketched(family, directory / regime / "sketch", seed, regime)
        fixtures.append(Fixture(family, regime, sketch))
    verdicts = judged(fixtures)
    failures += [f"{family}: {v.mutant} is {v.how}" for v in verdicts if not understood(family, v)]
    moved = disturbed(fixtures[0])
    lost = [name for name, change in moved.items() if (change <= VISIBLE) != silent(family, name)]
    failures += [f"{family}: noise on {name} moves outputs by {moved[name]:.1e}" for name in lost]
    reference = origin(fixtures[0].config)
    proven = stances(fixtures[0].model.architecture)
    return Row(family, reference, distances, verdicts, len(moved), len(moved) - len(lost), proven, failures)


def understood(family: str, verdict: Verdict) -> bool:
    """Whether a mutant was noticed, or is invisible for a reason that holds."""
    reason = reason_for(family, verdict.mutant)
    if reason is None:
        return verdict.how != "invisible"
    return verdict.how == "invisible" and reason.proves(verdict)


def distance(compared: Iterable[Comparison], outputs: Mapping[str, Any]) -> Distance:
    """What a list of comparisons comes to."""
    floats = [c for c in compared if not c.name.endswith("_ids")]
    ids = [c for c in compared if c.name.endswith("_ids")]
    main = next(outputs[name] for name in MAIN_OUTPUTS if name in outputs)
    count = sum(len(outputs[c.name]) for c in ids)
    return Distance(
        max(c.difference for c in floats), max(c.difference / c.allowed if c.allowed else math.inf for c in floats),
        float(main.abs().max()), count - int(sum(c.difference for c in ids)), count,
    )  # fmt: skip


def origin(config: Mapping[str, Any]) -> str:
    """The reference's class and its library's version."""
    where = config.get("cls") or f"transformers.{config['architectures'][0]}"
    library, _, _ = where.partition(".")
    if library == importlib.import_module("references").__name__:
        return "the equations of the paper, written out"
    return f"{where.rpartition('.')[2]}, {library} {metadata.version(library)}"


def counted(family: str) -> str:
    """Parameters of the family's preset: as published, as the reference has them, as we have them."""
    if family not in COUNTS:
        return NONE
    name, published, exact = COUNTS[family]
    ours = parameters(preset(name))
    return f"{name}: {published}; {exact:,}; {'the same' if ours == exact else f'{ours:,}'}"


# As Markdown

HEAD = (
    "| family | reference | ordinary | sharp | long | generated ids | parameters: published; reference; ours "
    "| switches flipped | caught | refused | invisible | tensors noticed |"
)


def rendered(rows: Sequence[Row], provenance: Sequence[tuple[str, str]]) -> str:
    """The whole page."""
    lines = ["# Parity", "", *(f"- {name}: {value}" for name, value in provenance), "", summary(rows), "", EXPLANATION]
    lines += ["", HEAD, "|" + "---|" * HEAD.count(" |"), *map(line, rows)]
    lines += ["", "## Switches that no output shows", "", *reasons(rows)]
    lines += ["", "## Published architectures", "", *published(rows)]
    failures = [failure for row in rows for failure in row.failures]
    lines += ["", "## What does not hold", "", *(f"- {failure}" for failure in failures)] if failures else []
    return "\n".join(lines) + "\n"


EXPLANATION = """\
A tiny model of each class is filled with random weights, saved by its own library, imported here by its table, and run
on the same inputs, in three regimes: *ordinary*; *sharp*, where activations are so small that every norm's epsilon
shows; *long*, past 128 tokens. In a regime's cell, the largest difference of all float outputs (hidden states of every
layer, logits, losses, beams' scores) and, in brackets, the largest absolute logit. Generated ids are whole sequences
that are equal: greedy with and without an end, and four beams with two settings, in all regimes.

Then each switch of the imported architecture is flipped alone, with the same weights. *Caught*: an output differs by
more than is allowed. *Refused*: it is a size, and the file has others; or such an architecture cannot be built or run.
*Invisible*: proven to change nothing, for the reasons below. Last, each tensor is disturbed alone by 20 % noise:
*noticed* are those that move an output by more than 1e-4, and key biases, which cannot."""

NONE = "-"


def summary(rows: Sequence[Row]) -> str:
    share = max(d.share for row in rows for d in row.distances.values())
    equal, sequences = (sum(getattr(d, n) for r in rows for d in r.distances.values()) for n in ("equal", "sequences"))
    flipped, invisible = sum(len(row.verdicts) for row in rows), sum(row.count("invisible") for row in rows)
    weakest = min(v.excess for row in rows for v in row.verdicts if v.how == "caught")
    return (
        f"{len(rows)} families: the largest difference is {share:.2f} of what is allowed, {equal} of {sequences} "
        f"generated sequences are equal. {flipped:,} flipped switches: {flipped - invisible:,} noticed, the weakest at "
        f"{weakest:.1f} times what is allowed, and {invisible} that no output can show."
    )


def line(row: Row) -> str:
    cells = [row.family, row.reference]
    cells += [f"{d.difference:.1e} ({d.scale:.1f})" for d in row.distances.values()]
    equal, sequences = (sum(getattr(d, name) for d in row.distances.values()) for name in ("equal", "sequences"))
    cells += [f"{equal} of {sequences}" if sequences else NONE, counted(row.family), str(len(row.verdicts))]
    cells += [str(row.count("caught")), str(row.count("refused", "impossible")), str(row.count("invisible"))]
    return "| " + " | ".join([*cells, f"{row.noticed} of {row.tensors}"]) + " |"


def reasons(rows: Sequence[Row]) -> Iterable[str]:
    """Each reason once, with how many switches of how many families it speaks of."""
    found: dict[str, list[str]] = {}
    for row in rows:
        for verdict in row.verdicts:
            reason = reason_for(row.family, verdict.mutant)
            if reason is not None and verdict.how == "invisible":
                found.setdefault(reason.reason, []).append(row.family)
    for reason, families in found.items():
        yield f"- {len(families)} in {len(set(families))} families: {reason}."


def published(rows: Sequence[Row]) -> Iterable[str]:
    """Positions of presets' switches that none of these families has."""
    proven: set[Stance] = set().union(*(row.stances for row in rows))
    lacking = {name: stances(preset(name)) - proven for name in names()}
    whole = sum(not switches for switches in lacking.values())
    yield f"- {whole} of {len(lacking)} presets: every switch stands as in one of these families or another."
    found: dict[str, dict[str, None]] = {}
    for name, switches in lacking.items():
        for switch, position in sorted(switches, key=str):
            reason = next((UNPROVEN[p] for p in UNPROVEN if re.fullmatch(p, switch)), f"{switch}={position}")
            found.setdefault(reason, {})[name] = None
    yield from (f"- {', '.join(presets)}: no family here has {reason}." for reason, presets in found.items())
