"""Damaged checkpoints: whatever was done to one, it is one typed error that names the place, or it changed nothing."""

from __future__ import annotations

import json
import os
import resource
import warnings
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import torch

from anyformer import checkpoint
from anyformer.chaos.mutants import edited_json, mutated
from anyformer.chaos.trial import Outcome, chance
from anyformer.errors import CheckpointError
from anyformer.model import Model
from anyformer.registry import tokenizers

CASES = 100
MEMORY = 400 * 2**20  # bytes that a trial may take beyond what it began with


def run(index: int, folder: Path) -> Outcome:
    """One checkpoint, damaged in a hundred ways, one after the other."""
    rng, place = chance("damaged-checkpoints", index), folder / "model"
    warnings.simplefilter("ignore")
    written = small(place)
    before, kinds = resident(), Counter[str]()
    for case in range(CASES):
        with restored(place, written):
            kind = KINDS[rng.randrange(len(KINDS))]
            told = _damaged(place, kind, rng)
            kinds[kind] += 1
            failure = _failure(place, written, kind)
        if failure:
            return Outcome(f"case {case}, {kind} ({told}): {failure}")
    if resident() - before > MEMORY:
        return Outcome(f"took {(resident() - before) >> 20} MB")
    return Outcome(notes=kinds)


def small(place: Path) -> dict[str, bytes]:
    """A checkpoint of a small model and of a trainer's state; its files by name."""
    text = tokenizers.create("characters", {"name": "characters"})
    text.fit(["seven quick brown foxes"])
    model = Model({"characters": text}, {"dim": 16, "heads": 2, "depth": 1}, ["characters"])
    state = {
        "optimizer_states": [{"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(16, 4)}}}],
        "loops": {"fit_loop": {"ready": 3, "path": (1, [2.5, None, True])}},
    }
    files = checkpoint.tokenizer_files(model.tokenizers)
    checkpoint.write(place, model.state_dict(), checkpoint.describe(model), files, state, step=3)
    return contents(place)


def contents(place: Path) -> dict[str, bytes]:
    return {str(file.relative_to(place)): file.read_bytes() for file in sorted(place.rglob("*")) if file.is_file()}


@contextmanager
def restored(place: Path, written: dict[str, bytes]) -> Generator[None, None, None]:
    """Afterwards the folder is as it was."""
    try:
        yield
    finally:
        for path in sorted(place.rglob("*"), reverse=True):
            name = str(path.relative_to(place))
            if path.is_dir() and not path.is_symlink():
                if not any(path.iterdir()):
                    path.rmdir()
            elif name not in written or path.is_symlink() or not path.is_file() or path.read_bytes() != written[name]:
                path.unlink()
        for name, content in written.items():
            if not (place / name).exists():
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                (place / name).write_bytes(content)


KINDS = (
    *("bytes",) * 6,
    *(
        "json",
        "json",
        "swapped",
        "lost",
        "folder",
        "pipe",
        "link",
        "another's",
        "more files",
        "resealed",
        "resealed json",
    ),
)


def _damaged(place: Path, kind: str, rng: Random) -> str:
    """Do it; what was done in words."""
    names = sorted(contents(place))
    name = rng.choice([n for n in names if n.endswith(".json")] if "json" in kind else names)
    file = place / name
    if kind in ("bytes", "resealed"):
        how, content = mutated(file.read_bytes(), rng)
        file.write_bytes(content)
        name = f"{name} {how}"
    elif kind in ("json", "resealed json"):
        file.write_bytes(edited_json(file.read_bytes(), rng))
    elif kind == "swapped":
        other = place / rng.choice([n for n in names if n != name])
        first, second = file.read_bytes(), other.read_bytes()
        file.write_bytes(second)
        other.write_bytes(first)
    elif kind == "more files":
        (place / rng.choice(["", "tokenizers", "tokenizers/characters"]) / "more.json").write_bytes(b"[]")
    else:
        _put(file, kind)
    if kind.startswith("resealed"):
        _reseal(place)
    return name


def _put(file: Path, kind: str) -> None:
    """Something else where the file was."""
    content = file.read_bytes()
    file.unlink()
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "link":
        file.symlink_to(os.devnull)
    elif kind == "another's":
        file.write_bytes(content.replace(b"1", b"2") + b" ")


def _reseal(place: Path) -> None:
    """Let the manifest vouch for the change, as somebody with bad intentions would."""
    try:
        manifest = json.loads((place / "manifest.json").read_bytes())
        for name in manifest["files"]:
            data = (place / name).read_bytes()
            manifest["files"][name] = {"sha256": checkpoint.content.sha256(data), "bytes": len(data)}
        manifest["sha256"] = checkpoint.content.own_digest(manifest)
        (place / "manifest.json").write_text(json.dumps(manifest))
    except (ValueError, KeyError, TypeError, OSError, AttributeError):
        return  # it was the manifest that was damaged


def _failure(place: Path, written: dict[str, bytes], kind: str) -> str:
    """What is wrong with how the damage was met; empty if nothing is."""
    for read in (checkpoint.load, checkpoint.read_trainer):
        try:
            read(place)
        except CheckpointError as error:
            if str(place) not in str(error):
                return f"{read.__name__} does not name the place: {error}"
        except Exception as error:
            return f"{read.__name__} raised {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        else:
            changed = [name for name, content in written.items() if not _same(place / name, name, content)]
            if changed and not kind.startswith("resealed"):
                return f"{read.__name__} did not notice that {', '.join(changed)} changed"
    return ""


def _same(file: Path, name: str, content: bytes) -> bool:
    """Whether a file still says what it said; blanks of the manifest say nothing."""
    if not file.is_file():
        return False
    found = file.read_bytes()
    if name != "manifest.json" or found == content:
        return found == content
    try:
        return json.loads(found) == json.loads(content)
    except ValueError:
        return False


def resident() -> int:
    """The most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
