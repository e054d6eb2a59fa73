"""`anyformer check`: a tokenizer or task against its contract."""

from __future__ import annotations

import argparse
from pathlib import Path

from anyformer.cli.experiment import read
from anyformer.errors import unknown
from anyformer.registry import tasks, tokenizers
from anyformer.testing import check_task, check_tokenizer
from anyformer.training.data import MIXING


def run(arguments: argparse.Namespace) -> int:
    registry = tokenizers if arguments.kind == "tokenizer" else tasks
    settings = _settings(arguments.config, registry.kind + "s", arguments.name) if arguments.config else {}
    kind = settings.pop("type", arguments.name)
    plugin = registry.create(kind, settings)
    if arguments.kind == "tokenizer":
        check_tokenizer(plugin)
    else:
        check_task(plugin, name=arguments.name)
    print(f"{arguments.kind} {arguments.name}: keeps its contract ({registry.origin(kind)})")
    return 0


def _settings(config: str, section: str, name: str) -> dict:
    """An experiment's settings of the plugin itself, without what the mixture reads."""
    entries = read(Path(config)).data.get(section) or {}
    if name not in entries:
        raise unknown(f"entry of {section} in {config}:", name, entries)
    return {key: value for key, value in (entries[name] or {}).items() if key == "type" or key not in MIXING}
