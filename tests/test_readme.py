"""The README is the first thing a newcomer tries: its commands exist, and they work."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import corpora
import pytest

from anyformer.cli import COMMANDS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)
SHORT = ["--trainer.max_steps=2", "--data.token_budget=1100"]


def commands() -> list[str]:
    """Every `anyformer …` of the README's blocks, without comments."""
    lines = [line.split("#")[0].strip() for _, block in BLOCKS for line in block.splitlines()]
    return [part.strip() for line in lines if line.startswith("anyformer ") for part in line.split(" · ")]


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)


def test_the_readme_names_only_commands_and_files_that_exist():
    assert len(commands()) >= 8
    assert "@@" not in README, "a placeholder was left"
    for command in commands():
        assert command.split()[1] in COMMANDS, command
        for file in re.findall(r"configs/\S+\.yaml", command):
            assert (ROOT / file).is_file(), file
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert f"\n{target}:" in makefile, target


@pytest.mark.slow
def test_every_command_of_the_readme_runs(tmp_path):
    """In their order, in a fresh folder, with a run of two steps; `runs/demo` is a demo of a few seconds, and the data
    are made up."""
    from PIL import Image

    (tmp_path / "configs").symlink_to(ROOT / "configs")
    corpora.write_all(tmp_path / "data")
    Image.new("L", (32, 32), 255).save(tmp_path / "digit.png")
    anyformer = [sys.executable, "-m", "anyformer"]
    done = run([*anyformer, "demo", "--minutes", "0.2"], tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    for command in commands():
        words = shlex.split(command)[1:]
        done = run([*anyformer, *words, *(SHORT if words[0] == "fit" else [])], tmp_path)
        assert done.returncode == 0, (command, done.stderr[-2000:])


@pytest.mark.slow
def test_the_scripts_in_the_readme_run(tmp_path):
    """The one that trains, with fewer steps."""
    scripts = [block for language, block in BLOCKS if language == "python"]
    assert len(scripts) == 2 and sum("max_steps=200" in script for script in scripts) == 1
    for script in scripts:
        done = run([sys.executable, "-c", script.replace("max_steps=200", "max_steps=2")], tmp_path)
        assert done.returncode == 0, done.stderr[-2000:]
