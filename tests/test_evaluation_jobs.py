"""Evaluation as a job: bars that fail it, several checkpoints side by side, and going on where it was stopped."""

from __future__ import annotations

import json

import pytest
import runs
import torch
import yaml

import anyformer as af
from anyformer.cli import main
from anyformer.cli.evaluate import names
from anyformer.errors import ConfigError
from anyformer.evaluation import Report, evaluate, job
from anyformer.evaluation.finished import FILE, Finished, Outcome
from anyformer.evaluation.report import Exhibit, Part, Result, SampleScore


@pytest.fixture(autouse=True)
def toys():
    with runs.registered():
        yield


@pytest.fixture
def checkpoints(tmp_path) -> list[str]:
    """Two models of other random weights."""
    mixture = runs.mixture()
    mixture.setup()
    for seed in range(2):
        torch.manual_seed(seed)
        model = af.Model(mixture.tokenizers, {"dim": 16, "heads": 2, "depth": 1}, mixture.heads())
        af.save(model, tmp_path / f"run{seed}" / "last")
    return [str(tmp_path / f"run{seed}" / "last") for seed in range(2)]


def config(tmp_path, **tasks) -> str:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump({"seed": 0, "tasks": tasks or {"words": {"limit": 6}, "quadrants": {"limit": 6}}}))
    return str(path)


def exit_code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["evaluate", *arguments])
    return end.value.code or 0


@pytest.mark.parametrize(("bar", "code"), [(0.0, 0), (1.1, 1)])
def test_a_missed_bar_fails_the_command(checkpoints, tmp_path, capsys, bar, code):
    file = config(tmp_path, words={"limit": 6, "bars": {"accuracy": bar}})
    assert exit_code("--checkpoint", checkpoints[0], "--config", file, "--out", str(tmp_path / "report")) == code
    said = capsys.readouterr().out
    assert f"at least {'0.000' if not bar else '1.100'}" in said and ("MISSED" in said) == bool(code)
    assert [row.bar for row in Report.load(tmp_path / "report").results if row.metric == "accuracy"] == [bar]
    assert "## Bars" in (tmp_path / "report" / "report.md").read_text()
    assert json.loads((tmp_path / "report" / "report.json").read_text())["config"]["tasks"]["words"]["bars"]


def test_a_bar_is_of_a_metric_and_a_number(checkpoints, tmp_path):
    model = af.load(checkpoints[0])
    with pytest.raises(ConfigError, match="Did you mean 'accuracy'"):
        evaluate(model, {"tasks": {"words": {"bars": {"acuracy": 0.5}}}})
    with pytest.raises(ConfigError, match="a number for each"):
        evaluate(model, {"tasks": {"words": {"bars": {"accuracy": "high"}}}})


def test_less_may_be_better_and_nothing_misses_its_bar():
    row = {"task": "t", "modality": "text", "metric": "m", "baseline": None, "n": 1, "bar": 2.0}
    assert not Result(**row, value=1.5, higher_is_better=False).missed
    assert Result(**row, value=1.5, higher_is_better=True).missed
    assert Result(**row, value=None, higher_is_better=False).missed


def test_several_checkpoints_have_a_report_each_and_are_compared(checkpoints, tmp_path, capsys):
    out = tmp_path / "reports"
    assert exit_code("--checkpoint", *checkpoints, "--config", config(tmp_path), "--out", str(out)) == 0
    said = capsys.readouterr().out
    assert "run1-last against run0-last" in said and "second is" in said
    found = [Report.load(out / name) for name in ("run0-last", "run1-last")]
    assert [report.checkpoint for report in found] == checkpoints


def test_checkpoints_are_called_by_what_tells_them_apart():
    assert names(["a/last"]) == ["last"]
    assert names(["x/a/last", "y/a/last"]) == ["x-a-last", "y-a-last"]
    with pytest.raises(ConfigError, match="twice"):
        names(["a/last", "a/last"])


def test_a_job_that_was_stopped_goes_on(checkpoints, tmp_path, monkeypatch):
    """What was finished is not scored again, for the same checkpoint and settings only; the report is the same."""
    model, out = af.load(checkpoints[0]), tmp_path / "report"
    settings = {"tasks": {"words": {"limit": 6}, "quadrants": {"limit": 6}}}
    whole = evaluate(model, settings, tmp_path / "whole", checkpoint=checkpoints[0])
    run, asked = job._run, []

    def stopped(entry, *rest):
        asked.append(entry.name)
        if entry.name == "quadrants" and len(asked) == 2:
            raise KeyboardInterrupt
        return run(entry, *rest)

    monkeypatch.setattr(job, "_run", stopped)
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, settings, out, checkpoint=checkpoints[0])
    assert (out / FILE).is_file()
    found = evaluate(model, settings, out, checkpoint=checkpoints[0])
    assert asked == ["words", "quadrants", "quadrants"] and not (out / FILE).exists()
    assert found.samples == whole.samples
    assert [(r.metric, r.value, r.interval) for r in found.results] == [
        (r.metric, r.value, r.interval) for r in whole.results
    ]


def test_what_is_finished_belongs_to_its_checkpoint_and_settings(tmp_path):
    row = Result("t", "text", "m", 0.5, None, 1, True, interval=(0.1, 0.9))
    shown = Exhibit("t", "a", "m", 0.5, [Part("image", "image/png", b"\x00\xff"), Part("text", "text/plain", "said")])
    outcome = Outcome([row], [SampleScore("t", "a", "a", "m", 0.5)], [shown])
    kept = Finished(tmp_path, "one")
    kept.keep({"name": "t"}, outcome)
    assert kept.get({"name": "t"}) == outcome
    assert kept.get({"name": "t", "limit": 3}) is None and Finished(tmp_path, "other").get({"name": "t"}) is None
    assert Finished(tmp_path, None).get({"name": "t"}) is None
    (tmp_path / FILE).write_text((tmp_path / FILE).read_text()[:20])
    assert Finished(tmp_path, "one").get({"name": "t"}) is None, "cut short: it is scored again"
    kept.keep({"name": "u"}, Outcome([Result("u", "text", "m", None, None, 0, True, error="It failed.")]))
    assert kept.get({"name": "u"}) is None, "what failed is tried again"
