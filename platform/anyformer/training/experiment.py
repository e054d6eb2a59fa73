"""An experiment file as data: what `fit` reads through Lightning, for what needs no command line."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from anyformer.errors import ConfigError, unknown

SECTIONS = ("model", "data", "trainer")


@dataclass(frozen=True)
class Experiment:
    """The three sections of `configs/experiments/*.yaml`."""

    model: dict[str, Any]
    data: dict[str, Any]
    trainer: dict[str, Any]

    def changed(self, changes: Mapping[str, Any]) -> Experiment:
        """With other values at these places, `{"data.token_budget": 512}`; a place that is new is made.

        ConfigError for a place that lies in no section, or within something that is no mapping.
        """
        sections: dict[str, Any] = {name: deepcopy(getattr(self, name)) for name in SECTIONS}
        for place, value in changes.items():
            *outer, last = place.split(".")
            if not outer or outer[0] not in SECTIONS:
                raise unknown("section", outer[0] if outer else place, SECTIONS)
            there: Any = sections
            for depth, name in enumerate(outer, start=1):
                there = there.setdefault(name, {})
                if not isinstance(there, dict):
                    raise ConfigError(f"{place} cannot be set: {'.'.join(outer[:depth])} is {there!r}, no mapping.")
            there[last] = value
        return Experiment(**sections)


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
        if key not in SECTIONS:
            raise unknown("section", key, SECTIONS)
    return Experiment(*(sections.get(key) or {} for key in SECTIONS))
