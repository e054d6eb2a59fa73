"""What is in the repository works on any machine and names no particular one."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FORBIDDEN = {
    "a package registry's host": re.compile(r"pypi\.org|pythonhosted\.org|download\.pytorch\.org|conda\.anaconda"),
    "a path of one machine": re.compile(r"(?<![\w./])/(work|root|home|mnt)/"),
    "a package cache of one machine": re.compile(r"find-links|extra-index|index-url", re.IGNORECASE),
}
SETTINGS = ("Makefile", "pyproject.toml", ".pre-commit-config.yaml", "LICENSE", "README.md", ".ci/run")


def texts() -> list[tuple[Path, str]]:
    """Every text file that is, or would be, committed."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    found = []
    for name in filter(None, listed.stdout.split("\0")):
        try:
            found.append((Path(name), (ROOT / name).read_text(encoding="utf-8")))
        except (UnicodeDecodeError, FileNotFoundError):
            continue
    return found


def test_no_file_names_a_machine_or_a_registry():
    files = [(path, text) for path, text in texts() if path != Path("tests/test_repository.py")]
    assert len(files) > 50
    for path, text in files:
        for what, pattern in FORBIDDEN.items():
            found = pattern.search(text)
            assert not found, f"{path} names {what}: {found and text[found.start() - 40 : found.end() + 40]!r}"


@pytest.mark.parametrize("lock", ["uv.lock", "poetry.lock", "pdm.lock", "pylock.toml"])
def test_there_is_no_lock_file(lock):
    """It would record where one machine downloaded from."""
    assert not (ROOT / lock).exists()


@pytest.mark.parametrize("name", SETTINGS)
def test_the_repository_is_whole(name):
    assert (ROOT / name).is_file()


def test_the_licence_is_the_one_that_the_package_names():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "Apache-2.0" in str(project["license"])
    assert "Apache License\n                           Version 2.0" in (ROOT / "LICENSE").read_text()


def test_make_explains_itself():
    """`make` alone lists every target that people use."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    said = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [line.split()[1] for line in said.splitlines()] == [
        "help",
        "setup",
        "demo",
        "test",
        "lint",
        "bench",
    ]


def test_an_old_python_is_named_in_one_sentence(tmp_path):
    """And an environment that works is left alone."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    old = tmp_path / "python3.9"
    old.write_text('#!/bin/sh\nif [ "$1" = --version ]; then echo Python 3.9.1; else exit 1; fi\n')
    old.chmod(0o755)
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/kept").touch()
    done = subprocess.run(["make", "setup", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "needs Python 3.11 or newer" in done.stderr and "is Python 3.9.1" in done.stderr
    assert (tmp_path / ".venv/kept").exists()


def test_ci_runs_the_tests_and_passes_their_status_on(tmp_path):
    """A stand-in for make records what it is asked for and fails where it is told to."""
    script = ROOT / ".ci/run"
    assert script.stat().st_mode & stat.S_IXUSR
    (tmp_path / "make").write_text('#!/bin/sh\necho "made $1"\n[ "$1" != "$FAILS" ]\n')
    (tmp_path / "make").chmod(0o755)

    def run(fails: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "FAILS": fails}
        return subprocess.run([str(script)], env=environment, capture_output=True, text=True)

    assert run("").returncode == 0
    assert run("test").returncode != 0
    assert run("lint").returncode != 0 and run("lint").stdout.split()[-1] == "test", "tests run all the same"
