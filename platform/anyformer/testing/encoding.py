"""What sound tokens are: each stream, value, slot, item and position as its spec declares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from anyformer.testing.clause import Clause, equal, shown
from anyformer.tokens import Stream, StreamSpec, Tokens, spec_table


def require_well_formed(plugin: str, specs: Sequence[StreamSpec], tokens: Tokens, what: str) -> None:
    """One value's tokens against its streams' specs; `what` names the value in a breach."""
    declared = spec_table(specs)
    clause = Clause(plugin, "encodings are well formed", f"Mend encode; this came from {what}.")
    clause.require(isinstance(tokens, Tokens), "Tokens", type(tokens).__name__)
    empty = tokens.length < 1 or not tokens.streams
    clause.require(not empty, "at least one slot", "none", f"Raise SampleError for an empty value ({what}).")
    for name, stream in tokens.streams.items():
        clause.require(name in declared, f"a declared stream, one of {sorted(declared)}", repr(name))
        _require_values(clause, declared[name], stream.values)
        _require_slots(clause, declared[name], stream, tokens.length)
    _require_each_slot_once(clause, declared, tokens)
    _require_positions(clause, max(declared[name].rank for name in tokens.streams), tokens)


def _require_values(clause: Clause, spec: StreamSpec, values: Tensor) -> None:
    where = f"in stream {spec.name!r}"
    if spec.vocab_size is not None:
        clause.require(values.dtype == torch.int64 and values.ndim == 1, f"int64[values] {where}", values)
        ends = [int(values.min()), int(values.max())] if len(values) else [0, 0]
        inside = ends[0] >= 0 and ends[1] < spec.vocab_size
        clause.require(inside, f"values in [0, {spec.vocab_size}) {where}", f"values from {ends[0]} to {ends[1]}")
        return
    columns = values.ndim >= 2 and values.shape[1] == spec.features
    plain = values.ndim == 2 or spec.embedder is not None  # the default embedder is a linear map of rows
    right = values.dtype == torch.float32 and columns and plain
    clause.require(right, f"float32[values, {spec.features}] {where}", values)
    finite = bool(values.isfinite().all())
    clause.require(finite, f"finite values {where}", "NaN or infinity", "Raise SampleError for such input.")


def _require_slots(clause: Clause, spec: StreamSpec, stream: Stream, length: int) -> None:
    where, slots, items = f"in stream {spec.name!r}", stream.slots, stream.items
    shaped = slots.ndim == 1 and items.ndim == 2 and items.shape[1] == 2
    clause.require(
        shaped and slots.dtype == items.dtype == torch.int64,
        f"int64 slots[n] and items[k, 2] {where}",
        f"{shown(slots)} and {shown(items)}",
    )
    inside = len(slots) == 0 or (int(slots.min()) >= 0 and int(slots.max()) < length)
    clause.require(inside, f"slots in [0, {length}) {where}", slots.tolist())
    clause.require(bool((slots.diff() > 0).all()), f"rising slots {where}", slots.tolist())
    sums, sizes = items.sum(0).tolist(), [len(stream.values), len(slots)]
    clause.require(sums == sizes, f"items that add up to {sizes} values and slots {where}", f"{sums}")
    for values, filled in items.tolist():
        rule = spec.slots(values)
        clause.require(rule == filled, f"an item of {values} values to fill slots({values}) = {rule} {where}", filled)


def _require_each_slot_once(clause: Clause, declared: Mapping[str, StreamSpec], tokens: Tokens) -> None:
    """Overlays apart, which share the slots of others."""
    slots = torch.cat([stream.slots for name, stream in tokens.streams.items() if not declared[name].overlay])
    once = equal(slots.sort().values, torch.arange(tokens.length))
    got = f"{len(slots)} slots, {len(slots.unique())} of them different"
    clause.require(once, f"each of {tokens.length} slots to be taken once", got)


def _require_positions(clause: Clause, rank: int, tokens: Tokens) -> None:
    positions = tokens.positions
    right = positions.dtype == torch.int64 and list(positions.shape) == [tokens.length, rank]
    clause.require(right, f"positions of int64[{tokens.length}, {rank}]", positions)
    clause.require(int(positions.min()) >= 0, "positions from 0 up", int(positions.min()))
