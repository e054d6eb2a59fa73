"""An experiment file as data: what `fit` reads through Lightning, for commands that need no command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from anyformer.errors import ConfigError, unknown


@dataclass(frozen=True)
class Experiment:
    """The three sections of `configs/experiments/*.yaml`."""

    model: dict[str, Any]
    data: dict[str, Any]
    trainer: dict[str, Any]


def read(path: Path) -> Experiment:
    """Plain values only; ConfigError names an unreadable file or an unknown section."""
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML ({error}).") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected the sections model, data and trainer.")
    sections = {key: value for key, value in content.items() if key != "seed_everything"}
    for key in sections:
        if key not in ("model", "data", "trainer"):
            raise unknown("section", key, ("model", "data", "trainer"))
    return Experiment(*(sections.get(key) or {} for key in ("model", "data", "trainer")))
