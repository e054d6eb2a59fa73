"""Finished work outlives whoever did it: every line that was added is read again, whatever happened to the last one."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import yaml

from anyformer import presets
from anyformer.errors import ConfigError
from anyformer.evaluation import provenance
from anyformer.journal import Journal, Kept


@pytest.mark.parametrize("cut", range(1, 24))
def test_a_line_cut_short_costs_itself_alone(tmp_path, cut):
    """Not the next one, which would be glued to it, nor those before; a crash may cut within a letter."""
    file = tmp_path / "deep" / "work.jsonl"
    journal = Journal(file)
    journal.add({"a": 1})
    journal.add({"b": "naïve ✓"})
    whole = file.read_bytes()
    file.write_bytes(whole[:-cut])
    again = Journal(file)
    again.add({"c": 3})
    kept = [{"a": 1}] if 1 < cut <= 23 else [{"a": 1}, {"b": "naïve ✓"}]
    assert Journal(file).entries == again.entries == [*kept, {"c": 3}]


def test_two_writers_mix_no_lines(tmp_path):
    """Each of two processes adds its own, and both are there."""
    file, children = tmp_path / "work.jsonl", []
    for name in "ab":
        child = os.fork()
        if child == 0:
            try:
                journal = Journal(file)
                for number in range(50):
                    journal.add({"who": name, "number": number, "long": "x" * 5000})
            finally:
                os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    found = [(entry["who"], entry["number"]) for entry in Journal(file).entries]
    assert sorted(found) == [(name, number) for name in "ab" for number in range(50)]


def test_what_was_added_is_on_the_disk(tmp_path, monkeypatch):
    """Synced before `add` returns; a kill right behind it loses nothing."""
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    file = tmp_path / "work.jsonl"
    Journal(file).add({"a": 1})
    assert synced == [file.stat().st_size]
    child = os.fork()
    if child == 0:
        Journal(file).add({"b": 2})
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert Journal(file).entries == [{"a": 1}, {"b": 2}]


def test_a_value_is_made_once(tmp_path):
    kept, made = Kept(tmp_path / "values.jsonl"), []
    for name in ("x", "y", "x"):
        assert kept.once(name, lambda name=name: made.append(name) or [name]) == [name]
    assert made == ["x", "y"]
    again = Kept(tmp_path / "values.jsonl")
    again.keep("x", None)
    assert again.once("x", lambda: 1) is None and Kept(tmp_path / "values.jsonl").get("y") == ["y"]


def test_what_is_no_entry_is_passed_over(tmp_path):
    file = tmp_path / "values.jsonl"
    file.write_text('[1]\n\n{"key": "x"}\nnull\n"text"\n' + "[" * 100_000 + '\n{"key": "x", "value": 2}\n')
    assert Kept(file).get("x") == 2


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file: values.jsonl cannot be kept there .*Name another folder"):
        Kept(tmp_path / "file" / "values.jsonl")


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    """Sources and configurations of our own, whose content is told."""
    for name, text in {"configs/experiments/one.yaml": "a: 1\n", "code/one.py": "x = 1\n"}.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(presets, "ROOTS", (tmp_path / "configs",))
    monkeypatch.setattr(provenance, "_sources", lambda: [tmp_path / "code"])
    return tmp_path


@pytest.mark.parametrize("name", ["configs/experiments/one.yaml", "code/one.py", "code/two.py"])
def test_the_content_of_code_and_configurations_is_told(own, name):
    """An edit that nobody has committed, or a new file, is another content; the same again is the same."""
    before = provenance.content.__wrapped__()
    assert provenance.content.__wrapped__() == before
    (own / name).write_text("x = 2\n")
    assert provenance.content.__wrapped__() != before


def test_our_own_sources_are_in_it():
    """All three packages, wherever they are installed."""
    assert {folder.name for folder in provenance._sources()} == {"anyformer", "anyformer_tokenizers", "anyformer_tasks"}


def test_a_changed_experiment_is_another_cell(tmp_path):
    """By its content: the file's name says nothing."""
    from anyformer.matrix import Matrix, Run

    experiment = {"data": {"tokenizers": {}, "tasks": {"words": {}}}, "trainer": {"max_steps": 2}}
    file, matrix = tmp_path / "tiny.yaml", tmp_path / "matrix.yaml"
    column = {"experiment": str(file), "task": "words", "metric": "accuracy"}
    matrix.write_text(json.dumps({"columns": {"words": column}, "rows": {"plain": {}}}))
    keys = []
    for steps in (2, 3, 2):
        file.write_text(yaml.safe_dump(experiment | {"trainer": {"max_steps": steps}}))
        run = Run(Matrix.of(matrix), tmp_path / "out", None, 0, print)
        keys.append(run._key(run.matrix.chain("plain", "words", {}), 0))
    assert keys[0] == keys[2] != keys[1]
