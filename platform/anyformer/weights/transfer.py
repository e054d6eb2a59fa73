"""Tensors of a model from a published file's and back, name by name as the family's table says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anyformer.errors import WeightsError
from anyformer.sublayers import Projection
from anyformer.weights.shape import Entry
from anyformer.weights.table import Table


@dataclass(frozen=True)
class Place:
    """Where one of our tensors stands among theirs. rows: of each of theirs in ours; equal shares where it is None."""

    entry: Entry
    names: tuple[str, ...]
    rows: list[int] | None

    @classmethod
    def of(cls, ours: str, model: nn.Module, table: Table) -> Place | None:
        """A projection has only those parts that exist (a bias may belong to some of them only)."""
        found = table.entry(ours)
        if found is None:
            return None
        entry, names = found
        module = model.get_submodule(ours.rpartition(".")[0])
        if not isinstance(module, Projection):
            return cls(entry, names, None)
        sizes = module.bias_sizes if ours.endswith(".bias") else module.sizes
        if not entry.parts:
            return cls(entry, names, list(sizes.values()))
        kept = tuple(name for name, part in zip(names, entry.parts, strict=True) if part in sizes)
        return cls(entry, kept, [sizes[part] for part in entry.parts if part in sizes])


def fill(
    model: nn.Module, table: Table, config: dict[str, Any], tensors: Mapping[str, Tensor], path: Path
) -> dict[str, Tensor]:
    """Every tensor of ours from theirs; WeightsError lists what does not fit.

    Returned are those of theirs that ours do not hold whole: a table of which one row is read, and what our own
    library computes.
    """
    used: set[str] = set()
    missing, homeless, wrong, kept = [], [], {}, {}
    for ours, tensor in own_tensors(model, table):
        place = Place.of(ours, model, table)
        if place is None:
            homeless.append(ours)
            continue
        absent = [name for name in place.names if name not in tensors]
        if absent and place.entry.optional:
            continue
        used |= set(place.names)
        missing += [name for name in absent if name not in missing]
        misfits = _misfits(place, tensor, tensors, config)
        wrong |= misfits
        if absent or misfits:
            continue
        theirs = [tensors[name] for name in place.names]
        with torch.no_grad():
            tensor.copy_(place.entry.gather(theirs, config))
        if place.entry.row is not None or place.entry.computed:
            kept |= dict(zip(place.names, theirs, strict=True))
    extra = sorted(set(tensors) - used)
    found = {
        "missing": missing,
        "not expected": extra,
        "of another shape": [*wrong.values()],
        "without a place": homeless,
    }
    if any(found.values()):
        said = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in found.items() if names)
        raise WeightsError(f"{path}: is not the {table.name} model that its config describes. {said}.")
    return kept


def scatter(model: nn.Module, table: Table, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Every tensor of ours as theirs, laid among `tensors`, which may hold the rest of larger ones."""
    homeless = []
    for ours, tensor in own_tensors(model, table):
        place = Place.of(ours, model, table)
        if place is None:
            homeless.append(ours)
        elif not place.entry.computed:
            for name, piece in zip(place.names, place.entry.scatter(tensor.detach(), place.rows, config), strict=True):
                tensors[name] = place.entry.laid_into(tensors.get(name), piece)
    if homeless:
        raise WeightsError(f"The {table.name} weights table has no place for: {', '.join(homeless)}.")


def own_tensors(model: nn.Module, table: Table) -> Iterator[tuple[str, Tensor]]:
    """Parameters, each once, the buffers that are kept, and those that the family keeps though we do not."""
    yield from model.named_parameters()
    kept = model.state_dict(keep_vars=True)
    yield from ((name, x) for name, x in model.named_buffers() if name in kept or table.entry(name) is not None)


def _misfits(place: Place, ours: Tensor, tensors: Mapping[str, Tensor], config: dict[str, Any]) -> dict[str, str]:
    """Those of theirs that are not shaped as ours need them, with a word on each."""
    found = {}
    for name, shape in zip(place.names, place.entry.shapes(ours, place.rows, config), strict=True):
        theirs = tensors.get(name)
        if theirs is None:
            continue
        if theirs.shape != shape:
            found[name] = f"{name} {_said(theirs.shape)}, expected {_said(shape)}"
        elif theirs.is_floating_point() != ours.is_floating_point():
            found[name] = f"{name} of {theirs.dtype}, expected {ours.dtype}"
    return found


def _said(shape: torch.Size) -> str:
    return " x ".join(map(str, shape)) or "a number"
