"""Directories of published weights: tensors and a config, read without running anything that they contain."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from anyformer.errors import WeightsError

CONFIG = "config.json"
SAFE, SAFE_INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"


def directory_of(source: str | Path) -> Path:
    """A local directory or file, or the snapshot of a hub id (owner/name), downloaded where a network is."""
    path = Path(source)
    try:
        there = path.exists()
    except OSError:  # no name that a file may have
        there = False
    if there:
        return path
    if str(source).count("/") != 1 or str(source).startswith((".", "/", "~")):
        raise WeightsError(f"{source}: no such directory, file or hub id; expected a directory with config.json.")
    try:
        metadata.version("huggingface_hub")
    except metadata.PackageNotFoundError as error:
        raise WeightsError(f"{source} is not here; to fetch it: pip install 'anyformer[hf]'.") from error
    from huggingface_hub import snapshot_download

    try:
        wanted = ["*.json", "*.safetensors", "*.model", "*.spm", "*.txt", "pytorch_model*.bin"]
        return Path(snapshot_download(str(source), allow_patterns=wanted))
    except Exception as error:  # the hub's own errors have no common base that says less
        first = str(error).partition("\n")[0].rstrip(".")
        raise WeightsError(
            f"{source}: no such directory, and the hub gave none ({type(error).__name__}: {first})."
        ) from error


def read_config(path: Path) -> dict[str, Any]:
    """config.json of a directory."""
    file = path / CONFIG
    if not file.is_file():
        raise WeightsError(f"{path}: has no {CONFIG}; expected one beside the weights, or give `config`.")
    return _json(file)


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{file}: is not JSON ({error}).") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{file}: expected a JSON object, got {type(content).__name__}.")
    return content


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a directory (safetensors before .bin, whole or in shards) or of one file.

    Where the file's format allows it, they stay on disk until they are read.
    """
    if path.is_file():
        return _read(path)
    for whole, index in ((SAFE, SAFE_INDEX), (PICKLED, PICKLED_INDEX)):
        if (path / whole).is_file():
            return _read(path / whole)
        if (path / index).is_file():
            return _read_shards(path, path / index)
    raise WeightsError(f"{path}: has no weights; expected {SAFE}, {SAFE_INDEX}, {PICKLED} or {PICKLED_INDEX}.")


def _read_shards(path: Path, index: Path) -> dict[str, Tensor]:
    where = _json(index).get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(shard, str) for shard in where.values()):
        raise WeightsError(f"{index}: is no index of shards; expected a `weight_map` from tensors to files.")
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(where.values())):
        if Path(shard).name != shard or not os.path.isfile(path / shard):
            raise WeightsError(f"{index}: names the shard {shard!r}, which is not beside it. Download it again.")
        tensors |= _read(path / shard)
    lost = sorted(set(where) - set(tensors))
    if lost:
        raise WeightsError(f"{index}: names tensors that no shard has: {', '.join(lost)}.")
    return tensors


def _read(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except (SafetensorError, OSError, ValueError) as error:
            raise WeightsError(f"{file}: is not a readable safetensors file ({error}). Download it again.") from error
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # a pickle may fail in any way; nothing of it has run
        first = str(error).partition("\n")[0].rstrip(".")
        raise WeightsError(f"{file}: cannot be read as plain tensors ({type(error).__name__}: {first}).") from error
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping) or not all(isinstance(x, Tensor) for x in loaded.values()):
        raise WeightsError(f"{file}: expected a mapping from names to tensors.")
    return dict(loaded)


def write(path: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """config.json and model.safetensors, as `save_pretrained` writes them."""
    if (path / "manifest.json").exists():
        raise WeightsError(f"{path}: is a checkpoint, which would be spoilt. Choose a new directory.")
    try:
        path.mkdir(parents=True, exist_ok=True)
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        (path / CONFIG).write_text(text, encoding="utf-8")
        whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(whole, path / f".{SAFE}", metadata={"format": "pt"})  # what it replaces may still be read from
        (path / f".{SAFE}").replace(path / SAFE)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: cannot be written ({error}). Choose another directory.") from error
