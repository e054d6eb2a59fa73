"""`anyformer check`: a tokenizer or task against its contract, imported weights against their reference, a checkpoint
against its manifest."""

from __future__ import annotations

import argparse
from pathlib import Path

from anyformer.errors import unknown
from anyformer.registry import tasks, tokenizers


def run(arguments: argparse.Namespace) -> int:
    directories = {"weights": _weights, "checkpoint": _checkpoint}
    check = directories.get(arguments.kind)
    return _plugin(arguments) if check is None else check(arguments.name)


def _checkpoint(directory: str) -> int:
    """Every file against the manifest, and that a model can be made of them; CheckpointError says what is wrong."""
    from anyformer import checkpoint

    place = checkpoint.resolve(directory)
    checkpoint.verify(place)
    checkpoint.load(place)
    manifest = checkpoint.read_json(place / "manifest.json")
    print(f"checkpoint {place}: {len(manifest['files'])} files are as they were written, at step {manifest['step']}")
    return 0


def _weights(directory: str) -> int:
    """One line an output; 1 if any is further off than allowed."""
    from anyformer.weights.parity import check_weights

    found = check_weights(directory)
    width = max((len(one.name) for one in found), default=0)
    for one in found:
        verdict = "ok" if one.holds else "TOO FAR"
        print(f"{one.name:<{width}}  {one.difference:9.2e}  allowed {one.allowed:9.2e}  {verdict}")
    bad = [one.name for one in found if not one.holds]
    print(f"{len(found) - len(bad)} of {len(found)} outputs agree" + (f"; not: {', '.join(bad)}" if bad else ""))
    return 1 if bad or not found else 0


def _plugin(arguments: argparse.Namespace) -> int:
    from anyformer.testing import check_task, check_tokenizer

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
    from anyformer.training.data import MIXING
    from anyformer.training.experiment import read

    entries = read(Path(config)).data.get(section) or {}
    if name not in entries:
        raise unknown(f"entry of {section} in {config}:", name, entries)
    return {key: value for key, value in (entries[name] or {}).items() if key == "type" or key not in MIXING}
