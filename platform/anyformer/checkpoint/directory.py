"""The directory itself: written beside its target, synced and renamed; verified, and found again after a crash."""

from __future__ import annotations

import os
import re
import shutil
import uuid
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as tensors_to
from torch import Tensor

from anyformer.checkpoint.content import (
    join,
    json_file,
    own_digest,
    read_json,
    read_tensors,
    sha256,
    split,
    weights_file,
)
from anyformer.checkpoint.download import URL, downloaded
from anyformer.errors import CheckpointError, NonFiniteError

FORMAT = 1
LAST = "last"
LEFT = re.compile(r"(old-)?[0-9a-f]{8}")  # what a crash leaves: not committed yet, or no longer


def write(
    path: str | Path,
    weights: Mapping[str, Tensor],
    config: dict[str, Any],
    files: Mapping[str, bytes],
    trainer: dict[str, Any] | None = None,
    step: int = 0,
) -> None:
    """Commit a checkpoint atomically; the one of a run (with a trainer's state) leaves the one before it beside it.

    NonFiniteError rather than a poisoned one, and CheckpointError rather than the loss of something at `path` that is
    no checkpoint, or where the disk is full.
    """
    target = Path(path).absolute()
    if target.exists() and not (target / "manifest.json").exists() and not _is_empty(target):
        raise CheckpointError(
            f"{target}: exists and is not a checkpoint, so it is not replaced. Choose a new directory."
        )
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise NonFiniteError(f"{target}: not written, because the weight {name!r} is not finite.")
    contents = {"model.safetensors": weights_file(weights), "config.json": json_file(config), **files}
    if trainer is not None:
        skeleton, tensors = split(trainer)
        contents |= {"trainer.json": json_file(skeleton), "trainer.safetensors": tensors_to(tensors)}
    for name in contents:
        if not _within(target, name):
            raise CheckpointError(f"{target}: the file {name!r} would lie outside. Rename what it is named after.")
    manifest = {
        "format": FORMAT,
        "step": step,
        "finite": True,
        "files": {n: {"sha256": sha256(data), "bytes": len(data)} for n, data in contents.items()},
    }
    manifest["sha256"] = own_digest(manifest)
    contents["manifest.json"] = json_file(manifest)
    _commit(contents, target, keep=trainer is not None)


