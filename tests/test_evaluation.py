"""The evaluation job, its statistics and its report, with fake tasks and a model that only has tokenizers."""

from __future__ import annotations

import base64
import json
import math
import os
import random
import subprocess
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from anyformer.contracts import Metric, Sample, Score, Task
from anyformer.errors import ConfigError, SampleError
from anyformer.evaluation import (
    Report,
    Result,
    compare,
    evaluate,
    plot,
    provenance,
)
from anyformer.evaluation.plan import read_plan
from anyformer.evaluation.report import write_whole
from anyformer.registry import register_task
from anyformer.registry import tasks as registry

PNG = b"\x89PNG picture"


class FakeTokenizer:
    """Renders as told; what it renders to is the test's business."""

    def __init__(self, rendered=None):
        self.rendered = rendered

    def render(self, raw):
        if self.rendered is None:
            raise ValueError("nothing to see")
        return {mime: content if content is not None else str(raw) for mime, content in self.rendered.items()}


class FakeModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.trained, self.frozen = nn.Linear(2, 2), nn.Linear(2, 2)
        self.tokenizers = {
            "text": FakeTokenizer({"text/plain": None}),
            "image": FakeTokenizer({"image/png": PNG}),
            "audio": FakeTokenizer({"audio/wav": b"RIFF sound"}),
            "shy": FakeTokenizer(),
        }


@dataclass
class Fake(Task):
    """Twelve samples in four clusters, two metrics; subclasses break one thing each."""

    offset: float = 0.0

    fields: ClassVar = {"picture": "image", "sound": "audio", "answer": "text"}
    modality: ClassVar = "picture → text"
    metrics: ClassVar = (Metric("accuracy", True), Metric("loss", False))
    runs: ClassVar[list] = []

    def default_objective(self):
        raise NotImplementedError

    def examples(self, split):
        values = {"picture": 1, "sound": 2, "answer": "<b>seven</b>"}
        return [Sample(f"{split}-{i}", values, cluster=f"group-{i % 4}") for i in range(12)]

    def score(self, model, samples):
        Fake.runs.append(len(samples))
        for index, sample in enumerate(samples):
            shown = {**sample.values, "prediction": "<script>alert(1)</script>"}
            yield Score(sample.id, "accuracy", float(index % 3 > 0), shown=shown)
            yield Score(sample.id, "loss", index + self.offset, weight=index + 1.0)

    def baselines(self):
        return {"accuracy": {"guessing": 0.1, "linear": 0.6}, "loss": {"guessing": 5.0}}


@dataclass
class Raises(Fake):
    def score(self, model, samples):
        yield Score(samples[0].id, "accuracy", 1.0)
        raise SampleError("Image 'a.png' is cut short; expected a whole file. Copy it again.")


@dataclass
class BreaksOddly(Fake):
    def score(self, model, samples):
        raise KeyError("weights\nof layer 3")
        yield


@dataclass
class NeedsOther(Fake):
    fields: ClassVar = {"series": "sensors"}


@dataclass
class NoData(Fake):
    def examples(self, split):
        raise FileNotFoundError("digits.csv")


@dataclass
class CannotBeMade(Fake):
    def __post_init__(self):
        raise ImportError("No module named 'sklearn'")


@dataclass
class Undeclared(Fake):
    def score(self, model, samples):
        yield Score("a", "acuracy", 1.0)


@dataclass
class NoBaselines(Fake):
    def baselines(self):
        raise RuntimeError("the solver did not converge")


@dataclass
class Shy(Fake):
    fields: ClassVar = {"picture": "shy", "sound": "audio", "answer": "text"}


@dataclass
class Rolls(Fake):
    """Scores are random numbers from every global generator."""

    def score(self, model, samples):
        for sample in samples:
            drawn = random.random() + np.random.random() + torch.rand(()).item()
            yield Score(sample.id, "accuracy", drawn)
            yield Score(sample.id, "loss", drawn)


@dataclass
class Observes(Fake):
    """Scores tell the state in which the model was found, and then the task leaves it changed."""

    def score(self, model, samples):
        quiet = not torch.is_grad_enabled() and not any(module.training for module in model.modules())
        model.train()
        for sample in samples:
            yield Score(sample.id, "accuracy", float(quiet))
            yield Score(sample.id, "loss", 0.0)


@dataclass
class Gives(Fake):
    """Yields the scores it is told to."""

    scores: tuple = ()

    def score(self, model, samples):
        for id, metric, value, weight in self.scores:
            yield Score(id, metric, value, weight)


