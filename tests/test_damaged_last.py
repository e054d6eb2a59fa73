"""A run whose newest checkpoint is damaged may be killed at its next save: the sound one before it is never lost."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from anyformer import checkpoint
from anyformer.chaos import saves
from anyformer.chaos.tiny import Process


def damaged(folder: Path) -> None:
    """Steps 1 and 2 are saved, and what holds step 2 rots."""
    for step in (1, 2):
        saves.write(folder, step)
    file = folder / "last" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")


@pytest.mark.parametrize("call", range(1, 16))
def test_a_kill_at_the_next_save_leaves_a_sound_one(tmp_path, call):
    """At each call that writes, syncs or renames: step 1 until step 3 is there, and nothing unreadable is loaded."""
    damaged(tmp_path)

    def save() -> None:
        saves._die_at(call)
        saves.write(tmp_path, 3)

    status = Process.forked(save).wait()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the damaged one is passed over
        found = saves.read(checkpoint.sound(tmp_path))
    assert found in ((1, 3) if status else (3,))


def test_the_damaged_one_makes_way_for_the_next(tmp_path):
    """Afterwards two are kept, and both are sound."""
    damaged(tmp_path)
    saves.write(tmp_path, 3)
    assert {path.name: saves.read(path) for path in tmp_path.iterdir()} == {"last": 3, ".previous-last": 1}