def _commit(contents: Mapping[str, bytes], target: Path, keep: bool) -> None:
    aside = _aside(target)
    shutil.rmtree(aside, ignore_errors=True)  # what a crash left
    new = aside / uuid.uuid4().hex[:8]  # two that save to one place cannot mix their files
    try:
        for name, data in contents.items():
            write_synced(new / name, data)
        for folder in _folders(new):
            _sync(folder)
        _exchange(new, target)
        _sync(target.parent)
        if not keep:
            _discard(_previous(target), aside)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise CheckpointError(
            f"{target}: could not be written ({error.strerror}; {sum(map(len, contents.values()))} bytes needed, "
            f"{shutil.disk_usage(_existing(target)).free} bytes free). The previous checkpoint is untouched."
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _exchange(new: Path, target: Path) -> None:
    """The new one in its place and the old one as the previous one; at no moment is neither of them there. An old one
    that is damaged makes way instead: it may not take the place of the one that a reader would fall back on."""
    previous = _previous(target)
    replacing = target.exists() and not (_is_checkpoint(previous) and not _is_sound(target))
    _discard(previous if replacing else target, new.parent)
    if replacing:
        target.rename(previous)
    try:
        new.rename(target)
    except OSError:
        if replacing:
            previous.rename(target)
        raise


def _discard(path: Path, aside: Path) -> None:
    """Out of the way by one rename: what is deleted file by file would look like a damaged checkpoint meanwhile."""
    if path.exists():
        aside.mkdir(parents=True, exist_ok=True)
        path.rename(aside / f"old-{uuid.uuid4().hex[:8]}")


def remove(path: str | Path) -> None:
    """Delete a checkpoint; a crash meanwhile leaves it whole or gone."""
    path = Path(path).absolute()
    for one in (path, _previous(path)):
        _discard(one, _aside(path))
    shutil.rmtree(_aside(path), ignore_errors=True)


def sweep(folder: str | Path) -> None:
    """Delete what crashes left half-written in a run's folder."""
    for left in Path(folder).glob(".tmp-*"):
        if left.is_dir() and all(LEFT.fullmatch(part.name) for part in left.iterdir()):  # others use such names too
            shutil.rmtree(left, ignore_errors=True)


def read_trainer(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The trainer's state and the weights of a checkpoint, verified."""
    return trainer_of(sound(path))


def trainer_of(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The trainer's state and the weights in a directory that `sound` gave."""
    if not (path / "trainer.json").exists():
        raise CheckpointError(f"{path}: holds a model but no trainer state, so no run can resume from it.")
    skeleton, tensors = read_json(path / "trainer.json"), read_tensors(path / "trainer.safetensors")
    try:
        state = join(skeleton, tensors)
        if not isinstance(state, dict):
            raise TypeError("it is no mapping")
        return state, read_tensors(path / "model.safetensors")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: trainer.json does not describe a trainer's state ({error}).") from error


def resolve(path: str | Path) -> Path:
    """The checkpoint directory meant by `path`: itself, its `last`, or what a crash left of it, with a warning. What a
    URL means is downloaded first."""
    path = downloaded(str(path)) if URL.match(str(path)) else Path(path)
    for candidate in (path, path / LAST):
        if _is_checkpoint(candidate):
            return candidate
        if _is_checkpoint(_previous(candidate)):
            warnings.warn(f"{candidate} is missing; {_named(_previous(candidate))} is used instead.", stacklevel=2)
            return _previous(candidate)
    if path.is_dir():
        raise CheckpointError(f"{path}: not a checkpoint: it has no manifest.json, nor has a `last` inside it.")
    raise CheckpointError(f"{path}: no such checkpoint directory.")


def sound(path: str | Path) -> Path:
    """The verified checkpoint meant by `path`. Where that is damaged, the newest sound one beside it, with a warning
    that names both: the one before it and, for a run's `last`, any other of the run. CheckpointError if there is none.
    """
    meant = resolve(path)
    try:
        verify(meant)
        return meant
    except CheckpointError as error:
        other = next(filter(_is_sound, _others(meant)), None)
        if other is None:
            raise
        warnings.warn(f"{error} {_named(other)} is used instead.", stacklevel=2)
        return other


def _others(damaged: Path) -> list[Path]:
    """What may stand for a damaged checkpoint, the newest first."""
    here = damaged.absolute()
    of_the_run = here.name in (LAST, _previous(Path(LAST)).name)
    beside = [p for p in here.parent.iterdir() if of_the_run or p == _previous(here)]
    return sorted((p for p in beside if p != here and _is_checkpoint(p)), key=lambda p: (-_step(p), p.name))


def _step(path: Path) -> int:
    """As its manifest says; -1 if that cannot be read."""
    try:
        return int(read_json(path / "manifest.json")["step"])
    except (CheckpointError, KeyError, TypeError, ValueError):
        return -1


def _named(path: Path) -> str:
    return f"{path} (step {_step(path)})"


def _is_sound(path: Path) -> bool:
    try:
        verify(path)
    except CheckpointError:
        return False
    return True


def verify(path: Path) -> None:
    """Compare every file with the manifest, and the manifest with itself."""
    files = _manifest(path).get("files")
    if not isinstance(files, dict) or not all(
        isinstance(of, dict) and type(of.get("sha256")) is str for of in files.values()
    ):
        raise CheckpointError(f"{path}: manifest.json does not list its files. Use another checkpoint of the run.")
    for name, expected in files.items():
        file = path / name
        if not _within(path, name):
            raise CheckpointError(f"{path}: the manifest names {name!r}, which lies outside the checkpoint.")
        if not file.is_file():
            raise CheckpointError(f"{path}: {name} is missing. Use another checkpoint of the run.")
        found = sha256(file.read_bytes())
        if found != expected["sha256"]:
            raise CheckpointError(
                f"{path}: {name} is damaged: expected sha256 {expected['sha256'][:12]}…, "
                f"found {found[:12]}…. Use another checkpoint of the run."
            )


def _manifest(path: Path) -> dict[str, Any]:
    if not _within(path, "manifest.json"):
        raise CheckpointError(f"{path}: its manifest.json is a link that leads outside the checkpoint.")
    manifest = read_json(path / "manifest.json")
    if not isinstance(manifest, dict) or manifest.get("sha256") != own_digest(manifest):
        raise CheckpointError(f"{path}: manifest.json is damaged. Use another checkpoint of the run.")
    if manifest.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: has format {manifest.get('format')}; expected {FORMAT}. Read it with the version that wrote it."
        )
    return manifest


def _within(path: Path, name: str) -> bool:
    """Whether a name means something inside, links followed, and is one that a file may have."""
    try:
        (path / name).lstat()
    except FileNotFoundError:
        pass
    except (OSError, ValueError):
        return False
    try:
        return (path / name).resolve().is_relative_to(path.resolve())
    except (OSError, RuntimeError):  # links in a circle
        return False


def _is_checkpoint(path: Path) -> bool:
    return (path / "manifest.json").exists()


def _previous(path: Path) -> Path:
    return path.parent / f".previous-{path.name}"


def _aside(path: Path) -> Path:
    """Beside the target, so on its file system: the one folder that holds what is not committed, or no longer."""
    return path.parent / f".tmp-{path.name}"


def write_synced(file: Path, data: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())


def _folders(root: Path) -> Iterator[Path]:
    yield from (folder for folder in root.rglob("*") if folder.is_dir())
    yield root


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _existing(path: Path) -> Path:
    return next(p for p in (path, *path.absolute().parents) if p.exists())
