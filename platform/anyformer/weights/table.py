"""A family's weights table: one page of data that says, in both directions, how its files map to our model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

from torch import Tensor

from anyformer import presets
from anyformer.errors import WeightsError, nearest
from anyformer.weights.shape import Entry

LEAVES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
ENTRY_BY_ENTRY = ("defaults", "config", "tensors")


@dataclass(frozen=True)
class Table:
    """configs/weights/<name>.yaml.

    base: another table, over which this one is laid: defaults, config and tensors entry by entry, the rest as a whole.
    matches: values (a list: one of them) or keys of a config.json by which a file of this family is known.
    like: the preset whose switches hold where the config says nothing; `architecture` is laid over it, or is the whole.
    architectures: by class name in config.json, the heads it has. requires: values that a config must have where it
    names them at all. defaults: what the family's own class takes where a config says nothing. sizes: keys that no
    config says, or not reliably, by the tensor that shows them: `[name, axis]`, or `[name with *]`, how many there are.
    config: our settings by path ← their keys. tensors: our tensors, or modules with a weight and a bias, ← theirs;
    `*` is a layer's number. copies: theirs that repeat another of theirs. unused: patterns of theirs that no forward
    reads. filler: theirs that no forward reads and yet their library expects, by shape; new files have ones there.
    aliases: patterns of names in other releases, and what they became.
    template: what a new config.json has beside the mapped keys; `{path: of ours, plus: n}` follows from our settings.
    family: the table for models whose origin is forgotten, where this one cannot write a config of its own.
    check: how the family's inputs and outputs are read (see the parity check).
    """

    name: str
    matches: Mapping[str, Any]
    config: Mapping[str, Any]
    tensors: Mapping[str, Any]
    base: str | None = None
    like: str | None = None
    architecture: Mapping[str, Any] = field(default_factory=dict)
    architectures: Mapping[str, list[str]] = field(default_factory=dict)
    requires: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    sizes: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    copies: Mapping[str, str] = field(default_factory=dict)
    unused: Sequence[str] = ()
    filler: Mapping[str, Sequence[str | int]] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    template: Mapping[str, Any] = field(default_factory=dict)
    family: str | None = None
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

    def shown(self, tensors: Mapping[str, Tensor]) -> dict[str, int]:
        """The keys of `sizes` that these tensors show."""
        found = {}
        for key, (name, *axis) in self.sizes.items():
            if not axis:
                found[key] = sum(_pattern(name).fullmatch(theirs) is not None for theirs in tensors)
            elif name in tensors and tensors[name].ndim > axis[0]:
                found[key] = tensors[name].shape[axis[0]]
        return found


def _pattern(name: str) -> re.Pattern[str]:
    numbered = re.escape(name).replace(r"\*", r"(\d+)")
    return re.compile(rf"{numbered}(\.(?:{'|'.join(LEAVES)}))?")


def _numbered(source: str, layers: list[str]) -> str:
    for number in layers:
        source = source.replace("*", number, 1)
    return source


@cache
def table_named(name: str) -> Table:
    """The table of a family."""
    try:
        return Table(name=name, **_page(name))
    except TypeError as error:
        raise WeightsError(f"configs/weights/{name}.yaml is no weights table: {error}.") from error


def _page(name: str) -> dict[str, Any]:
    """A table's file, laid over its base."""
    page = presets.read_mapping(presets.find("weights", name), "The weights table")
    if "base" not in page:
        return page
    base = _page(page["base"])
    together = {key: {**base.get(key, {}), **page.get(key, {})} for key in ENTRY_BY_ENTRY}
    return {**base, **page, **together}


def tables() -> Iterator[Table]:
    """Every family's."""
    for file in sorted((presets.root() / "weights").glob("*.yaml")):
        yield table_named(file.stem)


def table_for(config: Mapping[str, Any]) -> Table:
    """The table of the family that a config.json belongs to."""
    for table in tables():
        if table.fits(config):
            return table
    said = str(config.get("model_type") or config.get("cls") or "nothing that says")
    known = [table.name for table in tables()]
    raise WeightsError(
        f"No weights table fits a config of {said!r}; known families: {', '.join(known)}.{nearest(said, known)}"
    )
