"""What a checkpoint's files hold: tensors by name, and containers of plain values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as tensors_from
from safetensors.torch import save as tensors_to
from torch import Tensor

from anyformer.errors import CheckpointError


def read_json(file: Path) -> Any:
    try:
        if not file.is_file():  # a pipe would be waited for
            raise OSError("no such file")
        return json.loads(file.read_text(encoding="utf-8"))
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


def weights_file(weights: Mapping[str, Tensor]) -> bytes:
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


def split(state: Any) -> tuple[Any, dict[str, Tensor]]:
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


def join(skeleton: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(skeleton, dict):
        return skeleton
    ((kind, value),) = skeleton.items()
    if kind == "$tensor":
        return tensors[value]
    if kind == "$items":
        return {join(k, tensors): join(v, tensors) for k, v in value}
    items = [join(item, tensors) for item in value]
    return items if kind == "$list" else tuple(items)


def json_file(value: Any) -> bytes:
    return json.dumps(value, indent=1, allow_nan=True).encode()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def own_digest(manifest: Mapping[str, Any]) -> str:
    """Over everything in a manifest but this digest."""
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    return sha256(json.dumps(rest, sort_keys=True).encode())
