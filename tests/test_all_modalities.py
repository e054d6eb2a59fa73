"""All modalities of one checkpoint, as a person asks for them: trained, reported, gated, set beside another."""

from __future__ import annotations

import corpora
import pytest
import yaml

from anyformer import presets
from anyformer.cli import main
from anyformer.evaluation import Report

PAGE = presets.root() / "evaluations" / "joint_small.yaml"
EXPERIMENT = presets.root() / "experiments" / "joint-small.yaml"


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return end.value.code or 0


def test_what_is_asked_is_what_was_trained():
    asked, trained = (yaml.safe_load(file.read_text()) for file in (PAGE, EXPERIMENT))
    assert asked["tasks"] == trained["data"]["tasks"]


def test_two_checkpoints_are_reported_on_and_compared(tmp_path, capsys):
    """Two seeds of a short run in four modalities: a report each, a bar that decides how the command ends, and a paired
    test of one against the other, which `compare` gives again from what was written."""
    data, small = tmp_path / "data", {"model.backbone": '{"dim":16,"depth":1,"heads":2}', "trainer.max_steps": 3}
    data.mkdir()
    corpora.write_all(data)
    for seed in (0, 1):
        where = {"data.data_dir": data, "trainer.default_root_dir": tmp_path / f"run{seed}", "seed_everything": seed}
        options = [part for name, value in {**small, **where}.items() for part in (f"--{name}", value)]
        assert run("fit", "--config", EXPERIMENT, *options) == 0
    page = yaml.safe_load(PAGE.read_text()) | {"baselines": False}
    for name, settings in page["tasks"].items():
        settings |= {"episodes": 5, "held_out": 2, "targets": [20]} if name == "cartpole" else {"limit": 9}
    codes = {}
    for bar in (0.0, 1.1):
        page["tasks"]["scans"]["bars"] = {"accuracy": bar}
        (tmp_path / "page.yaml").write_text(yaml.safe_dump(page))
        asked = ["--config", tmp_path / "page.yaml", "--data_dir", data, "--out", tmp_path / f"reports-{bar:g}"]
        checkpoints = [tmp_path / f"run{seed}" / "last" for seed in (0, 1)][: 2 if bar == 0 else 1]
        codes[bar] = run("evaluate", "--checkpoint", *checkpoints, *asked)
    assert codes == {0.0: 0, 1.1: 1}
    capsys.readouterr()
    first, second = (tmp_path / "reports-0" / f"run{seed}-last" for seed in (0, 1))
    report = Report.load(first)
    assert {result.modality for result in report.results} == {"text", "image", "audio", "control"}
    assert not report.failed and all(result.clusters for result in report.results)
    assert run("compare", first, second / "report.json") == 0
    said = capsys.readouterr().out
    assert "95 % interval" in said and all(name in said for name in page["tasks"]) and "no scores" not in said
