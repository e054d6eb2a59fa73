"""Where the configurations live: beside the sources in a checkout, inside the package in a wheel."""

from __future__ import annotations

from pathlib import Path

from anyformer.errors import unknown

_HERE = Path(__file__).parent
ROOTS = (_HERE / "configs", _HERE.parents[1] / "configs")


def root() -> Path:
    """The folder that holds `experiments/` and `evaluations/`."""
    return next(folder for folder in ROOTS if folder.is_dir())


def find(kind: str, name: str) -> Path:
    """The YAML file of an experiment or evaluation by name."""
    files = {file.stem: file for file in sorted((root() / kind).glob("*.yaml"))}
    if name not in files:
        raise unknown(f"file in configs/{kind}", name, files)
    return files[name]
