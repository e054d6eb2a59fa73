"""`anyformer convert`: published weights into a checkpoint of ours, or a checkpoint of ours into a published layout."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from anyformer.checkpoint import load, save
from anyformer.errors import ConfigError
from anyformer.model import Model
from anyformer.weights import at_grid, from_pretrained, to_pretrained


def run(arguments: argparse.Namespace) -> int:
    source = Path(arguments.source)
    if (source / "manifest.json").is_file() or (source / "last" / "manifest.json").is_file():
        to_pretrained(_resized(load(source), arguments.grid), arguments.target, arguments.family)
        print(f"{arguments.target}: config.json and model.safetensors in the layout of its family")
    else:
        save(_resized(from_pretrained(arguments.source), arguments.grid), arguments.target)
        print(f"{arguments.target}: a checkpoint; try `anyformer generate --checkpoint {arguments.target}`")
    return 0


def _resized(model: Model, grid: str | None) -> Model:
    """At another resolution, if one was given."""
    if grid is None:
        return model
    sides = re.fullmatch(r"(\d+)x(\d+)", grid)
    if sides is None:
        raise ConfigError(f"--grid is {grid!r}; expected the patches of a picture, rows by columns, such as 24x24.")
    return at_grid(model, int(sides[1]), int(sides[2]))
