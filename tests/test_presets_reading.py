"""Configurations are data: read whole, small, once, and without running or filling in anything."""

from __future__ import annotations

import os
import time

import pytest

from anyformer import presets
from anyformer.errors import ConfigError

HOSTILE = {
    "code": ("a: !!python/object/apply:os.mkdir [ran]\n", "is not YAML"),
    "name": ("a: !!python/name:os.system x\n", "is not YAML"),
    "bomb": ("a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40)), "values"),
    "loop": ("a: &a [*a]\n", "repeats itself within itself"),
    "deep": ("[" * 10_000 + "]" * 10_000, "is not YAML"),
    "nested": ("[" * 900 + "]" * 900, "is not YAML|holds a list"),
    "long number": ("a: " + "9" * 5000, "is not YAML"),
    "no date": ("a: 2001-99-99", "is not YAML"),
    "date": ("a: 2001-01-01", "a date"),
    "odd tag": ("a: !!timestamp abc", "is not YAML"),
    "bytes": ("a: !!binary aGk=", "a bytes"),
    "set": ("a: !!set {b, c}", "a set"),
    "twice": ("a: 1\nb:\n  c: 1\n  c: 2\n", "'c' is written twice"),
    "list": ("- a\n", "holds a list"),
    "nothing": ("", "holds nothing"),
    "not text": (b"\xff\xfe\x00", "is not YAML"),
    "NUL": (b"a: \x00", "is not YAML"),
    "huge": (b"#" * (presets.LARGEST + 1), "bytes"),
}


@pytest.mark.parametrize("content", HOSTILE)
def test_what_is_no_plain_yaml_is_one_typed_error(tmp_path, monkeypatch, content):
    """At once, with the file's name, and nothing was run."""
    monkeypatch.chdir(tmp_path)
    text, said = HOSTILE[content]
    file = tmp_path / "odd.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    began = time.process_time()
    with pytest.raises(ConfigError, match=said) as caught:
        presets.read_mapping(file, "The page")
    assert "odd.yaml" in str(caught.value) and len(str(caught.value)) < 700
    assert time.process_time() - began < 20, "it is no question of patience"
    assert [path.name for path in tmp_path.iterdir()] == ["odd.yaml"]


def test_a_folder_or_a_device_is_no_configuration(tmp_path):
    for path in (tmp_path, tmp_path / "none.yaml", "/dev/zero"):
        with pytest.raises(ConfigError, match="The page"):
            presets.read_mapping(tmp_path / path, "The page")


def test_no_variable_is_filled_in(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "x")
    file = tmp_path / "page.yaml"
    file.write_text("a: $SECRET\nb: ${SECRET}\nc: ${oc.env:SECRET}\nd: ~\n")
    assert presets.read_mapping(file, "The page") == {
        "a": "$SECRET", "b": "${SECRET}", "c": "${oc.env:SECRET}", "d": None
    }  # fmt: skip
    assert os.environ["SECRET"] == "x"


def test_every_configuration_of_ours_is_plain():
    """Whatever its kind; none of them writes a name twice."""
    pages = list(presets.root().rglob("*.yaml"))
    assert len(pages) > 50
    for path in pages:
        assert presets.read_mapping(path, "The page")
