"""`anyformer study`: settings from a file and from flags, a table or JSON, a report, and slips in one sentence."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from toys import Letters

from anyformer.checkpoint import save
from anyformer.cli import main
from anyformer.contracts import Study
from anyformer.evaluation.statistics import wilson_interval
from anyformer.evaluation.study import StudyReport
from anyformer.model import Model
from anyformer.presets import root
from anyformer.registry import studies
from anyformer_tasks.in_context.demonstrations import Demonstrations
from anyformer_tasks.language.bilingual import Bilingual

pytestmark = pytest.mark.usefixtures("toys")


@dataclass
class Throws(Study):
    """How often a coin of this weight shows heads."""

    weight: float = 0.5
    throws: int = 4

    asks_a_model: ClassVar[bool] = False

    def run(self, model: Model | None, out: Path | None) -> list[dict[str, Any]]:
        if out is not None:
            (out / "throws.txt").write_text("heads\n")
        heads = round(self.weight * self.throws)
        odds = heads / (self.throws - heads) if heads < self.throws else math.inf
        side = {"side": "heads", "count": heads, "share": self.weight, "odds": odds}
        return [side | {"interval_of_it": wilson_interval(heads, self.throws)}, {"side": "tails | none", "p": None}]


@dataclass
class Counted(Study):
    """How many parameters a model has."""

    def run(self, model: Model | None, out: Path | None) -> list[dict[str, Any]]:
        assert model is not None and not model.training
        return [{"parameters": sum(p.numel() for p in model.parameters())}]


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    before = dict(studies._registered)
    studies.register("throws")(Throws)
    studies.register("counted")(Counted)
    yield
    studies._registered.clear()
    studies._registered.update(before)


def anyformer(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return int(end.value.code or 0)


def test_a_study_prints_its_table(capsys):
    """Guards the columns of all rows, and how text, counts, numbers, intervals and nothing are shown."""
    assert anyformer("study", "throws") == 0
    header, _, first, second = capsys.readouterr().out.splitlines()
    assert header.split("  ") and all(word in header for word in ("side", "count", "share", "interval of it", "p"))
    assert ["heads", "2", "0.5000", "1.000"] == first.split()[:4] and " to " in first
    assert second.strip().startswith("tails | none") and second.count("—") == 5


def test_settings_come_from_a_file_and_flags_win(tmp_path, capsys):
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({"weight": 1.0, "throws": 10}))
    assert (
        anyformer("study", "throws", "--config", tmp_path / "s.yaml", "--set", "throws=8", "weight=0.25", "--json") == 0
    )
    told = json.loads(capsys.readouterr().out)
    assert told["settings"] == {"weight": 0.25, "throws": 8} and told["rows"][0]["count"] == 2
    assert {"study", "commit", "machine", "created"} <= told.keys() and told["machine"]["torch"]


def test_a_report_says_where_it_comes_from(tmp_path, capsys):
    """Guards both files, strict JSON included, and that the study writes beside them."""
    out = tmp_path / "new" / "report"
    assert anyformer("study", "throws", "--out", out, "--set", "weight=1") == 0
    told = json.loads((out / "study.json").read_text(), parse_constant=pytest.fail)
    assert told["rows"][0]["odds"] is None and told["rows"][0]["share"] == 1
    page = (out / "study.md").read_text()
    assert "| heads | 4 | 1 |" in page and "tails \\| none" in page and "- Commit: " in page and '"throws": 4' in page
    assert (out / "throws.txt").is_file()


def test_a_model_is_read_where_one_is_asked(tmp_path, capsys):
    tokenizer = Letters()
    tokenizer.fit(["ab"])
    model = Model({"letters": tokenizer}, {"dim": 8, "heads": 1, "depth": 1}, ["letters"])
    save(model, tmp_path / "run")
    assert anyformer("study", "counted", "--checkpoint", tmp_path / "run", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["rows"] == [{"parameters": sum(p.numel() for p in model.parameters())}]
    assert told["checkpoint"] == str(tmp_path / "run")


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["trows"], 2, "Did you mean 'throws'?"),
        (["counted"], 2, "asks a model; give it a checkpoint"),
        (["throws", "--set", "throw=3"], 2, "Did you mean 'throws'?"),
        (["throws", "--set", "throws"], 2, "--set throws: expected KEY=VALUE"),
        (["throws", "--set", "throws=[1"], 2, "is not YAML"),
        (["throws", "--config", "nowhere.yaml"], 2, "nowhere.yaml cannot be read"),
        (["throws", "--confg", "x"], 2, "Did you mean '--config'?"),
        (["counted", "--checkpoint", "nowhere"], 1, "nowhere: no such checkpoint directory"),
        (["counted", "--checkpoint", "x", "--device", "nowhere"], 2, "--device nowhere"),
    ],
)
def test_a_slip_is_one_sentence(tmp_path, capsys, monkeypatch, arguments, status, said):
    monkeypatch.chdir(tmp_path)
    assert anyformer("study", *arguments) == status
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_model_that_is_not_asked_is_refused(tmp_path, capsys):
    test_a_model_is_read_where_one_is_asked(tmp_path, capsys)
    assert anyformer("study", "throws", "--checkpoint", tmp_path / "run") == 2
    assert "asks no model; leave the checkpoint out" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_said(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert anyformer("study", "throws", "--out", tmp_path / "file" / "report") == 2
    assert "expected a folder" in capsys.readouterr().err


def test_studies_are_listed(capsys):
    assert anyformer("list", "studies", "--json") == 0
    assert {"throws", "counted"} <= {row["name"] for row in json.loads(capsys.readouterr().out)}


@pytest.mark.parametrize(("name", "made"), [("demonstrations", Demonstrations), ("bilingual", Bilingual)])
def test_the_settings_that_are_shipped_fit(name, made):
    """Guards the files of configs/studies against a renamed setting."""
    settings = yaml.safe_load((root() / "studies" / f"{name}.yaml").read_text())
    assert made(**settings).config().keys() >= settings.keys()


def test_a_wilson_interval_solves_its_equation():
    """Guards the closed form: at either edge p, |count/of - p| = z·√(p·(1-p)/of)."""
    for count, of in ((0, 7), (3, 10), (10, 10), (250, 1000)):
        interval = wilson_interval(count, of)
        assert interval is not None
        for p in interval:
            assert abs(count / of - p) == pytest.approx(1.959964 * math.sqrt(p * (1 - p) / of), abs=1e-6)
    assert wilson_interval(0, 0) is None


def test_a_report_without_rows_is_still_one():
    assert StudyReport("empty", {}, []).columns() == [] and "# empty" in StudyReport("empty", {}, []).markdown()
