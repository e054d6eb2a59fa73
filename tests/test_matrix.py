"""Tables of beginnings and tasks: every cell once, the best setting by held-out data, resumable, told with spread."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest
import runs
import yaml

from anyformer import presets
from anyformer.cli import main
from anyformer.errors import ConfigError
from anyformer.matrix import Matrix, Run, fill

EXPERIMENT = {
    "model": {"backbone": {"dim": 16, "depth": 1, "heads": 2}, "lr": 1e-2},
    "data": {"tokenizers": {"letters": {}}, "tasks": {"words": {}}, "token_budget": 64},
    "trainer": {"accelerator": "cpu", "max_steps": 2},
}


@pytest.fixture(autouse=True)
def toys():
    with runs.registered():
        yield


@pytest.fixture
def page(tmp_path) -> dict:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    tiny = str(tmp_path / "tiny.yaml")
    return {
        "columns": {"words": {"experiment": tiny, "task": "words", "metric": "accuracy", "limit": 8}},
        "rows": {
            "random, frozen": {"set": {"model.freeze": ["backbone"]}},
            "pre-trained, frozen": {"begin": [tiny], "take": ["backbone"], "set": {"model.freeze": ["backbone"]}},
        },
        "sweep": {"model.lr": [0.0001, 0.01]},
        "seeds": 2,
        "about": "Two rows.",
    }


def written(tmp_path, page) -> Path:
    path = tmp_path / "some.yaml"
    path.write_text(yaml.safe_dump(page, sort_keys=False))
    return path


def test_a_table_by_command_and_again_from_what_is_finished(page, tmp_path, capsys):
    """One line of JSON with a reproduction's keys; the second time nothing is trained, and the line is the same."""
    path, out = written(tmp_path, page), tmp_path / "out"
    lines = []
    for _ in range(2):
        with pytest.raises(SystemExit) as end:
            main(["reproduce", str(path), "--seed", "3", "--out", str(out)])
        said = capsys.readouterr()
        assert end.value.code == 0, said.err
        lines.append(json.loads(said.out))
    assert "training" not in said.err and lines[0] == lines[1]
    assert set(lines[0]) == {"name", "metric", "value", "baseline", "seed", "cpu_seconds", "commit", "rows"}
    control, other = lines[0]["rows"]
    assert lines[0]["value"] == statistics.mean(other["values"]) and len(other["values"]) == 2
    assert lines[0]["baseline"] == statistics.mean(control["values"])
    assert control["difference"] is None
    assert other["difference"] == [a - b for a, b in zip(other["values"], control["values"], strict=True)]
    assert set(map(float, (json.loads(c)["model.lr"] for c in other["validation"]))) == {0.0001, 0.01}
    best = max(other["validation"], key=other["validation"].get)
    assert other["validation"][json.dumps(other["chosen"])] == other["validation"][best]
    told = (out / "matrix.md").read_text()
    assert "| pre-trained, frozen | " in told and "Two rows." in told and "2 seeds from 3" in told
    assert not (out / "trained").exists()


def test_a_run_that_stopped_goes_on(page, tmp_path, monkeypatch):
    """What was judged before is not trained again, and a line that was cut short is."""
    matrix, out = Matrix.of(written(tmp_path, page)), tmp_path / "out"
    first = Run(matrix, out, None, 0, lambda line: None)
    cell = first.cell("random, frozen", "words")
    lines = (out / "cells.jsonl").read_text().splitlines()
    assert len(lines) == 4, "two settings on validation, two seeds on test"
    (out / "cells.jsonl").write_text("\n".join([*lines[:3], lines[3][:9]]) + "\n")
    again, trained = Run(matrix, out, None, 0, lambda line: None), []
    own = Run.trained

    def counting(self, chain, seed):
        trained.append(seed)
        return own(self, chain, seed)

    monkeypatch.setattr(Run, "trained", counting)
    found = again.cell("random, frozen", "words")
    assert trained == [1] and found.values == cell.values and found.chosen == cell.chosen


def test_what_a_row_sets_itself_is_not_chosen_for_it(page, tmp_path):
    """It is trained once a seed, and the page does not tell one of the tried values as its own."""
    page["rows"]["random, frozen"]["per"] = {"words": {"model.lr": 0.003}}
    said: list[str] = []
    result = fill(Matrix.of(written(tmp_path, page | {"seeds": 1})), tmp_path / "out", None, 0, said.append)
    own, swept = result["rows"]
    assert own["chosen"] == {} and own["validation"] == {} and set(swept["chosen"]) == {"model.lr"}
    assert "| random, frozen | the row's own |" in (tmp_path / "out" / "matrix.md").read_text()


def test_beginnings_are_trained_once_and_only_their_stack_is_taken(page, tmp_path):
    said: list[str] = []
    page["rows"]["pre-trained, all"] = {"begin": page["rows"]["pre-trained, frozen"]["begin"]}
    page |= {"sweep": {}, "seeds": 1}
    result = fill(Matrix.of(written(tmp_path, page)), tmp_path / "out", None, 0, said.append)
    assert len(result["rows"]) == 3
    assert sum(line.startswith("training") for line in said) == 4, "a beginning, and each row's own"


def test_a_joint_experiment_serves_all_its_columns(tmp_path):
    """One training, judged in two columns; another row is trained for each."""
    tasks = {"words": {}, "quadrants": {}}
    both = EXPERIMENT | {
        "data": {"tokenizers": {"letters": {}, "dots": {}, "colour": {}}, "tasks": tasks, "token_budget": 64}
    }
    (tmp_path / "both.yaml").write_text(yaml.safe_dump(both))
    column = {"experiment": str(tmp_path / "both.yaml"), "metric": "accuracy", "limit": 4}
    own = {"words": ["letters"], "quadrants": ["dots", "colour"]}
    alone = {
        name: {"data.tasks": {name: {}}, "data.tokenizers": {kind: {} for kind in kinds}} for name, kinds in own.items()
    }
    page = {
        "columns": {name: {**column, "task": name} for name in tasks},
        "rows": {"alone": {"per": alone}, "joint": {}},
    }
    said: list[str] = []
    fill(Matrix.of(written(tmp_path, page)), tmp_path / "out", None, 0, said.append)
    assert sum(line.startswith("training") for line in said) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colums": {}}, "matrix setting 'colums'"),
        ({"rows": {}}, "expected `rows`"),
        ({"control": "nobody"}, "row 'nobody'"),
        ({"sweep": {"model.lr": 0.1}}, "a list of values"),
        ({"seeds": 0}, "at least 1"),
        ({"rows": {"a": {"per": {"numbers": {}}}}}, "column 'numbers'"),
        ({"rows": {"a": {"beginn": []}}}, "setting of the row 'a'"),
        ({"columns": {"words": {"task": "words"}}}, "'words' cannot be made"),
    ],
)
def test_what_is_wrong_with_a_page_is_said_before_anything_runs(page, tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        Matrix.of(written(tmp_path, page | change))


def test_every_matrix_of_the_shelf_can_be_read_and_names_what_there_is():
    """Experiments, tasks and places exist; a control without pre-training is among the rows."""
    files = sorted((presets.root() / "matrices").glob("*.yaml"))
    assert files
    for file in files:
        matrix = Matrix.of(file)
        assert file.read_text().startswith(f"# anyformer reproduce {file.stem} --data_dir data")
        for row in matrix.rows:
            for name, column in matrix.columns.items():
                *_, last = [step.settings() for step in matrix.chain(row, name, {})]
                assert column.task in last.data["tasks"], (file, row, name)