@dataclass
class ByTarget(Fake):
    metrics: ClassVar = tuple(Metric(f"return_at_{target}", True) for target in (500, 50, 200))

    def score(self, model, samples):
        for target in (50, 200, 500):
            for index, sample in enumerate(samples):
                yield Score(sample.id, f"return_at_{target}", target - index)

    def baselines(self):
        return {metric.name: {"data": 100.0} for metric in self.metrics}


FAKES = {
    "fake": Fake, "raises": Raises, "breaks_oddly": BreaksOddly, "needs_other": NeedsOther, "no_data": NoData,
    "cannot_be_made": CannotBeMade, "undeclared": Undeclared, "no_baselines": NoBaselines, "shy": Shy,
    "rolls": Rolls, "observes": Observes, "gives": Gives, "by_target": ByTarget,
}  # fmt: skip


@pytest.fixture(autouse=True)
def fake_tasks(monkeypatch):
    """Registered for one test each: tests that go over all tasks must not meet them."""
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    absent = EntryPoint("uninstallable", "no_such_package_here:Task", "anyformer.tasks")
    monkeypatch.setattr(registry, "_installed", {**registry.installed(), "uninstallable": [absent]})
    for name, plugin in FAKES.items():
        register_task(name)(plugin)
    Fake.runs.clear()


@pytest.fixture
def model():
    return FakeModel()


def rows(report: Report, task: str) -> list[Result]:
    return report.by_task()[task]


# ── The job ──


def test_rows_carry_value_interval_baseline_and_clusters(model):
    """Guards the whole way from scores to a row, weights and inherited clusters included."""
    accuracy, loss = evaluate(model, {"tasks": {"fake": {}}}).results
    assert (accuracy.task, accuracy.modality, accuracy.metric) == ("fake", "picture → text", "accuracy")
    assert accuracy.value == pytest.approx(8 / 12) and accuracy.n == 12 and accuracy.clusters == 4
    assert accuracy.baseline == 0.1 and dict(accuracy.baselines) == {"guessing": 0.1, "linear": 0.6}
    assert accuracy.higher_is_better and not loss.higher_is_better
    assert loss.value == pytest.approx(sum(i * (i + 1) for i in range(12)) / sum(range(1, 13)))
    assert loss.interval[0] < loss.value < loss.interval[1]
    assert accuracy.error is None and accuracy.seconds >= 0


BROKEN = {
    "raises": "Image 'a.png' is cut short; expected a whole file. Copy it again.",
    "breaks_oddly": "KeyError: 'weights\\nof layer 3'",
    "needs_other": "needs the tokenizer 'sensors'; the model has: audio, image, shy, text.",
    "no_data": "FileNotFoundError: digits.csv",
    "cannot_be_made": "ImportError: No module named 'sklearn'",
    "undeclared": "scored sample 'a' on 'acuracy'; expected one of its metrics: accuracy, loss.",
    "uninstallable": "could not be imported (ModuleNotFoundError",
}


def test_a_failing_task_keeps_its_rows_and_loses_nobody_elses(model, tmp_path):
    """Guards isolation: a broken plugin, constructor, data set, sample or model harms one task only."""
    alone = evaluate(model, {"tasks": {"fake": {}}})
    report = evaluate(model, {"tasks": {**{name: {} for name in BROKEN}, "fake": {}}}, tmp_path)
    for name, sentence in BROKEN.items():
        assert all(row.value is None and row.n == 0 and sentence in row.error for row in rows(report, name)), name
        assert "\n" not in rows(report, name)[0].error
    assert [row.metric for row in rows(report, "raises")] == ["accuracy", "loss"]
    assert [row.metric for row in rows(report, "uninstallable")] == ["unknown"]
    assert [replace(row, seconds=0) for row in rows(report, "fake")] == [
        replace(row, seconds=0) for row in alone.results
    ]
    assert {row.task for row in report.failed} == set(BROKEN)
    assert {sample.task for sample in report.samples} == {"fake"}
    written = json.loads((tmp_path / "report.json").read_text())["results"]
    assert [row["value"] for row in written if row["task"] == "raises"] == [None, None]


