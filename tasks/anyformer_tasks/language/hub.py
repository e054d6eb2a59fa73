"""Data sets in the hub's layout, by way of Hugging Face `datasets` (the extra `hf`)."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import Any

from anyformer_tasks.files import Found


class Unreachable(Exception):
    """A set could not be loaded, and why."""


def is_installed() -> bool:
    try:
        metadata.version("datasets")
    except metadata.PackageNotFoundError:
        return False
    return True


def load(path: str, split: str, config: str | None = None, revision: str | None = None) -> list[Found]:
    """The records of a split. path: on the hub, or a directory of files in its layout. Class numbers become names, and
    what the hub holds as a record of lists (SQuAD's answers) becomes the list of records that was published. Raises
    Unreachable."""
    table = opened(path, split, config, revision)
    features, source = table.features, f"{path} ({split})"
    return [
        Found(source, number, {name: published(value, features[name]) for name, value in row.items()}, "record")
        for number, row in enumerate(table, 1)
    ]


def opened(path: str, split: str, config: str | None = None, revision: str | None = None) -> Any:
    """A split as a `datasets.Dataset`, of which nothing is read yet. Raises Unreachable."""
    import datasets  # takes seconds

    try:
        return datasets.load_dataset(path, config, split=split, revision=revision)
    except Exception as error:  # of the network, the hub, a cache or a reader: they share no type
        reason = next(iter(str(error).splitlines()), "")
        raise Unreachable(f"{type(error).__name__}: {reason}") from error


def published(value: Any, feature: Any) -> Any:
    """A value as its file had it, by the feature that `datasets` keeps it under; None where a class is not told."""
    if hasattr(feature, "int2str"):
        return feature.int2str(value) if isinstance(value, int) and value >= 0 else None
    if isinstance(value, list):
        inner = getattr(feature, "feature", feature)
        return [published(one, inner) for one in value]
    if isinstance(value, Mapping):
        known = {name: published(one, feature[name]) for name, one in value.items()}
        if known and all(isinstance(one, list) for one in known.values()):
            return [dict(zip(known, row, strict=True)) for row in zip(*known.values(), strict=True)]
        return known
    return value
