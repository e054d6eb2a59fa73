"""Models as checkpoints: their weights, settings and tokenizers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anyformer.checkpoint.content import read_json, read_tensors
from anyformer.checkpoint.directory import FORMAT, resolve, sound, write
from anyformer.contracts import Tokenizer
from anyformer.errors import AnyformerError, CheckpointError
from anyformer.model import Model
from anyformer.model.parts import PER_STREAM, check_parts, in_parts
from anyformer.registry import tokenizers as registry


def save(model: Model, path: str | Path) -> None:
    """Write a model and its tokenizers as a checkpoint directory; `load` reads it back."""
    write(path, model.state_dict(), describe(model), tokenizer_files(model.tokenizers))


def load(path: str | Path, map_location: str | torch.device = "cpu") -> Model:
    """A model in `eval` mode, with its tokenizers, from a checkpoint directory (or one that holds `last`)."""
    path = sound(path)
    try:
        model = Model(load_tokenizers(path), **read_json(path / "config.json")["model"])
    except (TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path}: config.json does not describe a model ({error}).") from error
    try:
        model.load_state_dict(read_tensors(path / "model.safetensors"))
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: the weights do not fit the model that config.json describes: {error}"
        ) from error
    return model.to(map_location).eval()


def load_tokenizers(path: str | Path) -> dict[str, Tokenizer]:
    """The tokenizers of a checkpoint, by name."""
    path = resolve(path)
    try:
        return {n: _tokenizer(path, n, entry) for n, entry in read_json(path / "config.json")["tokenizers"].items()}
    except (TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path}: config.json does not describe tokenizers ({error}).") from error


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
                f"{path}: its tokenizer {name!r} encodes otherwise than the model's. Take the checkpoint's own: "
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


def tokenizer_files(tokenizers: Mapping[str, Tokenizer]) -> dict[str, bytes]:
    return {f"tokenizers/{name}/{file}": data for name, t in tokenizers.items() for file, data in t.state().items()}


def check_tokenizers(path: str | Path, tokenizers: Mapping[str, Tokenizer]) -> None:
    """Refuse a checkpoint whose tokenizers encode otherwise than these, saying where they differ."""
    stored = read_json(Path(path) / "config.json")["tokenizers"]
    for name in sorted({*stored, *tokenizers}):
        if name not in stored or name not in tokenizers:
            where = "the run" if name in tokenizers else "the checkpoint"
            raise CheckpointError(f"{path}: tokenizer {name!r} exists only in {where}. Use the checkpoint's own set.")
        theirs, ours = stored[name], tokenizers[name]
        if theirs["fingerprint"] == ours.fingerprint():
            continue
        settings = {
            key: (theirs["config"].get(key), ours.config().get(key))
            for key in {*theirs["config"], *ours.config()}
            if theirs["config"].get(key) != ours.config().get(key)
        }
        said = "; ".join(f"{k} was {a!r} and is {b!r}" for k, (a, b) in sorted(settings.items()))
        raise CheckpointError(
            f"{path}: tokenizer {name!r} differs from the one that was trained with: "
            f"{said or 'same settings, but it was fitted on other data'}. Load the checkpoint's tokenizer instead."
        )


def _tokenizer(path: Path, name: str, entry: dict[str, Any]) -> Tokenizer:
    tokenizer = registry.create(entry["type"], entry["config"])
    folder = path / "tokenizers" / name
    files = {file.name: file.read_bytes() for file in sorted(folder.iterdir())} if folder.is_dir() else {}
    try:
        tokenizer.restore(files)
    except AnyformerError as error:
        raise CheckpointError(f"{path}: tokenizer {name!r} cannot be restored: {error}") from error
    if tokenizer.fingerprint() != entry["fingerprint"]:
        raise CheckpointError(
            f"{path}: tokenizer {name!r} encodes otherwise than when the checkpoint was written. "
            f"Install the version of its plugin ({registry.origin(entry['type'])}) that wrote it."
        )
    return tokenizer
