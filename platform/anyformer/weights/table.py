"""A family's weights table: one page of data that says, in both directions, how its files map to our model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import yaml

from anyformer import presets
from anyformer.errors import WeightsError
from anyformer.weights.shape import Entry

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is ten times as fast, where it is built in
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is ten times as fast, where it is built in
LEAVES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Table:
    """configs/weights/<name>.yaml.

    matches: values (a list: one of them) or keys of a config.json by which a file of this family is known.
    like: the preset whose switches hold where the config says nothing; `architecture` is laid over it, or is the whole.
    architectures: by class name in config.json, the heads it has. requires: values that a config must have where it
    names them at all.
    config: our settings by path ← their keys. tensors: our tensors, or modules with a weight and a bias, ← theirs;
    `*` is a layer's number. copies: theirs that repeat another of theirs. unused: patterns of theirs that no forward
    reads. aliases: patterns of names in other releases, and what they became.
    template: what an exported config.json has beside the mapped keys. check: how the family's inputs and outputs are
    read (see the parity check).
    """

    name: str
    matches: Mapping[str, Any]
    config: Mapping[str, Any]
    tensors: Mapping[str, Any]
    like: str | None = None
    architecture: Mapping[str, Any] = field(default_factory=dict)
    architectures: Mapping[str, list[str]] = field(default_factory=dict)
    requires: Mapping[str, Any] = field(default_factory=dict)
    copies: Mapping[str, str] = field(default_factory=dict)
    unused: Sequence[str] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    template: Mapping[str, Any] = field(default_factory=dict)
    check: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def entries(self) -> list[tuple[re.Pattern[str], Entry]]:
        return [(_pattern(ours), Entry.of(theirs)) for ours, theirs in self.tensors.items()]

    def entry(self, ours: str) -> tuple[Entry, tuple[str, ...]] | None:
        """Where one of our tensors comes from: the entry, and the names of theirs."""
        for pattern, entry in self.entries:
            found = pattern.fullmatch(ours)
            if found is not None:
                *layers, leaf = found.groups()
                return entry, tuple(_numbered(source, layers) + (leaf or "") for source in entry.sources)
        return None

    def current_name(self, theirs: str) -> str:
        """A name of another release as this table knows it."""
        for pattern, replacement in self.aliases.items():
            theirs = re.sub(pattern, replacement, theirs)
        return theirs

    def is_unused(self, theirs: str) -> bool:
        return any(re.search(pattern, theirs) for pattern in self.unused)

    def fits(self, config: Mapping[str, Any]) -> bool:
        def holds(key: str, wanted: Any) -> bool:
            if key == "keys":
                return set(wanted) <= set(config)
            return config.get(key) in (wanted if isinstance(wanted, list) else [wanted])

        return all(holds(key, wanted) for key, wanted in self.matches.items())


def _pattern(ours: str) -> re.Pattern[str]:
    numbered = re.escape(ours).replace(r"\*", r"(\d+)")
    return re.compile(rf"{numbered}(\.(?:{'|'.join(LEAVES)}))?")


def _numbered(source: str, layers: list[str]) -> str:
    for number in layers:
        source = source.replace("*", number, 1)
    return source


@cache
def table_named(name: str) -> Table:
    """The table of a family."""
    data: dict[str, Any] = yaml.load(presets.find("weights", name).read_text(encoding="utf-8"), LOADER)
    try:
        return Table(name=name, **data)
    except TypeError as error:
        raise WeightsError(f"configs/weights/{name}.yaml is no weights table: {error}.") from error


def tables() -> Iterator[Table]:
    """Every family's."""
    for file in sorted((presets.root() / "weights").glob("*.yaml")):
        yield table_named(file.stem)


def table_for(config: Mapping[str, Any]) -> Table:
    """The table of the family that a config.json belongs to."""
    for table in tables():
        if table.fits(config):
            return table
    said = config.get("model_type") or config.get("cls") or "nothing that says"
    known = ", ".join(table.name for table in tables())
    raise WeightsError(f"No weights table fits a config of {said!r}; known families: {known}.")
