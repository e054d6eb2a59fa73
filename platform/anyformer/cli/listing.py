"""`anyformer list`: names and origins, from package metadata alone; nothing is imported."""

from __future__ import annotations

import argparse
import json

from anyformer import presets, registry
from anyformer.registry import Registry


def run(arguments: argparse.Namespace) -> int:
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
    files = sorted((presets.root() / kind).glob("*.yaml"))
    return [{"name": file.stem, "origin": str(file)} for file in files]
