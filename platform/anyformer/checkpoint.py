"""A checkpoint is a directory of tensors and JSON. Nothing in it is code and nothing is unpickled.

    model.safetensors                   weights, each shared tensor once
    config.json                         the model's settings; tokenizers and tasks by registry name
    tokenizers/<name>/<file>            what each tokenizer learned
    trainer.json, trainer.safetensors   optimiser, schedule, loops, callbacks (training checkpoints only)
    manifest.json                       sha256 and size of every file, step, and its own sha256; written last

It is written beside its target, synced and renamed, so a reader sees the old one or the new one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from
from safetensors.torch import save as tensors_to
from torch import Tensor

from anyformer.contracts import Tokenizer
from anyformer.errors import AnyformerError, CheckpointError, NonFiniteError
from anyformer.model import Model
from anyformer.registry import tokenizers as registry

FORMAT = 1


def save(model: Model, path: str | Path) -> None:
    """Write a model and its tokenizers as a checkpoint directory; `load` reads it back."""
    write(path, model.state_dict(), describe(model), tokenizer_files(model.tokenizers))


def load(path: str | Path, map_location: str | torch.device = "cpu") -> Model:
    """A model in `eval` mode, with its tokenizers, from a checkpoint directory (or one that holds `last`)."""
    path = resolve(path)
    verify(path)
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


def begin_with(model: Model, path: str | Path, layers: Sequence[int] = ()) -> list[str]:
    """Copy a checkpoint's weights into those of the same name; the names of those that it lacks.

    layers: the blocks of the checkpoint's backbone that the model's begin with, counted from 0; by default the first.
    CheckpointError where a weight has another shape, where the two share no weight of a stack, and where a tokenizer
    of the same name encodes otherwise: its pieces would get another's vectors.
    """
    path = resolve(path)
    verify(path)
    theirs, ours = read_tensors(path / "model.safetensors"), model.state_dict()
    if layers:
        theirs = _of_layers(path, theirs, layers, model)
    entries = read_json(path / "config.json")["tokenizers"]
    for name in sorted(entries.keys() & model.tokenizers.keys()):
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


def write(
    path: str | Path,
    weights: Mapping[str, Tensor],
    config: dict[str, Any],
    files: Mapping[str, bytes],
    trainer: dict[str, Any] | None = None,
    step: int = 0,
) -> None:
    """Commit a checkpoint atomically; NonFiniteError rather than a poisoned one, and CheckpointError rather than
    the loss of something at `path` that is no checkpoint."""
    target = Path(path).absolute()
    if target.exists() and not (target / "manifest.json").exists() and not _is_empty(target):
        raise CheckpointError(
            f"{target}: exists and is not a checkpoint, so it is not replaced. Choose a new directory."
        )
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise NonFiniteError(f"{target}: not written, because the weight {name!r} is not finite.")
    contents = {"model.safetensors": _weights(weights), "config.json": _json(config), **files}
    if trainer is not None:
        skeleton, tensors = _split(trainer)
        contents |= {"trainer.json": _json(skeleton), "trainer.safetensors": tensors_to(tensors)}
    manifest = {
        "format": FORMAT,
        "step": step,
        "finite": True,
        "files": {n: {"sha256": _sha256(data), "bytes": len(data)} for n, data in contents.items()},
    }
    manifest["sha256"] = _own_digest(manifest)
    temporary = target.with_name(f".tmp-{target.name}-{uuid.uuid4().hex[:8]}")
    try:
        for name, data in (*contents.items(), ("manifest.json", _json(manifest))):
            _write_synced(temporary / name, data)
        _commit(temporary, target)
    except OSError as error:
        raise CheckpointError(
            f"{target}: could not be written ({error.strerror}; {_megabytes(contents)} MB needed, "
            f"{shutil.disk_usage(_existing(target)).free // 2**20} MB free). The previous checkpoint is untouched."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_trainer(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The trainer's state and the weights of a verified checkpoint."""
    path = resolve(path)
    verify(path)
    if not (path / "trainer.json").exists():
        raise CheckpointError(f"{path}: holds a model but no trainer state, so no run can resume from it.")
    skeleton, tensors = read_json(path / "trainer.json"), read_tensors(path / "trainer.safetensors")
    try:
        state = _join(skeleton, tensors)
        if not isinstance(state, dict):
            raise TypeError("it is no mapping")
        return state, read_tensors(path / "model.safetensors")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: trainer.json does not describe a trainer's state ({error}).") from error


def resolve(path: str | Path) -> Path:
    """The checkpoint directory meant by `path`: itself, its `last`, or what a crash left of it."""
    path = Path(path)
    for candidate in (path, path / "last", _previous(path), _previous(path / "last")):
        if (candidate / "manifest.json").exists():
            return candidate
    if path.is_dir():
        raise CheckpointError(f"{path}: not a checkpoint: it has no manifest.json, nor has a `last` inside it.")
    raise CheckpointError(f"{path}: no such checkpoint directory.")


