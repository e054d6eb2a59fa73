"""Another architecture with the weights of an imported model, as far as they fit."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import Tensor

from anyformer.architecture import Architecture
from anyformer.model import Model
from anyformer.sublayers import Projection

SAME_ROLE = {"whole": "gate", "gate": "whole"}
"""Part of a projection → what takes its place where it is missing: a feed-forward with one branch, and with two."""


@torch.no_grad()
def transplanted(source: Model, architecture: Architecture, computed: Collection[str] = ()) -> Model:
    """A model of `architecture` in eval mode: tensors of `source` where name and shape agree, and part by part in
    projections. What is new stays as it was made: ones, zeros, random matrices of a fixed seed.

    computed: names whose values follow from the architecture and are not copied.
    """
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        model = Model.of(architecture).eval()
    given = source.state_dict()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if name in computed or name not in given:
            continue
        if tensor.shape == given[name].shape and _rows(model, name).keys() == _rows(source, name).keys():
            tensor.copy_(given[name])
            continue
        theirs = _rows(source, name)
        for part, rows in _rows(model, name).items():
            there = theirs.get(part, theirs.get(SAME_ROLE.get(part, part)))
            if there is not None and tensor[rows].shape == given[name][there].shape:
                tensor[rows] = given[name][there]
    return model


def parts(model: Model) -> Iterator[tuple[str, Tensor]]:
    """Every float tensor that is kept, shared ones once, by name; those of projections part by part."""
    seen = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) in seen or not tensor.is_floating_point():
            continue
        seen.add(id(tensor))
        rows = _rows(model, name)
        yield from ((f"{name}[{part}]", tensor.data[where]) for part, where in rows.items())
        if not rows:
            yield name, tensor.data


def _rows(model: Model, name: str) -> dict[str, slice]:
    """The rows of each part of a projection's weight or bias; of other tensors none."""
    module = model.get_submodule(name.rpartition(".")[0])
    if not isinstance(module, Projection):
        return {}
    sizes = module.bias_sizes if name.endswith(".bias") else module.sizes
    rows, start = {}, 0
    for part, size in sizes.items():
        rows[part] = slice(start, start + size)
        start += size
    return rows
