"""What pages of configs/datasets have in common, whatever their sets hold."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from anyformer import presets
from anyformer.errors import ConfigError, unknown

T = TypeVar("T")

HeldOut = Mapping[str, Mapping[str, Any]]
"""By split, of which one every n-th member is taken out for it: `{validation: {of: train, every: 10}}`."""


def read_page(
    shelf: str, name: str, settings: Collection[str], one_of: Sequence[str] = (), where: str = ""
) -> tuple[str, dict[str, Any]]:
    """A set's name and what its page says: that of this name on a shelf in configs, or the YAML file at that path.

    settings: what a page may say. one_of: of which it must say something. where: the same in words.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else presets.find(shelf, name)
    page = presets.read_mapping(path, "The data set")
    enough = page.get("origin") and (not one_of or any(map(page.get, one_of)))
    if not enough:
        raise ConfigError(f"The data set {path} does not say enough; expected `origin`, and {where}.")
    for setting in page:
        if setting not in settings:
            raise unknown(f"setting of the data set {path.stem!r}:", str(setting), settings)
    return path.stem, page


def without_held_out(split: str, held_out: HeldOut, whole: Callable[[str], list[T]]) -> list[T]:
    """A split's members: those that are taken out for it, or its own without those that are taken out of it."""
    if split in held_out:
        every = held_out[split]["every"]
        return whole(held_out[split]["of"])[every - 1 :: every]
    found = whole(split)
    for rule in held_out.values():
        if rule["of"] == split:
            found = [one for number, one in enumerate(found, 1) if number % rule["every"]]
    return found
