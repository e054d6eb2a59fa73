"""`anyformer study`: a published question put to a checkpoint, or to data alone."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

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
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"The study's settings {path} cannot be read ({reason}); expected a YAML file.") from error
    if not isinstance(content, Mapping):
        raise ConfigError(f"{path} holds {type(content).__name__}; expected a mapping of the study's settings.")
    return content


def _given(pairs: Sequence[str]) -> dict[str, Any]:
    """`key=value`, the value read as YAML."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals):
            raise ConfigError(f"--set {pair}: expected KEY=VALUE, such as shots=4.")
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"--set {pair}: its value is not YAML ({reason}).") from error
    return found
