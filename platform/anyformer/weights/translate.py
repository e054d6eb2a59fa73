"""A published config.json as an architecture, and back."""

from __future__ import annotations

import copy
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from anyformer.architecture import Architecture, BackboneConfig, StackConfig, differences, preset
from anyformer.errors import AnyformerError, WeightsError
from anyformer.weights.conversions import ABSENT, CONVERSIONS, VALUES, Config
from anyformer.weights.table import Table

UNWRITTEN = ("training", "cost")
"""Groups of differences that no tensor and no logit shows: a config.json may leave them out."""


def architecture_of(table: Table, config: Config) -> Architecture:
    """The architecture that a config.json of this family describes."""
    for key, wanted in table.requires.items():
        if key in config and config[key] not in (wanted if isinstance(wanted, list) else [wanted]):
            raise WeightsError(
                f"{table.name} weights with {key}={config[key]!r} are not built here; expected {wanted!r}."
            )
    config = {**table.defaults, **config}
    data = _laid_over(preset(table.like).as_json() if table.like else {}, table.architecture)
    data["family"] = table.family or table.name
    data["backbone"].pop("memory_dim", None)  # follows from the encoder
    with _reading(table):
        for path, expression in table.config.items():
            value = _value(expression, config)
            if value is not ABSENT:
                _put(data, path, value)
        return Architecture.of(data, f"{table.name} config")


@contextmanager
def _reading(table: Table) -> Generator[None]:
    """Values that are not what their keys are for: text in the place of a number, a list of the wrong length."""
    try:
        yield
    except AnyformerError:
        raise
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        raise WeightsError(
            f"A value in the config of the {table.name} model is none for its key ({type(error).__name__}: {error})."
        ) from error


def heads_of(table: Table, config: Config) -> list[str]:
    """The heads that the class named in a config.json has."""
    classes = config.get("architectures") or []
    return next((table.architectures[name] for name in classes if name in table.architectures), [])


def config_of(table: Table, architecture: Architecture, known: Config | None = None) -> dict[str, Any]:
    """A config.json of this family for an architecture. Of `known`, the one that a model came with, what means the
    same stays as it is; a new one says everything."""
    if known is None:
        data = _explicit(architecture)
        config, changed = _template(table, data), list(table.config)
    else:
        said = architecture_of(table, known)
        architecture = _tied_as(said, architecture)
        data, before, config = _explicit(architecture), _explicit(said), copy.deepcopy(dict(known))
        changed = [path for path in table.config if _get(before, path) != _get(data, path)]
    written: dict[str, Any] = {}
    for path in changed:
        if _get(data, path) is not ABSENT:
            written = {**_theirs(table.config[path], _get(data, path), data), **written}  # a key's first meaning counts
    config |= written
    _check(table, architecture, config)
    return config


def _check(table: Table, architecture: Architecture, config: Config) -> None:
    """What was written must be read as what was meant."""
    again = architecture_of(table, config)
    heads = {name: head for name, head in again.heads.items() if name in architecture.heads}
    streams = {name: stream for name, stream in again.streams.items() if name in architecture.streams}
    again = replace(again, heads=heads, streams=streams, context=architecture.context)
    wrong = [str(d) for d in differences(architecture, again) if d.group not in UNWRITTEN]
    if wrong:
        raise WeightsError(f"{table.name} files cannot say this architecture; they would change {'; '.join(wrong)}.")


def _template(table: Table, data: dict[str, Any]) -> dict[str, Any]:
    """What a new config.json begins with."""
    config = {key: _followed(value, data) for key, value in table.template.items()}
    if table.architectures:
        have = set(data["heads"])
        fitting = [name for name, heads in table.architectures.items() if set(heads) == have]
        config["architectures"] = fitting[:1] or list(table.architectures)[:1]
    return config


def _followed(value: Any, data: dict[str, Any]) -> Any:
    """A key's value, or one that is so much more than a setting of ours."""
    if not isinstance(value, Mapping):
        return copy.deepcopy(value)
    ours = _get(data, value["path"])
    return None if ours is None or ours is ABSENT else ours + value["plus"]


def _tied_as(said: Architecture, architecture: Architecture) -> Architecture:
    """Where a config says tied and the file has a tensor of its own, the tensor counts and the config stays."""
    heads = {
        name: replace(head, tie=said.heads[name].tie) if name in said.heads and not head.tie else head
        for name, head in architecture.heads.items()
    }
    return replace(architecture, heads=heads)


def _explicit(architecture: Architecture) -> dict[str, Any]:
    """As plain data, with the sizes said that follow from others."""
    encoder = architecture.encoder
    stacks = {"backbone": _sized(architecture.backbone), "encoder": None if encoder is None else _sized(encoder)}
    return replace(architecture, **stacks).as_json()


def _sized(stack: StackConfig) -> StackConfig:
    if not isinstance(stack, BackboneConfig):
        return stack
    return replace(
        stack, hidden=stack.hidden_width, kv_heads=stack.key_heads, head_dim=stack.head_width,
        embed_dim=stack.embed_width,
        final_norm_eps=stack.norm_eps if stack.final_norm_eps is None else stack.final_norm_eps,
    )  # fmt: skip


def _value(expression: Any, config: Config) -> Any:
    """One of our settings, by what their config says."""
    if isinstance(expression, str):
        return config.get(expression, ABSENT)
    if "constant" in expression:
        return expression["constant"]
    if "by" in expression:
        return CONVERSIONS[expression["by"]].ours(config, expression)
    keys = expression["from"] if isinstance(expression["from"], list) else [expression["from"]]
    value = next((config[key] for key in keys if config.get(key) is not None), config.get(keys[-1], ABSENT))
    if value is ABSENT or "values" not in expression:
        return value
    values = expression["values"]
    values = VALUES[values] if isinstance(values, str) else values
    if value not in values:
        raise WeightsError(f"{keys[0]}={value!r} is not built here; expected one of {list(values)}.")
    return values[value]


def _theirs(expression: Any, wanted: Any, architecture: dict[str, Any]) -> dict[str, Any]:
    """Their keys for one of our settings; none where no value means it, which `_check` will notice."""
    if isinstance(expression, str):
        return {expression: wanted}
    if "constant" in expression:
        return {}
    if "by" in expression:
        return CONVERSIONS[expression["by"]].theirs(wanted, architecture, expression)
    key = expression["from"] if isinstance(expression["from"], str) else expression["from"][0]
    if "values" not in expression:
        return {key: wanted}
    values = expression["values"]
    values = VALUES[values] if isinstance(values, str) else values
    return next(({key: theirs} for theirs, ours in values.items() if ours == wanted), {})


def _laid_over(data: Any, changes: Mapping[str, Any]) -> dict[str, Any]:
    data = dict(data)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(data.get(key), Mapping)
        data[key] = _laid_over(data[key], value) if both else copy.deepcopy(value)
    return data


def _put(data: dict[str, Any], path: str, value: Any) -> None:
    """Set what is at a path; a head or stream that the architecture does not have is none of its business."""
    *parents, last = split(path)
    for name in parents:
        if name not in data:
            return
        data = data[name]
    data[last] = value


def _get(data: Any, path: str) -> Any:
    for name in split(path):
        if data is None or name not in data:
            return ABSENT
        data = data[name]
    return data


def split(path: str) -> list[str]:
    """A path's names; a stream whose own name has a dot is written with a slash: `streams.text/segment.vocab_size`."""
    return [name.replace("/", ".") for name in path.split(".")]
