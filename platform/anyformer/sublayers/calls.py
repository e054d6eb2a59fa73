"""Which documents share one dense call of attention: a plan that all layers of a pass follow.

Many short documents are slow one by one, because a call costs more than their scores do, and slow all at once, because
most of the scores would be padding. A plan lets documents of similar shape share a padded call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from anyformer.mask import Mask

CALL = 200_000
"""What one more call costs, forward and backward, in products of a score (one of width 128 has 128 of them): between
100,000 and 270,000 by width, measured on one core of a CPU by `benchmarks/attention_calls.py`."""

MASKED = 1.05
"""What a call costs that reads a mask for each document, relative to one that does not: measured likewise."""

Shape = tuple[int, int, int]
"""Queries, keys and visible prefix of a document."""


@dataclass(frozen=True)
class Call:
    """Documents padded to one shape. visible: who sees whom; None where `causal` says it, or all see all."""

    documents: tuple[int, ...]
    queries: int
    keys: int
    causal: bool
    visible: Bool[Tensor, "documents 1 queries keys"] | None


@dataclass(frozen=True)
class Plan:
    """The calls, and where each slot stands in them, laid end to end.

    queries, keys: for each slot of the calls, the packed row that stands there; padding repeats a row of its own
    document. back: for each packed query, its slot; the one behind the last is that of queries which see nothing. All
    are None where the packed rows are the calls' already, or nobody sees anything and there is no call.
    """

    calls: tuple[Call, ...]
    queries: Int64[Tensor, " slots"] | None
    keys: Int64[Tensor, " slots"] | None
    back: Int64[Tensor, " tokens"] | None

    @classmethod
    def of(cls, mask: Mask, width: int, device: torch.device) -> Plan:
        """width: of the queries of all heads together. Made once for a mask, width and device."""
        return mask.kept(("calls", width, device), lambda: _planned(mask, width, device))

    def laid(self, rows: Tensor, index: Int64[Tensor, " slots"] | None) -> Tensor:
        """Packed rows as the calls want them."""
        return rows if index is None else rows.index_select(0, index)

    def packed(self, outputs: Sequence[Float[Tensor, "slots heads head_dim"]]) -> Tensor:
        """What the calls gave, as packed rows; zeros where nothing is seen. There is at least one call."""
        if self.back is None:
            return outputs[0] if len(outputs) == 1 else torch.cat(list(outputs))
        nothing = outputs[0].new_zeros(1, *outputs[0].shape[1:])
        return torch.cat([*outputs, nothing]).index_select(0, self.back)


def _planned(mask: Mask, width: int, device: torch.device) -> Plan:
    shapes = {d: _shape(mask, d) for d, count in enumerate(mask.queries) if count and not mask.sees_nothing(d)}
    order = sorted(shapes, key=lambda d: (max(shapes[d][:2]), shapes[d]))
    runs = [(shape, tuple(run)) for shape, run in groupby(order, lambda d: shapes[d])]
    calls = tuple(_call(mask, [d for _, run in part for d in run], device) for part in _parted(runs, CALL / width))
    if not calls or (order == list(range(len(mask.queries))) and all(_unpadded(mask, call) for call in calls)):
        return Plan(calls, None, None, None)
    queries, real = _laid(mask.queries, mask.cu_queries, calls, [call.queries for call in calls])
    keys, _ = _laid(mask.keys, mask.cu_keys, calls, [call.keys for call in calls])
    back = torch.full((sum(mask.queries),), len(queries))
    back[queries[real]] = torch.arange(len(queries))[real]
    return Plan(calls, queries.to(device), keys.to(device), back.to(device))


def _shape(mask: Mask, document: int) -> Shape:
    """What documents must have in common to share a call without a mask each."""
    prefix = 0 if mask.is_causal(document) else min(mask.prefix[document], mask.keys[document])
    return mask.queries[document], mask.keys[document], prefix


def _parted(runs: list, call: float) -> list[list]:
    """The runs of equal documents that share a call: parted where most is saved, as long as that is more than a call's
    cost. Such cuts are within a few percent of the best ones, which would take the square of the time."""
    todo, done = [runs], []
    while todo:
        runs = todo.pop()
        before, behind = _costs(runs), _costs(runs[::-1])[::-1]
        cuts = ((before[-1] - before[at - 1] - behind[at], at) for at in range(1, len(runs)))
        saved, at = max(cuts, default=(0, 0))
        if saved > call:
            todo += [runs[at:], runs[:at]]
        elif runs:
            done.append(runs)
    return done


def _costs(runs: list) -> list[float]:
    """Scores of the first run, the first two runs, … together in one padded call."""
    costs, count, high, wide, causal = [], 0, 0, 0, True
    for (queries, keys, prefix), run in runs:
        count, high, wide = count + len(run), max(high, queries), max(wide, keys)
        causal = causal and queries == keys and not prefix
        costs.append(count * high * wide * (1 if causal or not costs else MASKED))
    return costs


def _call(mask: Mask, documents: list[int], device: torch.device) -> Call:
    queries, keys = (max(lengths[d] for d in documents) for lengths in (mask.queries, mask.keys))
    causal = all(map(mask.is_causal, documents))
    alike = len({_shape(mask, d) for d in documents}) == 1
    visible = None
    if not causal and not (alike and mask.is_full(documents[0])):
        visible = mask.visible_together(documents[:1] if alike else documents)[:, None].to(device)
    return Call(tuple(documents), queries, keys, causal, visible)


def _unpadded(mask: Mask, call: Call) -> bool:
    return all((mask.queries[d], mask.keys[d]) == (call.queries, call.keys) for d in call.documents)


def _laid(lengths: tuple[int, ...], starts: Tensor, calls: Sequence[Call], sizes: list[int]) -> tuple[Tensor, Tensor]:
    """For each slot of all calls, which packed row stands there, and whether it is not there as padding."""
    counts, rows, real = torch.tensor(lengths), [], []
    for call, size in zip(calls, sizes, strict=True):
        documents, slot = torch.tensor(call.documents), torch.arange(size)
        last = counts[documents, None] - 1
        rows.append((starts[documents, None] + slot.minimum(last)).flatten())
        real.append((slot <= last).flatten())
    return torch.cat(rows), torch.cat(real)
