"""The example of a training script of one's own runs as its docstring says, with the public API alone."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys

import pytest

import anyformer as af


def test_the_script_trains_and_reports(checkout, tmp_path):
    """A few steps: progress on stderr, a checkpoint that loads without the script, a report on stdout and on disk."""
    found = subprocess.run(
        [sys.executable, checkout / "examples" / "train_script.py", "3", tmp_path / "out"],
        capture_output=True, text=True, timeout=600, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert "step 3/3" in found.stderr
    assert "sorting" in found.stdout
    model = af.load(tmp_path / "out")
    assert model.tokenizers["text"].decode(model.tokenizers["text"].encode("4 1 3")) == "4 1 3"
    assert json.loads((tmp_path / "out" / "last" / "manifest.json").read_text())["step"] == 3
    (row,) = json.loads((tmp_path / "out" / "report" / "report.json").read_text())["results"]
    assert (row["task"], row["n"]) == ("sorting", 100)
    assert 0 <= row["value"] <= 1


@pytest.mark.slow
def test_the_script_does_what_it_says(checkout, tmp_path):
    """200 steps teach the model to sort rows that it has not seen."""
    script = [sys.executable, checkout / "examples" / "train_script.py", "200", tmp_path / "out"]
    found = subprocess.run(script, capture_output=True, text=True, timeout=3000)
    assert found.returncode == 0, found.stderr
    (row,) = json.loads((tmp_path / "out" / "report" / "report.json").read_text())["results"]
    assert row["value"] > 0.95


def test_the_script_uses_the_public_names_alone(checkout):
    """What it needs is what `import anyformer as af` offers, nothing from inside."""
    tree = ast.parse((checkout / "examples" / "train_script.py").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported == {"random", "sys", "dataclasses", "typing", "lightning", "anyformer"}
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "af"
    }
    assert used
    assert used <= set(af.__all__)
