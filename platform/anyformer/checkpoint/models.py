"""Models as checkpoints: their weights, settings and tokenizers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anyformer.checkpoint.content import read_json, read_tensors
from anyformer.checkpoint.directory import FORMAT, sound, write
from anyformer.checkpoint.tokenizers import described, difference, tokenizer_files, tokenizers_of
from anyformer.errors import CheckpointError
from anyformer.model import Model
from anyformer.model.parts import PER_STREAM, check_parts, in_parts
from anyformer.registry import tokenizers as registry


def save(model: Model, path: str | Path) -> None:
    """Write a model and its tokenizers as a checkpoint directory; `load` reads it back."""
    write(path, model.state_dict(), describe(model), tokenizer_files(model.tokenizers))


def load(path: str | Path, map_location: str | torch.device = "cpu") -> Model:
    """A model in `eval` mode, with its tokenizers, from a checkpoint directory (or one that holds `last`)."""
    path = sound(path)
    with described(path, "a model"):
        model = Model(tokenizers_of(path), **read_json(path / "config.json")["model"])
    try:
        model.load_state_dict(read_tensors(path / "model.safetensors"))
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: the weights do not fit the model that config.json describes: {error}"
        ) from error
    return model.to(map_location).eval()


def begin_with(model: Model, path: str | Path, layers: Sequence[int] = (), parts: Sequence[str] = ()) -> list[str]:
    """Copy a checkpoint's weights into those of the same name; the names of those that it lacks.

    layers: the blocks of the checkpoint's backbone that the model's begin with, counted from 0; by default the first.
    parts: those that begin with the checkpoint's, see `in_parts`; by default all.
    CheckpointError where a weight has another shape, where the two share no weight of a stack, and where a tokenizer
    of the same name encodes otherwise: its pieces would get another's vectors.
    """
    path = sound(path)
    theirs, ours = read_tensors(path / "model.safetensors"), model.state_dict()
    if layers:
        theirs = _of_layers(path, theirs, layers, model)
    if parts:
        check_parts(model, parts)
        theirs = {name: tensor for name, tensor in theirs.items() if in_parts(name, parts)}
    entries = read_json(path / "config.json")["tokenizers"]
    for name in sorted(entries.keys() & model.tokenizers.keys()):
        own = [f"{part}.{spec.name}" for part in PER_STREAM for spec in model.tokenizers[name].streams]
        if parts and not any(in_parts(weight, own) for weight in theirs):
            continue  # nothing that is taken depends on how it encodes
        if entries[name]["fingerprint"] != model.tokenizers[name].fingerprint():
            raise CheckpointError(
                f"{path}: its tokenizer {name!r} encodes otherwise than the model's: "
                f"{difference(path, name, entries[name], model.tokenizers[name])}. Take the checkpoint's own: "
                "Mixture(start=...)."
            )
    for name in sorted(ours.keys() & theirs.keys()):
        if ours[name].shape != theirs[name].shape:
            raise CheckpointError(
                f"{path}: its weight {name!r} has the shape {list(theirs[name].shape)}, the model's "
                f"{list(ours[name].shape)}. Build the model with the settings that the checkpoint's was built with."
            )
    if not any(name.startswith("backbone.") for name in ours.keys() & theirs.keys()):
        raise CheckpointError(f"{path}: has no weight of the model's backbone. Build the model like the checkpoint's.")
    model.load_state_dict({name: theirs[name] for name in ours.keys() & theirs.keys()}, strict=False)
    return sorted(ours.keys() - theirs.keys())


def _of_layers(path: Path, weights: dict[str, Tensor], layers: Sequence[int], model: Model) -> dict[str, Tensor]:
    """Weights as if the backbone had these blocks alone."""
    block = "backbone.blocks."
    depth = len({name.split(".")[2] for name in model.state_dict() if name.startswith(block)})
    if len(layers) != depth:
        raise CheckpointError(f"{path}: {len(layers)} layers were chosen for the model's {depth}; choose one for each.")
    chosen = {name: tensor for name, tensor in weights.items() if not name.startswith(block)}
    for number, layer in enumerate(layers):
        own = f"{block}{layer}."
        found = {name.removeprefix(own): tensor for name, tensor in weights.items() if name.startswith(own)}
        if not found:
            raise CheckpointError(f"{path}: has no layer {layer} to begin with; layers are counted from 0.")
        chosen |= {f"{block}{number}.{name}": tensor for name, tensor in found.items()}
    return chosen


def describe(model: Model) -> dict[str, Any]:
    """config.json: plain values and registry names."""
    entries = {
        name: {"type": registry.name_of(type(t)), "config": t.config(), "fingerprint": t.fingerprint()}
        for name, t in model.tokenizers.items()
    }
    return {"format": FORMAT, "model": model.config(), "tokenizers": entries}
