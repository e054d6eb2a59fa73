"""No release is accepted in which a file that somebody else made can run code or corrupt memory."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
BAD = {
    "torch": "2.9.1",  # CVE-2026-24747: memory corruption through weights_only; CVE-2025-32434 before 2.6
    "lightning": "2.6.5",  # hyperparameters that run code
    "transformers": "5.2.0",  # CVE-2026-4372: a config.json that fetches code
    "sentencepiece": "0.2.2",  # crashes on malformed model files
    "pillow": "12.1.0",
    "pyyaml": "5.3",  # CVE-2020-14343
    "safetensors": "0.7.0",
}


@pytest.mark.parametrize("name", BAD)
def test_a_release_with_a_known_hole_is_refused(name):
    """In every list that names the package."""
    lists = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    found = [need for needs in lists for need in map(Requirement, needs) if need.name == name]
    assert found and not any(need.specifier.contains(BAD[name]) for need in found)
