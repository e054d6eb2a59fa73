"""`anyformer list`: names and origins from package metadata, what models cost from their settings; no plugin and no
torch is imported."""

from __future__ import annotations

import argparse
import json

from anyformer import presets, registry
from anyformer.architecture import Architecture, BackboneConfig, cost, names, preset
from anyformer.registry import Registry

ROW = "{:<29} {:>10}  {:>21}  {:>14}"


def run(arguments: argparse.Namespace) -> int:
    if arguments.kind == "models":
        return _models(arguments.json)
    found = getattr(registry, arguments.kind, None)
    rows = _plugins(found) if isinstance(found, Registry) else _files(arguments.kind)
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return 0
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        print(f"{row['name']:<{width}}  {row['origin']}")
    return 0


def _plugins(found: Registry) -> list[dict[str, str]]:
    return [{"name": name, "origin": found.origin(name)} for name in found.names()]


def _files(kind: str) -> list[dict[str, str]]:
    files = sorted((presets.root() / kind).glob("*.yaml"), key=lambda file: file.stem)
    return [{"name": file.stem, "origin": str(file)} for file in files]


def _models(as_json: bool) -> int:
    models = {name: preset(name) for name in names()}
    costs = {name: _costs(model) for name, model in models.items()}
    if as_json:
        print(json.dumps([{"name": name, **figures} for name, figures in costs.items()], indent=1))
        return 0
    print(ROW.format("model", "parameters", "training FLOPs/token", "KV bytes/token"))
    for name, figures in costs.items():
        told = [cost.short(figure) if figure else "-" for figure in figures.values()]
        print(ROW.format(name, *told[:-1], told[-1] + "*" * _has_windows(models[name])))
    print("\n* A layer with a window needs to keep only the tokens that it spans.")
    return 0


def _costs(model: Architecture) -> dict[str, int]:
    return {
        "parameters": cost.parameters(model),
        "train_flops_per_token": cost.train_flops_per_token(model),
        "kv_bytes_per_token": cost.kv_bytes_per_token(model),
    }


def _has_windows(model: Architecture) -> bool:
    return isinstance(model.backbone, BackboneConfig) and model.backbone.window is not None