def verify(path: Path) -> None:
    """Compare every file with the manifest, and the manifest with itself."""
    for name, expected in _manifest(path)["files"].items():
        file = path / name
        if not file.resolve().is_relative_to(path.resolve()):
            raise CheckpointError(f"{path}: the manifest names {name!r}, which lies outside the checkpoint.")
        if not file.is_file():
            raise CheckpointError(f"{path}: {name} is missing. Use another checkpoint of the run.")
        found = _sha256(file.read_bytes())
        if found != expected["sha256"]:
            raise CheckpointError(
                f"{path}: {name} is damaged: expected sha256 {expected['sha256'][:12]}…, "
                f"found {found[:12]}…. Use another checkpoint of the run."
            )


def _manifest(path: Path) -> dict[str, Any]:
    manifest = read_json(path / "manifest.json")
    if not isinstance(manifest, dict) or manifest.get("sha256") != _own_digest(manifest):
        raise CheckpointError(f"{path}: manifest.json is damaged. Use another checkpoint of the run.")
    if manifest.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: has format {manifest.get('format')}; expected {FORMAT}. Read it with the version that wrote it."
        )
    return manifest


def _own_digest(manifest: Mapping[str, Any]) -> str:
    """Over everything in the manifest but this digest."""
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    return _sha256(json.dumps(rest, sort_keys=True).encode())


def read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: cannot be read as JSON ({error}).") from error


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Tensors by name, shared ones under each of their names."""
    data = file.read_bytes()
    try:
        tensors = tensors_from(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        aliases = json.loads(header.get("__metadata__", {}).get("aliases", "{}"))
        return tensors | {alias: tensors[name] for alias, name in aliases.items()}
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{file}: cannot be read as safetensors ({error}).") from error


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


def _weights(weights: Mapping[str, Tensor]) -> bytes:
    unique: dict[str, Tensor] = {}
    names: dict[tuple, str] = {}
    aliases: dict[str, str] = {}
    for name, tensor in weights.items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride())
        if tensor.numel() and place in names:
            aliases[name] = names[place]
            continue
        names[place] = name
        unique[name] = tensor.detach().cpu().contiguous()
    return tensors_to(unique, metadata={"aliases": json.dumps(aliases)})


def _split(state: Any) -> tuple[Any, dict[str, Tensor]]:
    """Nested containers as JSON, with each tensor replaced by its name in a flat table."""
    tensors: dict[str, Tensor] = {}

    def visit(value: Any, path: str) -> Any:
        if isinstance(value, Tensor):
            name = str(len(tensors))
            tensors[name] = value.detach().cpu().contiguous().clone()
            return {"$tensor": name}
        if isinstance(value, Mapping):
            return {"$items": [[visit(k, path), visit(v, f"{path}.{k}")] for k, v in value.items()]}
        if isinstance(value, (list, tuple)):
            kind = "$list" if isinstance(value, list) else "$tuple"
            return {kind: [visit(v, f"{path}[{i}]") for i, v in enumerate(value)]}
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        raise CheckpointError(
            f"The trainer's state has a {type(value).__name__} at {path}; a checkpoint holds only tensors and plain "
            "JSON values. Let that callback's state_dict return such values."
        )

    return visit(state, "trainer"), tensors


def _join(skeleton: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(skeleton, dict):
        return skeleton
    ((kind, value),) = skeleton.items()
    if kind == "$tensor":
        return tensors[value]
    if kind == "$items":
        return {_join(k, tensors): _join(v, tensors) for k, v in value}
    items = [_join(item, tensors) for item in value]
    return items if kind == "$list" else tuple(items)


def _commit(temporary: Path, target: Path) -> None:
    for folder in _folders(temporary):
        _sync(folder)
    previous = _previous(target)
    replacing = target.exists()
    if replacing:
        shutil.rmtree(previous, ignore_errors=True)
        target.rename(previous)
    try:
        temporary.rename(target)
    except OSError:
        if replacing:
            previous.rename(target)
        raise
    _sync(target.parent)
    shutil.rmtree(previous, ignore_errors=True)


def _previous(path: Path) -> Path:
    return path.parent / f".previous-{path.name}"


def _write_synced(file: Path, data: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())


def _folders(root: Path) -> Iterator[Path]:
    yield from (folder for folder in root.rglob("*") if folder.is_dir())
    yield root


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, allow_nan=True).encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _megabytes(contents: Mapping[str, bytes]) -> int:
    return sum(map(len, contents.values())) // 2**20 + 1


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _existing(path: Path) -> Path:
    return next(p for p in (path, *path.absolute().parents) if p.exists())