@pytest.mark.parametrize(
    ("scores", "sentence"),
    [
        (
            [("a", "accuracy", math.nan, 1.0)],
            "Sample 'a' scored nan on 'accuracy'; expected a finite number.",
        ),
        (
            [("a", "accuracy", 1.0, -1.0)],
            "Sample 'a' weighs -1.0 on 'accuracy'; expected 0 or a positive number.",
        ),
        ([("a", "accuracy", 1.0, 0.0)], "All samples weigh 0 on 'accuracy'"),
        ([("a", "accuracy", 1.0, 1.0)] * 2, "Sample 'a' was scored 2 times on 'accuracy'"),
        ([], "Task 'gives' gave no scores on 'accuracy'"),
    ],
)
def test_scores_without_a_mean_cost_their_own_row_only(model, tmp_path, scores, sentence):
    """Guards against NaN or a silent 0 in a report, and the report stays strict JSON."""
    good = [("a", "loss", 2.0, 1.0)]
    report = evaluate(model, {"tasks": {"gives": {"scores": scores + good}}}, tmp_path)
    accuracy, loss = report.results
    assert accuracy.value is None and sentence in accuracy.error
    assert loss.value == 2.0 and loss.error is None and loss.interval is None
    for line in (tmp_path / "samples.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)


def test_baselines_that_cannot_be_computed_do_not_cost_the_value(model):
    row = evaluate(model, {"tasks": {"no_baselines": {}}}).results[0]
    assert row.value == pytest.approx(8 / 12) and row.baseline is None
    assert row.error == "The baselines could not be computed: RuntimeError: the solver did not converge"


def test_baselines_stand_only_beside_the_split_they_are_for(model):
    """Guards a comparison of a validation value with a test baseline."""
    row = evaluate(model, {"split": "validation", "tasks": {"fake": {}}}).results[0]
    assert row.value is not None and row.baseline is None and row.verdict is None


def test_a_result_depends_on_the_seed_and_its_own_name_only(model):
    """Guards DESIGN's promise: other tasks, their order and their failures change nothing."""
    alone = evaluate(model, {"seed": 4, "tasks": {"rolls": {}}})
    torch.manual_seed(99)
    tasks = {"twin": {"type": "rolls"}, "raises": {}, "fake": {}, "rolls": {}}
    among = evaluate(model, {"seed": 4, "tasks": tasks})
    value = lambda report, task="rolls": rows(report, task)[0].value  # noqa: E731
    assert value(alone) == value(among)
    assert rows(alone, "rolls")[0].interval == rows(among, "rolls")[0].interval
    assert value(among) != value(among, "twin")
    assert value(evaluate(model, {"tasks": {"rolls": {}}}, seed=4)) == value(alone)
    assert value(evaluate(model, {"tasks": {"rolls": {}}}, seed=5)) != value(alone)


def test_the_callers_random_numbers_go_on_undisturbed(model):
    """Guards evaluation in the middle of training."""

    def draw():
        return random.random(), np.random.random(), torch.rand(()).item()

    def seed():
        random.seed(1), np.random.seed(1), torch.manual_seed(1)

    seed()
    expected = draw()
    seed()
    evaluate(model, {"tasks": {"rolls": {}, "raises": {}}})
    assert draw() == expected


def test_tasks_meet_a_quiet_model_and_leave_it_in_the_mode_it_was_in(model):
    """Guards eval mode and no gradients for every task, and frozen submodules that must stay in eval mode."""
    model.train()
    model.frozen.eval()
    report = evaluate(model, {"tasks": {"observes": {}, "raises": {}, "again": {"type": "observes"}}})
    assert rows(report, "observes")[0].value == rows(report, "again")[0].value == 1.0
    assert model.training and model.trained.training and not model.frozen.training
    assert torch.is_grad_enabled()


def test_a_limit_draws_over_the_whole_split(model):
    """Guards quick runs on sorted data: the first samples would be one class."""
    report = evaluate(model, {"tasks": {"fake": {"limit": 5}, "other": {"type": "fake", "limit": 50}}})
    ids = [sample.id for sample in report.scores("fake", "accuracy")]
    assert len(ids) == 5 and ids != [f"test-{index}" for index in range(5)]
    assert ids == sorted(ids, key=lambda id: int(id.split("-")[1]))
    assert rows(report, "other")[0].n == 12


def test_settings_reach_the_task(model):
    report = evaluate(model, {"tasks": {"fake": {}, "shifted": {"type": "fake", "offset": 10.0}}})
    assert rows(report, "shifted")[1].value == pytest.approx(rows(report, "fake")[1].value + 10)


# ── Mistakes in the configuration ──


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"tasks": {"fake": {}, "fakee": {}}}, "Did you mean 'fake'?"),
        ({"tasks": {"fake": {}, "x": {"type": "fak"}}}, "Did you mean 'fake'?"),
        ({"tasks": {"fake": {"ofset": 1}}}, "Task 'fake' has no setting 'ofset'"),
        ({"tasks": {"fake": {"limt": 1}}}, "Did you mean 'limit'?"),
        ({"tasks": {"fake": {"limit": 0}}}, "limit=0"),
        ({"tasks": {"fake": {"limit": True}}}, "limit=True"),
        ({"tasks": {"fake": [1]}}, "expected a mapping"),
        ({"tasks": ["fake"]}, "expected a mapping from task names"),
        ({"tasks": {}}, "expected a mapping from task names"),
        ({}, "expected a mapping from task names"),
        ({"task": {"fake": {}}}, "Did you mean 'tasks'?"),
        ({"split": "tset", "tasks": {"fake": {}}}, "Did you mean 'test'?"),
        ({"seed": -1, "tasks": {"fake": {}}}, "seed is -1"),
        ({"seed": "one", "tasks": {"fake": {}}}, "seed is 'one'"),
    ],
)
def test_a_mistake_in_the_configuration_is_one_sentence_before_anything_runs(model, tmp_path, config, sentence):
    with pytest.raises(ConfigError) as caught:
        evaluate(model, config, tmp_path / "out")
    assert sentence in str(caught.value)
    assert not Fake.runs and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("tasks:\n  fake: {}\n  fake: {limit: 3}\n", "'fake' is written twice"),
        ("tasks: {fake: {\n", "is not YAML"),
        ("- fake\n", "holds a list; expected a mapping"),
        ("tasks: {fake: !!python/object/apply:os.getpid []}\n", "is not YAML"),
    ],
)
def test_a_file_that_is_not_a_configuration_is_named(model, tmp_path, content, sentence):
    """Guards the silent loss of a task written twice, and that YAML stays data."""
    path = tmp_path / "evaluation.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=sentence) as caught:
        evaluate(model, path)
    assert "evaluation.yaml" in str(caught.value)


