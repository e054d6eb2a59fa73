"""Every experiment of configs/experiments is built through the command line and makes a few steps."""

from __future__ import annotations

import json
from pathlib import Path

import corpora
import pytest
import yaml

import anyformer as af
from anyformer.cli import main
from anyformer.training.experiment import read

CONFIGS = sorted((Path(__file__).parents[1] / "configs" / "experiments").glob("*.yaml"))
SHORT = ["--trainer.max_steps=3", "--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.logger=false"]
TINY = ["--model.backbone.dim=24", "--model.backbone.depth=1", "--model.backbone.heads=2"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Small made-up copies of the published data sets, in their formats."""
    folder = tmp_path_factory.mktemp("data")
    corpora.write_all(folder)
    return folder


def test_there_are_experiments():
    assert "quickstart" in [config.stem for config in CONFIGS]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.stem)
def test_an_experiment_makes_steps(config, data, tmp_path, capsys):
    """Its own tokenizers, a tiny backbone where it has no preset: steps are made, each task had a loss, the checkpoint
    loads."""
    small = [] if "preset" in read(config).model else TINY
    where = [f"--trainer.default_root_dir={tmp_path}", f"--data.data_dir={data}"]
    with pytest.raises(SystemExit) as end:
        main(["fit", "--config", str(settled(config, data, tmp_path / "before")), *SHORT, *small, *where])
    assert not end.value.code, capsys.readouterr().err
    assert json.loads((tmp_path / "last" / "manifest.json").read_text())["step"] == 3
    experiment = read(config)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step ")]
    assert all(any(f"  {task} " in line for line in said) for task in experiment.data["tasks"]), said
    assert set(af.load(tmp_path).tokenizers) == set(experiment.data["tokenizers"])


def settled(config, data, out) -> Path:
    """The experiment; where one of its tokenizers is another experiment's model, with that trained first."""
    content, before = yaml.safe_load(config.read_text()), None
    for settings in content["data"]["tokenizers"].values():
        if settings and "checkpoint" in settings:
            before = config.with_stem(settings["checkpoint"].split("/")[-2])
            settings["checkpoint"] = f"{out}/last"
    if before is None:
        return config
    where = [f"--trainer.default_root_dir={out}", f"--data.data_dir={data}"]
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(before), *SHORT, *TINY, *where])
    (out / config.name).write_text(yaml.safe_dump(content))
    return out / config.name


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.stem)
def test_an_experiment_says_how_it_is_run(config):
    """The first line is the command, so that the file can be used by itself."""
    assert config.read_text().startswith(f"# anyformer fit --config configs/experiments/{config.name}")
