"""`anyformer prepare` writes what `fit` reads, in this process or in several."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import runs
import toys
import yaml

from anyformer import registry
from anyformer.cli import main
from anyformer.training.shards.directory import Prepared

pytestmark = pytest.mark.usefixtures("toys")

DATA = {"tokenizers": {"letters": {}, "dots": {}, "colour": {}}, "tasks": {"words": {"weight": 2}, "quadrants": {}}}


def prepare(folder: Path, *more: str, **data) -> int:
    config = folder / "experiment.yaml"
    config.write_text(yaml.safe_dump({"model": {}, "data": DATA | data, "trainer": {}}))
    with pytest.raises(SystemExit) as ended:
        main(["prepare", "--config", str(config), "--out", str(folder / "out"), "--samples", "8", *more])
    return ended.value.code


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_an_experiments_data_become_shards_that_a_mixture_reads(tmp_path, capsys):
    """Each split with its numbers; the second time there is nothing to do."""
    assert prepare(tmp_path, "--workers", "0") == 0
    assert "words train: 30 samples, " in (said := capsys.readouterr().out)
    assert said.count("in 4 shards") == 4
    before = contents(tmp_path / "out")
    assert prepare(tmp_path, "--workers", "0") == 0
    assert "16 of 16 shards" in capsys.readouterr().err
    assert contents(tmp_path / "out") == before
    mixture = runs.mixture(shards=str(tmp_path / "out"))
    assert [len(Prepared(tmp_path / "out").samples(task, "train")) for task in mixture.tasks] == [30, 30]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--splits", "trian"], "Unknown split 'trian'; expected one of: test, train, validation."),
        (["--samples", "0", "--workers", "0"], "expected at least 1"),
        (["--workers", "-1"], "expected at least 1 process"),
    ],
)
def test_what_cannot_be_prepared_is_one_sentence(tmp_path, capsys, arguments, said):
    assert prepare(tmp_path, *arguments) == 2
    assert said in capsys.readouterr().err


def test_a_sample_that_cannot_be_read_ends_it_by_name(tmp_path, capsys, monkeypatch, workers="0"):
    monkeypatch.setitem(registry.tokenizers._registered, "letters", toys.Fussy)
    assert prepare(tmp_path, "--workers", workers) == 1
    assert re.search(r"Task 'words', sample 'train-\d+': 'a\w+' begins with an a", capsys.readouterr().err)


@pytest.mark.slow
def test_processes_of_ray_write_the_same_bytes_and_tell_which_sample_is_bad(tmp_path, capsys, monkeypatch):
    """Needs the extra `prepare`."""
    pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", str(Path(toys.__file__).parent), prepend=":")
    for name in ("here", "there", "bad"):
        (tmp_path / name).mkdir()
    assert prepare(tmp_path / "here", "--workers", "0") == 0
    assert prepare(tmp_path / "there", "--workers", "2") == 0
    assert contents(tmp_path / "there" / "out") == contents(tmp_path / "here" / "out")
    test_a_sample_that_cannot_be_read_ends_it_by_name(tmp_path / "bad", capsys, monkeypatch, workers="2")
