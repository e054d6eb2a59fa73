"""`anyformer study`: a published question put to a checkpoint, or to data alone."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anyformer import presets
from anyformer.checkpoint import load
from anyformer.cli.evaluate import device
from anyformer.errors import ConfigError
from anyformer.evaluation.study import study
from anyformer.registry import studies


def run(arguments: argparse.Namespace) -> int:
    studies.get(arguments.name)  # a misspelt name is told before a checkpoint is read
    settings = {**(_read(Path(arguments.config)) if arguments.config else {}), **_given(arguments.set)}
    given = arguments.checkpoint
    model = load(given, device(arguments.device)) if given else None
    report = study(arguments.name, settings, model, arguments.out, checkpoint=given)
    print(report.json() if arguments.json else report.table(), end="" if arguments.json else "\n")
    return 0


def _read(path: Path) -> Mapping[str, Any]:
    return presets.read_mapping(path, "The study")


def _given(pairs: Sequence[str]) -> dict[str, Any]:
    """`key=value`, the value read as YAML."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals):
            raise ConfigError(f"--set {pair}: expected KEY=VALUE, such as shots=4.")
        found[name] = presets.parsed(value, f"--set {pair}: its value")
    return found
