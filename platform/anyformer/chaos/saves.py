"""kill -9 and full disks inside a save."""

from __future__ import annotations

import errno
import os
import re
import signal
from pathlib import Path
from typing import Any

import torch

from anyformer import checkpoint
from anyformer.chaos.tiny import Process
from anyformer.chaos.trial import Outcome, chance
from anyformer.checkpoint import directory
from anyformer.errors import CheckpointError

ELSEWHERE = Path("/dev/shm")
SIZE = 2**19  # values in the tensor of each checkpoint
CONFIG = {"model": {}, "tokenizers": {}}


def write(folder: Path, step: int) -> None:
    """A checkpoint of a run whose every value is its step."""
    values = torch.full((SIZE,), float(step))
    checkpoint.write(folder / "last", {"weight": values}, CONFIG, {}, {"step": step, "more": values}, step)


def read(path: Path) -> int:
    """The step of a checkpoint that is whole and of one piece; CheckpointError if it is not."""
    checkpoint.verify(path)
    state, weights = checkpoint.trainer_of(path)
    found = {state["step"], *weights["weight"].unique().tolist(), *state["more"].unique().tolist()}
    if len(found) != 1:
        raise CheckpointError(f"{path}: holds values of steps {sorted(found)}.")
    return int(state["step"])


def kills(index: int, folder: Path) -> Outcome:
    """Killed between two saves, or inside one, at a call chosen by chance or at any time."""
    rng = chance("saves", index)
    other = index % 5 == 0 and ELSEWHERE.is_dir()
    notes = {"temporary directory": "on another file system" if other else "on the same"}
    first, at = rng.randrange(1, 4), rng.randrange(1, 13)

    def save() -> None:
        if other:
            os.environ["TMPDIR"] = str(ELSEWHERE)
        for step in range(1, first):
            write(folder, step)
        _die_at(at)
        for step in range(first, first + 5):
            (folder / "reached").write_text(str(step))
            write(folder, step)

    before = set(ELSEWHERE.iterdir()) if other else set()
    status = Process.forked(save).wait()
    if status != -signal.SIGKILL:
        return Outcome(f"The process ended with {status}.", notes)
    reached = int((folder / "reached").read_text())
    committed = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".tmp-")]
    try:
        steps = {path.name: read(path) for path in committed}
    except CheckpointError as error:
        return Outcome(f"Under a committed name: {error}", notes)
    newest = max(steps.values(), default=0)
    left = [path for path in folder.iterdir() if path.name.startswith(".tmp-")]
    notes["left over"] = str(len(left))
    if newest not in (reached, reached - 1):
        return Outcome(f"Killed while it saved step {reached}; the newest checkpoint is of step {newest}.", notes)
    if len(left) > 1 or (other and set(ELSEWHERE.iterdir()) - before):
        return Outcome(f"It left {[path.name for path in left]} behind.", notes)
    if newest and read(checkpoint.sound(folder)) != newest:
        return Outcome(f"Loading does not find step {newest}.", notes)
    checkpoint.sweep(folder)
    if any(path.name.startswith(".tmp-") for path in folder.iterdir()):
        return Outcome("The next start leaves what was left over.", notes)
    write(folder, reached)
    return Outcome("" if read(folder / "last") == reached else "The next save is not what is loaded.", notes)


def _die_at(call: int) -> None:
    """In the `call`-th of the calls that open, sync and rename; a write of half a file is one of them."""
    left = [call]

    def counted(real: Any, half: bool = False) -> Any:
        def called(*arguments: Any, **more: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                if half:
                    Path(arguments[0]).write_bytes(b"half of a file")
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **more)

        return called

    os.fsync = counted(os.fsync)
    Path.rename = counted(Path.rename)
    vars(directory)["open"] = counted(open, half=True)


def full(index: int, folder: Path) -> Outcome:
    """The disk is full after so many bytes of the second checkpoint."""
    rng = chance("full-disk", index)
    write(folder, 1)
    size = sum(file.stat().st_size for file in (folder / "last").rglob("*") if file.is_file())
    room = [int(size * rng.random())]
    real = open

    class Full:
        """A file on a disk with so much room."""

        def __init__(self, *arguments: Any) -> None:
            self.file = real(*arguments, buffering=0)

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *rest: Any) -> None:
            self.file.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def write(self, data: bytes) -> int:
            part = data[: room[0]]
            self.file.write(part)
            room[0] -= len(part)
            if len(part) < len(data):
                raise OSError(errno.ENOSPC, "No space left on device")
            return len(data)

    vars(directory)["open"] = Full
    notes = {"room": f"{room[0] * 10 // size * 10} to {room[0] * 10 // size * 10 + 10} %"}
    try:
        write(folder, 2)
        return Outcome("The save said nothing.", notes)
    except CheckpointError as error:
        said = str(error)
    finally:
        vars(directory)["open"] = real
    if not re.search(r"last: could not .*No space left.* \d+ bytes needed, \d+ bytes free", said):
        return Outcome(f"It said: {said}", notes)
    if [path.name for path in folder.iterdir()] != ["last"] or read(folder / "last") != 1:
        return Outcome(f"Afterwards there are {sorted(path.name for path in folder.iterdir())}.", notes)
    write(folder, 2)  # once there is room
    return Outcome("" if read(folder / "last") == 2 else "The next save is not what is loaded.", notes)
