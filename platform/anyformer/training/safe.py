"""`fit --safe`: an experiment of somebody else's, held to be data before Lightning's parser sees it.

That parser imports what `class_path` names, and what is written where a class is expected. Here only sections, settings
and registry names are let through; what may be made by name is listed.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import lightning as L

from anyformer import presets
from anyformer.errors import ConfigError, unknown
from anyformer.training.data import Mixture
from anyformer.training.learner import Learner

TOP = ("seed_everything", "model", "data", "trainer", "ckpt_path", "safe")
CLASSES = (
    *("anyformer.Checkpoints", "anyformer.ProgressLines", "anyformer.TimeBudget"),
    *("lightning.pytorch.loggers.CSVLogger", "lightning.pytorch.loggers.TensorBoardLogger"),
)
"""What a safe experiment may have made for its trainer."""

MADE = ("callbacks", "logger")  # the trainer's settings that take such a class
NAMES = ("accelerator", "strategy", "profiler")  # those for which Lightning keeps a list of names
WRITTEN = ("default_root_dir", "save_dir", "dirpath", "filename", "name", "version", "sub_dir")
"""Settings that are joined to where something is written."""

FLAGS = ("--safe", "-h", "--help", "--print_config")


def require_safe(arguments: Sequence[str]) -> None:
    """ConfigError for the first thing, in the command line or a file that it names, that is not data."""
    waiting = list(arguments)
    while waiting:
        option, equals, value = waiting.pop(0).partition("=")
        if option in FLAGS or option.startswith("--print_config"):
            continue
        if not equals:
            value = waiting.pop(0) if waiting else ""
        if option in ("-c", "--config"):
            path = Path(value)
            _experiment(presets.read_mapping(path, "The experiment"), str(path))
        else:
            _option(option, value)


def _option(option: str, value: str) -> None:
    """`--trainer.max_steps=3` as the experiment {"trainer": {"max_steps": 3}}."""
    *outer, last = option.removeprefix("--").split(".")
    there: Any = {last: presets.parsed(value, option)}
    for name in reversed(outer):
        there = {name: there}
    _experiment(there, option)


def _experiment(content: Mapping[str, Any], source: str) -> None:
    for key, value in content.items():
        if key not in TOP:
            raise unknown(f"section of {source}:", str(key), TOP)
        if key in ("model", "data", "trainer") and not isinstance(value, dict):
            raise _refused(source, str(key), value, "a mapping of settings")
    _settings(Learner, content.get("model", {}), source, "model", without=("model",))
    _settings(Mixture, content.get("data", {}), source, "data")
    _settings(L.Trainer, content.get("trainer", {}), source, "trainer", without=("plugins",), made=(*MADE, *NAMES))
    _trainer(content.get("trainer", {}), source)
    _data(content.get("ckpt_path"), source, "ckpt_path")


def _settings(
    kind: type, given: Mapping[str, Any], source: str, section: str, without: Sequence[str] = (),
    made: Sequence[str] = (),
) -> None:  # fmt: skip
    """Names of settings, and values that are data; `made` are looked at by others."""
    known = [name for name in inspect.signature(kind).parameters if name not in without]
    for key, value in given.items():
        if key not in known:
            raise unknown(f"setting of {section} that --safe lets through, in {source}:", str(key), known)
        if key not in made:
            _data(value, source, f"{section}.{key}")


def _trainer(given: Mapping[str, Any], source: str) -> None:
    for key in NAMES:
        value = given.get(key)
        if value is not None and not re.fullmatch(r"[a-z0-9_]+", str(value)):
            raise _refused(source, f"trainer.{key}", value, "one of Lightning's own names")
    for key in MADE:
        value = given.get(key)
        for entry in value if isinstance(value, list) else [value]:
            _made(entry, source, f"trainer.{key}")


def _made(entry: Any, source: str, place: str) -> None:
    """A class of the list, with settings that are data."""
    if entry is None or isinstance(entry, bool):
        return
    if not isinstance(entry, dict) or entry.get("class_path") not in CLASSES or {*entry} - {"class_path", "init_args"}:
        raise _refused(source, place, entry, f"none, or `class_path` of {', '.join(CLASSES)}")
    _data(entry.get("init_args"), source, place)


def _data(value: Any, source: str, place: str) -> None:
    """Plain values, none of which names a class, a URL or a place outside to write to."""
    if isinstance(value, dict):
        for key, part in value.items():
            if key in ("class_path", "init_args", "dict_kwargs") or str(key).startswith("__"):
                raise _refused(source, f"{place}.{key}", part, "data")
            _data(part, source, f"{place}.{key}")
    elif isinstance(value, list):
        for part in value:
            _data(part, source, place)
    elif isinstance(value, str) and "://" in value:
        raise _refused(source, place, value, "a path: download it and check it first")
    elif isinstance(value, str) and place.rpartition(".")[2] in WRITTEN and not source.startswith("--"):
        path = PurePath(value)
        if path.is_absolute() or ".." in path.parts or value.startswith("~"):
            raise _refused(source, place, value, "a folder below the one you are in; give another on the command line")


def _refused(source: str, place: str, value: Any, expected: str) -> ConfigError:
    return ConfigError(
        f"{source}: --safe refuses {place}={value!r:.60}; expected {expected}. "
        "Without --safe an experiment is code: run it only if you trust it."
    )