def test_a_misspelt_file_is_told_with_the_nearest_one(model, tmp_path):
    (tmp_path / "cross_modal.yaml").write_text("tasks: {fake: }")
    with pytest.raises(ConfigError, match=r"Did you mean 'cross_modal.yaml'\?"):
        evaluate(model, tmp_path / "cross_modl.yaml")
    assert evaluate(model, str(tmp_path / "cross_modal.yaml")).results[0].n == 12


def test_a_report_that_could_not_be_written_is_refused_before_hours_of_scoring(model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        evaluate(model, {"tasks": {"fake": {}}}, tmp_path / "file")
    assert not Fake.runs


def test_the_shipped_configuration_can_be_read():
    plan = read_plan(Path(__file__).parents[1] / "configs/evaluations/cross_modal.yaml")
    assert [entry.name for entry in plan.entries] == ["python_docs", "digits", "dial_tones", "cartpole"]
    assert read_plan(plan.config()) == plan


# ── The report ──


@pytest.fixture
def written(model, tmp_path):
    tasks = {"fake": {}, "by_target": {}, "raises": {}}
    return tmp_path, evaluate(model, {"tasks": tasks}, tmp_path, commit="c0ffee", checkpoint="runs/a/last")


def test_a_report_survives_writing_and_reading(written):
    folder, report = written
    assert Report.load(folder) == report
    assert sorted(os.listdir(folder)) == ["report.html", "report.json", "report.md", "samples.jsonl"]


def test_report_json_has_the_published_shape(written):
    """Guards the names that scripts read."""
    content = json.loads((written[0] / "report.json").read_text(), parse_constant=pytest.fail)
    assert {"results", "seed", "config", "commit", "machine", "checkpoint", "created"} <= content.keys()
    for row in content["results"]:
        assert {"task", "modality", "metric", "value", "baseline", "n", "higher_is_better"} <= row.keys()
    assert content["commit"] == "c0ffee" and content["checkpoint"] == "runs/a/last"
    assert {"processor", "cores", "python", "torch"} <= content["machine"].keys()
    line = json.loads((written[0] / "samples.jsonl").read_text().splitlines()[0])
    expected = {"task": "fake", "id": "test-0", "cluster": "group-0", "metric": "accuracy"}
    assert line == expected | {"score": 0.0, "weight": 1.0}


def test_an_interrupted_write_keeps_the_old_file_and_leaves_no_litter(tmp_path, monkeypatch):
    write_whole(tmp_path / "report.json", "old")

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "report.json", "new")
    assert os.listdir(tmp_path) == ["report.json"] and (tmp_path / "report.json").read_text() == "old"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(None, "There is no report.json"), ("{", "cannot be read"), ('{"results": [{}]}', "holds no report")],
)
def test_a_folder_without_a_readable_report_is_one_sentence(tmp_path, content, sentence):
    if content is not None:
        (tmp_path / "report.json").write_text(content)
        (tmp_path / "samples.jsonl").write_text("")
    with pytest.raises(ConfigError, match=sentence):
        Report.load(tmp_path)


