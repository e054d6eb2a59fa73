"""`anyformer reproduce`: rows of experiments trained, judged and timed, and one line of JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from anyformer import presets
from anyformer.cli import main
from anyformer.errors import ConfigError
from anyformer.reproduction import Reproduction, Step
from anyformer.training.experiment import Experiment

pytestmark = pytest.mark.usefixtures("toys")

EXPERIMENT = {
    "model": {"backbone": {"dim": 16, "depth": 1, "heads": 2}, "lr": 1e-2},
    "data": {"tokenizers": {"letters": {}}, "tasks": {"words": {}}, "token_budget": 64},
    "trainer": {"accelerator": "cpu", "max_steps": 3},
}
KEYS = ["name", "metric", "value", "baseline", "seed", "cpu_seconds", "commit", "rows"]


@pytest.fixture
def small(tmp_path) -> Path:
    """Two rows over one experiment: trained once, and once more from there with other settings."""
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    tiny = str(tmp_path / "tiny.yaml")
    page = {
        "metric": "accuracy",
        "baseline": {"of": "chance", "value": 0.04},
        "rows": {"once": [tiny], "twice": [tiny, {"experiment": tiny, "set": {"trainer.max_steps": 2}}]},
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(page))
    return tmp_path / "small.yaml"


def test_the_line_and_its_rows(small, tmp_path, capsys):
    """stdout is one line with the promised keys; rows that begin alike share their beginning, and both pay for it."""
    with pytest.raises(SystemExit) as end:
        main(["reproduce", str(small), "--seed", "1", "--out", str(tmp_path / "out")])
    said = capsys.readouterr()
    assert end.value.code == 0, said.err
    (line,) = said.out.splitlines()
    result = json.loads(line)
    assert list(result) == KEYS
    assert (result["name"], result["metric"], result["baseline"], result["seed"]) == ("small", "accuracy", 0.04, 1)
    once, twice = result["rows"]
    assert [once["row"], once["steps"], twice["row"], twice["steps"]] == ["once", 3, "twice", 5]
    assert result["value"] == twice["value"] == twice["values"]["accuracy"], "the last row is the headline"
    assert once["cpu_seconds"] < twice["cpu_seconds"] < result["cpu_seconds"]
    assert once["training_flops"] < twice["training_flops"] and once["tokens"] < twice["tokens"]
    trained = sorted(path.parent.name for path in (tmp_path / "out").glob("*/last"))
    assert trained == ["00-tiny", "01-tiny"], "the shared step ran once"
    assert (tmp_path / "out" / "report-twice" / "report.json").is_file()


def test_the_headline_may_be_the_mean_of_all_rows(small, tmp_path, capsys):
    """Folds and speakers that are left out in turn; and another split may be judged than the test's."""
    page = yaml.safe_load(small.read_text()) | {"headline": "mean", "split": "train"}
    small.write_text(yaml.safe_dump(page))
    assert Reproduction.named(str(small)).headlines == ("once", "twice")
    with pytest.raises(SystemExit):
        main(["reproduce", str(small), "--out", str(tmp_path / "out")])
    result = json.loads(capsys.readouterr().out)
    assert result["value"] == pytest.approx(sum(row["value"] for row in result["rows"]) / 2)
    assert '"split": "train"' in (tmp_path / "out" / "report-once" / "report.json").read_text()


def test_floating_point_operations_are_those_of_the_training(small, tmp_path, capsys):
    """6 times the matrix elements that a token meets, within what attention adds to it."""
    with pytest.raises(SystemExit):
        main(["reproduce", str(small), "--out", str(tmp_path / "out")])
    once = json.loads(capsys.readouterr().out)["rows"][0]
    matrices, head = 16 * 48 + 16 * 16 + 2 * 16 * 64, 16 * 28
    assert 6 * (matrices + head / 2) < once["training_flops"] / once["tokens"] < 6 * (matrices + head) + 12 * 16 * 14


def test_a_place_is_changed_and_the_file_is_not():
    given = Experiment(model={"lr": 1}, data={"tasks": {"a": {"x": 1}}}, trainer={})
    changed = given.changed({"data.tasks.a.x": 2, "data.tasks.b.y": 3, "model.lr": 4})
    assert changed.data == {"tasks": {"a": {"x": 2}, "b": {"y": 3}}} and changed.model == {"lr": 4}
    assert given.data == {"tasks": {"a": {"x": 1}}} and given.model == {"lr": 1}
    with pytest.raises(ConfigError, match=r"Unknown section 'date'.*data"):
        given.changed({"date.tasks": {}})
    with pytest.raises(ConfigError, match=r"model\.lr\.x cannot be set: model\.lr is 1"):
        given.changed({"model.lr.x": 1})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"rows": {}}, "expected a mapping with `metric` and `rows`"),
        ({"rows": {"a": [{"set": {}}]}}, "a step is .*; expected an experiment's name"),
        ({"rows": {"a": [{"experiment": "x", "sett": {}}]}}, "Unknown step setting 'sett'.*Did you mean 'set'"),
        ({"headline": "thrice"}, "Unknown row 'thrice'"),
        ({"metrics": "x"}, "Unknown reproduction setting 'metrics'.*Did you mean 'metric'"),
    ],
)
def test_what_is_wrong_in_a_page_is_one_sentence(small, change, sentence):
    page = yaml.safe_load(small.read_text()) | change
    small.write_text(yaml.safe_dump(page))
    with pytest.raises(ConfigError, match=sentence):
        Reproduction.named(str(small))


def test_an_unknown_name_is_told_with_the_nearest(capsys):
    with pytest.raises(SystemExit) as end:
        main(["reproduce", "char-shakespear"])
    assert end.value.code == 2 and "expected one of: " in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted((presets.root() / "reproductions").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_page_is_whole(path):
    """Its experiments exist, its changes have a place, and its first line is the command."""
    page = Reproduction.of(path)
    first = path.read_text().splitlines()[0]
    assert first in (f"# anyformer reproduce {path.stem} --data_dir data", f"# anyformer reproduce {path.stem}")
    for steps in page.rows.values():
        for step in steps:
            assert isinstance(step, Step)
            assert step.settings().data["tasks"]
