"""A stranger's package adds a modality and a task: installed, listed, checked, trained and evaluated by the
command line alone, in a throw-away environment, with no change to the platform."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

import anyformer

PACKAGE = Path(__file__).parents[1] / "examples/sensor_series"
WALK_THROUGH = Path(__file__).parents[1] / "docs/add_a_modality.md"
STEPS = 12

Run = Callable[..., subprocess.CompletedProcess]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """`run("list", "tasks")` runs the command line inside an environment that also has the package. The
    environment sees this one's libraries, so nothing is downloaded."""
    folder = tmp_path_factory.mktemp("throwaway")
    environment = folder / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.check_output([python, "-c", ask], text=True).strip())
    (site / "ours.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    _install(python)
    start = [str(python), "-c", "from anyformer.cli import main; main()"]

    def command(*arguments: object) -> subprocess.CompletedProcess:
        done = subprocess.run(
            [*start, *map(str, arguments)],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{arguments} exited {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done

    return command


def _install(python: Path) -> None:
    beside = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    assert beside, "expected uv beside this Python; run `make setup`"
    offline = ["--offline", "--no-deps", "--no-build-isolation", "--no-cache"]
    subprocess.run([beside, "pip", "install", "--python", python, *offline, PACKAGE], check=True)


def test_it_is_listed_with_its_package_beside_the_built_in_ones(run):
    rows = {row["name"]: row["origin"] for row in json.loads(run("list", "tokenizers", "--json").stdout)}
    assert rows["sensor"] == "sensor_series:SensorTokenizer (anyformer-sensor-series 0.1.0)"
    assert "text" in rows
    assert "activities" in run("list", "tasks").stdout


def test_this_environment_is_untouched():
    assert "sensor" not in anyformer.list_tokenizers()


def test_it_keeps_both_contracts(run):
    assert "keeps its contract" in run("check", "tokenizer", "sensor").stdout
    assert "keeps its contract" in run("check", "task", "activities").stdout


def test_it_is_trained_and_evaluated(run, tmp_path):
    """Few steps: the path is tested here, not what is learned."""
    config = PACKAGE / "activities.yaml"
    out = tmp_path / "run"
    run("fit", "--config", config, "--trainer.max_steps", STEPS, "--trainer.default_root_dir", out)
    (checkpoint,) = (path.parent for path in out.rglob("last/manifest.json"))
    assert set(json.loads((checkpoint / "config.json").read_text())) and (checkpoint / "model.safetensors").is_file()

    few = tmp_path / "few.yaml"
    few.write_text((PACKAGE / "evaluation.yaml").read_text().replace("activities: {}", "activities: {limit: 8}"))
    run("evaluate", "--checkpoint", checkpoint, "--config", few, "--out", tmp_path / "report")
    (row,) = json.loads((tmp_path / "report/report.json").read_text())["results"]
    assert (row["task"], row["modality"], row["metric"], row["n"]) == ("activities", "sensor", "accuracy", 8)
    assert 0 <= row["value"] <= 1 and 0.25 < row["baseline"] < 1


def test_the_walk_through_shows_the_package_as_it_is():
    """Every block of Python or YAML in the walk-through stands in the package's files, word for word."""
    files = [path.read_text() for path in sorted(PACKAGE.iterdir()) if path.suffix in (".py", ".toml", ".yaml")]
    blocks = re.findall(r"```(?:python|yaml|toml)\n(.*?)```", WALK_THROUGH.read_text(), re.DOTALL)
    assert len(blocks) >= 4
    for block in blocks:
        for part in block.split("...\n"):  # an ellipsis line stands for what is left out
            assert any(part.strip("\n") in file for file in files), f"no longer in the package:\n{part}"