def test_the_terminals_table_shows_every_row_and_error_and_no_markup(written):
    _, report = written
    table = replace(report, results=[*report.results, Result("[red]x[/]", "m", "k", 1.0, 2.0, 3, True)]).table()
    for words in ("return_at_500", "0.6667", "✗ failed", "raises: Image 'a.png' is cut short", "[red]x[/]"):
        assert words in table
    assert "\x1b" not in table and max(map(len, report.table(80).splitlines()[:12])) <= 80


def test_markdown_is_one_table_whatever_a_task_is_called():
    report = Report([Result("a|b\nc", "m", "x", 1.0, None, 1, True)], [], 0, {})
    row = next(line for line in report.markdown().splitlines() if "a\\|b c" in line)
    assert row.replace("\\|", "").count("|") == 9


class Parsed(HTMLParser):
    """Tags with their attributes; fails on a page whose tags do not close in order."""

    VOID = ("meta", "img", "line", "circle", "rect", "polyline")

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def test_the_page_is_whole_self_contained_and_described(written):
    """Guards one file: no address but data, every picture, sound and chart told in words."""
    page = Parsed((written[0] / "report.html").read_text())
    sources = [value for _, attrs in page.tags for name, value in attrs.items() if name in ("src", "href")]
    assert sources and all(source.startswith(("data:", "#")) for source in sources)
    assert not page.all("script") and not page.all("link")
    assert page.all("img") and all(attrs["alt"] for attrs in page.all("img"))
    assert page.all("audio") and all("controls" in attrs and attrs["aria-label"] for attrs in page.all("audio"))
    assert page.all("svg") and all(attrs["aria-label"] for attrs in page.all("svg"))
    anchors = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert {attrs["href"][1:] for attrs in page.all("a")} <= anchors
    assert page.all("html")[0]["lang"] == "en"


def test_what_a_task_shows_is_rendered_by_its_tokenizer_and_never_trusted(written):
    """Guards the gallery: pictures by MIME type, all text as text."""
    page = (written[0] / "report.html").read_text()
    assert f"data:image/png;base64,{base64.b64encode(PNG).decode()}" in page
    assert "data:audio/wav;base64," in page
    assert "<script>" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<b>seven</b>" not in page and "&lt;b&gt;seven&lt;/b&gt;" in page


def test_a_value_that_cannot_be_shown_does_not_cost_the_score(model):
    report = evaluate(model, {"tasks": {"shy": {}}})
    assert report.results[0].error is None
    assert "cannot be shown (ValueError: nothing to see)" in report.html()


def test_the_page_stays_small(model):
    """Guards against a page of gigabytes: long texts are cut, large pictures are left out."""
    model.tokenizers["image"] = FakeTokenizer({"image/png": b"x" * 3_000_000})
    model.tokenizers["text"] = FakeTokenizer({"text/plain": "long " * 100_000})
    page = evaluate(model, {"tasks": {"fake": {}}}).html()
    assert len(page) < 100_000 and "too large to embed (3.0 MB)" in page


def test_metrics_at_several_settings_share_one_chart_in_the_settings_order(written):
    """Guards return by target: one chart for the family, none beside it for each member."""
    families = plot.sweeps(written[1].results)
    assert [point.setting for point in families["return_at"]] == [50, 200, 500]
    assert set(families) == {"return_at"}
    charts = [attrs["aria-label"] for attrs in Parsed(written[1].html()).all("svg")]
    assert [chart for chart in charts if "return_at" in chart] == [
        "return_at by setting: 44.50 at 50, 194.5 at 200, 494.5 at 500. Dashed: data."
    ]


def test_the_commit_is_the_repositorys_and_its_absence_is_no_error(tmp_path, monkeypatch):
    """Guards provenance: the right commit, changed files told, None (no crash) outside a repository."""
    monkeypatch.setattr(provenance.anyformer, "__file__", str(tmp_path / "anyformer.py"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.commit() == (None, None)

    def git(*arguments):
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        return subprocess.run(["git", *identity, *arguments], check=True, capture_output=True, text=True).stdout

    git("init")
    assert provenance.commit() == (None, None)
    (tmp_path / "file").write_text("one")
    git("add", "file"), git("commit", "-m", "first")
    assert provenance.commit() == (git("rev-parse", "HEAD").strip(), False)
    (tmp_path / "file").write_text("two")
    assert provenance.commit()[1] is True
    monkeypatch.setenv("PATH", "")
    assert provenance.commit() == (None, None)


def test_a_report_equals_itself(written):
    for row in compare(written[1], written[1]):
        if row.task != "raises":
            assert row.difference == 0 and row.p_value == 1 and row.verdict == "even"
