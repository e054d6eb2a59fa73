"""What to evaluate, read from YAML and checked before anything runs. The file is data, never code."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from anyformer import presets
from anyformer.contracts import SPLITS, Split
from anyformer.errors import ConfigError, PluginError, nearest, unknown
from anyformer.registry import tasks as registry

# An entry's own keys. All others are settings of the task, which can have none of these.
RESERVED = ("type", "limit", "objective", "bars")


@dataclass(frozen=True)
class Entry:
    """One task of a configuration: `type` is its name in the registry, `limit` the most samples to score, `objective`
    the one that the model was trained with, where it is not the task's default: it says what a prompt looks like. bars:
    by metric, what its value must reach at least, or at most where less is better."""

    name: str
    type: str
    limit: int | None = None
    objective: Mapping[str, Any] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    bars: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """A checked configuration. baselines: whether simpler methods are computed too. data_dir: where tasks that read
    files find them, unless a task's own settings say."""

    seed: int
    split: Split
    entries: tuple[Entry, ...]
    baselines: bool = True
    data_dir: str | None = None

    def config(self) -> dict[str, Any]:
        """The configuration that gives this plan, every default written out."""
        entries = {entry.name: asdict(entry) for entry in self.entries}
        tasks = {
            name: {
                "type": entry["type"],
                **{key: entry[key] for key in ("limit", "objective", "bars") if entry[key]},
                **entry["settings"],
            }
            for name, entry in entries.items()
        }
        where = {} if self.data_dir is None else {"data_dir": self.data_dir}
        return {"seed": self.seed, "split": self.split, "baselines": self.baselines, **where, "tasks": tasks}


def read_plan(config: Path | str | Mapping[str, Any], seed: int | None = None, data_dir: str | None = None) -> Plan:
    """The plan of a YAML file or of the mapping it would hold; `seed` and `data_dir` override what is written there.

    ConfigError names whatever is misspelt, missing or out of range, and the nearest name.
    """
    content = config if isinstance(config, Mapping) else _parsed(Path(config))
    known = ("seed", "split", "tasks", "baselines", "data_dir")
    for name in content:
        if name not in known:
            raise unknown("evaluation setting", str(name), known)
    seed = content.get("seed", 0) if seed is None else seed
    if not _whole(seed, at_least=0):
        raise ConfigError(f"The evaluation's seed is {seed!r}; expected a whole number, at least 0.")
    split = content.get("split", "test")
    if split not in SPLITS:
        raise unknown("split", str(split), SPLITS)
    baselines = content.get("baselines", True)
    if not isinstance(baselines, bool):
        raise ConfigError(f"The evaluation has baselines={baselines!r}; expected true or false.")
    listed = content.get("tasks")
    if not isinstance(listed, Mapping) or not listed:
        raise ConfigError(
            f"The evaluation's tasks are {listed!r}; expected a mapping from task names to settings, "
            "for instance `tasks: {digits: {}}`."
        )
    entries = tuple(_entry(str(name), settings) for name, settings in listed.items())
    return Plan(seed, split, entries, baselines, data_dir or content.get("data_dir"))


def _entry(name: str, settings: Any) -> Entry:
    if settings is None:
        settings = {}
    if not isinstance(settings, Mapping):
        raise ConfigError(
            f"The settings of task {name!r} are {settings!r}; expected a mapping, {{}} when there are none."
        )
    kind, limit = str(settings.get("type", name)), settings.get("limit")
    if limit is not None and not _whole(limit, at_least=1):
        raise ConfigError(f"Task {name!r} has limit={limit!r}; expected a whole number of samples, at least 1.")
    objective = settings.get("objective")
    if objective is not None and not isinstance(objective, Mapping):
        raise ConfigError(f"Task {name!r} has objective={objective!r}; expected a mapping with its type and settings.")
    bars = settings.get("bars") or {}
    if not isinstance(bars, Mapping) or not all(_number(value) for value in bars.values()):
        raise ConfigError(f"Task {name!r} has bars={bars!r}; expected a number for each of some metrics.")
    if kind not in registry.names():
        raise unknown("task", kind, registry.names())
    own = {key: settings[key] for key in settings if key not in RESERVED}
    entry = Entry(name, kind, limit, objective, own, dict(bars))
    _check_settings(entry)
    return entry


def _check_settings(entry: Entry) -> None:
    """Misspelt settings stop the job; a plugin that cannot even be imported is its task's failure, later."""
    try:
        accepted = [*inspect.signature(registry.get(entry.type)).parameters, *RESERVED]
    except PluginError:
        return
    for key in entry.settings:
        if key not in accepted:
            raise ConfigError(
                f"Task {entry.name!r} has no setting {key!r}; "
                f"expected one of: {', '.join(accepted)}.{nearest(str(key), accepted)}"
            )


def _parsed(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        beside = [other.name for other in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        raise ConfigError(
            f"The evaluation configuration {path} is no file; expected a YAML file.{nearest(path.name, beside)}"
        )
    return presets.read_mapping(path, "The evaluation configuration")


def _whole(value: Any, at_least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= at_least


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
