"""A checkpoint's tokenizers: read back, and compared with those of a run, whose pieces would get others' vectors."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anyformer.checkpoint.content import read_json
from anyformer.checkpoint.directory import sound
from anyformer.contracts import Tokenizer
from anyformer.errors import AnyformerError, CheckpointError, PluginError
from anyformer.registry import tokenizers as registry


def tokenizer_files(tokenizers: Mapping[str, Tokenizer]) -> dict[str, bytes]:
    return {f"tokenizers/{name}/{file}": data for name, t in tokenizers.items() for file, data in t.state().items()}


def load_tokenizers(path: str | Path) -> dict[str, Tokenizer]:
    """The tokenizers of a checkpoint, by name."""
    return tokenizers_of(sound(path))


def tokenizers_of(path: Path) -> dict[str, Tokenizer]:
    """Those in a directory that `sound` gave."""
    with described(path, "tokenizers"):
        entries = read_json(path / "config.json")["tokenizers"]
        return {name: _tokenizer(path, name, entry) for name, entry in entries.items()}


@contextmanager
def described(path: Path, what: str) -> Generator[None]:
    """Whatever goes wrong with what config.json says is a CheckpointError about it, but for a plugin that is broken."""
    try:
        yield
    except (CheckpointError, PluginError):
        raise
    except Exception as error:  # settings that no version wrote may break anything
        told = f"{' '.join(str(error).split()).rstrip('.')}" or type(error).__name__
        raise CheckpointError(
            f"{path}: config.json does not describe {what} ({told}). Use another checkpoint, or the version of "
            "anyformer and of its plugins that wrote this one."
        ) from error


def check_tokenizers(path: str | Path, tokenizers: Mapping[str, Tokenizer]) -> None:
    """Refuse a checkpoint whose tokenizers encode otherwise than these, saying where they differ."""
    stored = read_json(Path(path) / "config.json")["tokenizers"]
    for name in sorted({*stored, *tokenizers}):
        if name not in stored or name not in tokenizers:
            where = "the run" if name in tokenizers else "the checkpoint"
            raise CheckpointError(f"{path}: tokenizer {name!r} exists only in {where}. Use the checkpoint's own set.")
        if stored[name]["fingerprint"] != tokenizers[name].fingerprint():
            raise CheckpointError(
                f"{path}: tokenizer {name!r} differs from the one that was trained with: "
                f"{difference(Path(path), name, stored[name], tokenizers[name])}. "
                "Load the checkpoint's tokenizer instead."
            )


def difference(path: Path, name: str, theirs: Mapping[str, Any], ours: Tokenizer) -> str:
    """In what a run's tokenizer differs from the checkpoint's: settings, else streams and learned files."""
    said = _changes(theirs["config"], ours.config())
    if theirs["type"] != registry.name_of(type(ours)):
        said = [f"it was a {theirs['type']!r} and is a {registry.name_of(type(ours))!r}", *said]
    if said:
        return "; ".join(said)
    try:
        return "; ".join(changes(_tokenizer(path, name, dict(theirs)), ours))
    except AnyformerError:
        return "same settings, but its own files cannot be read any more"


def changes(before: Tokenizer, now: Tokenizer) -> list[str]:
    """In what two tokenizers differ: settings, else learned files and what these say of the streams."""
    told = _changes(before.config(), now.config())
    if told:
        return told
    one, other = before.state(), now.state()
    files = sorted(file for file in {*one, *other} if one.get(file) != other.get(file))
    told = [f"same settings, but it was fitted on other data ({', '.join(files)} differ)"]
    known = {spec.name: spec for spec in before.streams}
    for spec in now.streams:
        if spec.name in known:
            facts = [{"values": s.width, "end": s.end, **s.special} for s in (known[spec.name], spec)]
            told += [f"stream {spec.name!r}: {change}" for change in _changes(*facts)]
    return told


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    keys = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    return [f"{key} was {before.get(key)!r} and is {now.get(key)!r}" for key in keys]


def _tokenizer(path: Path, name: str, entry: dict[str, Any]) -> Tokenizer:
    tokenizer = registry.create(entry["type"], entry["config"])
    try:
        tokenizer.restore(_files(path, name))
    except AnyformerError as error:
        raise CheckpointError(f"{path}: tokenizer {name!r} cannot be restored: {error}") from error
    if tokenizer.fingerprint() != entry["fingerprint"]:
        raise CheckpointError(
            f"{path}: tokenizer {name!r} encodes otherwise than when the checkpoint was written. "
            f"Install the version of its plugin ({registry.origin(entry['type'])}) that wrote it."
        )
    return tokenizer


def _files(path: Path, name: str) -> dict[str, bytes]:
    """What the manifest lists for a tokenizer; whatever else lies there is nobody's."""
    folder = f"tokenizers/{name}/"
    listed = [file for file in read_json(path / "manifest.json")["files"] if file.startswith(folder)]
    return {file.removeprefix(folder): (path / file).read_bytes() for file in sorted(listed)}
