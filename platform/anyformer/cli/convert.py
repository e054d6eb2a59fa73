"""`anyformer convert`: published weights into a checkpoint of ours, or a checkpoint of ours into a published layout."""

from __future__ import annotations

import argparse
from pathlib import Path

from anyformer.checkpoint import load, save
from anyformer.weights import from_pretrained, to_pretrained


def run(arguments: argparse.Namespace) -> int:
    source = Path(arguments.source)
    if (source / "manifest.json").is_file() or (source / "last" / "manifest.json").is_file():
        to_pretrained(load(source), arguments.target, arguments.family)
        print(f"{arguments.target}: config.json and model.safetensors in the layout of its family")
    else:
        save(from_pretrained(arguments.source), arguments.target)
        print(f"{arguments.target}: a checkpoint; try `anyformer generate --checkpoint {arguments.target}`")
    return 0
