"""Where a report comes from: the commit and content of the code, and the machine it ran on."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

import anyformer
from anyformer import presets


def commit() -> tuple[str | None, bool | None]:
    """The commit of the repository that holds this code (else of the current directory), and whether tracked
    files differ from it. (None, None) outside a repository, without git, or before a first commit."""
    for folder in (Path(anyformer.__file__).parent, Path.cwd()):
        head = _git(folder, "rev-parse", "--verify", "--quiet", "HEAD")
        if head:
            changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
            return head, None if changes is None else bool(changes)
    return None, None


@cache
def content() -> str:
    """Of the sources and configurations that are here, committed or not: a result of others may not be gone on with."""
    places = [(presets.root(), "*.yaml"), *((folder, "*.py") for folder in _sources())]
    files = [(folder, file) for folder, kind in places for file in sorted(folder.rglob(kind))]
    told = "".join(f"{folder.name}/{file.relative_to(folder)} {_digest(file)}\n" for folder, file in files)
    return sha256(told.encode()).hexdigest()


def _sources() -> list[Path]:
    """The packages of this distribution: the platform and its own plugins."""
    names = ("anyformer", "anyformer_tokenizers", "anyformer_tasks")
    found = [find_spec(name) for name in names]
    return [Path(spec.origin).parent for spec in found if spec is not None and spec.origin is not None]


def _digest(file: Path) -> str:
    return sha256(file.read_bytes()).hexdigest()


def machine() -> dict[str, Any]:
    """Processor, cores this process may use, accelerators and versions."""
    accelerators = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": _processor(),
        "cores": usable,
        "threads": torch.get_num_threads(),
        "accelerators": accelerators,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _processor() -> str:
    """The model's name; the standard library knows it on few systems, Linux writes it here."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
