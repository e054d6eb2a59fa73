"""Every experiment of configs/experiments is built through the command line and makes a few steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import anyformer as af
from anyformer.cli import main
from anyformer.cli.experiment import read

CONFIGS = sorted((Path(__file__).parents[1] / "configs" / "experiments").glob("*.yaml"))
TINY = [
    "--model.backbone.dim=24", "--model.backbone.depth=1", "--model.backbone.heads=2", "--trainer.max_steps=3",
    "--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.logger=false",
]  # fmt: skip


def test_there_are_experiments():
    assert "quickstart" in [config.stem for config in CONFIGS]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.stem)
def test_an_experiment_makes_steps(config, tmp_path, capsys):
    """Its own data and tokenizers, a tiny backbone: steps are made, each task had a loss, the checkpoint loads."""
    with pytest.raises(SystemExit) as end:
        main(["fit", "--config", str(config), *TINY, f"--trainer.default_root_dir={tmp_path}"])
    assert not end.value.code, capsys.readouterr().err
    assert json.loads((tmp_path / "last" / "manifest.json").read_text())["step"] == 3
    experiment = read(config)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step ")]
    assert all(any(f"  {task} " in line for line in said) for task in experiment.data["tasks"]), said
    assert set(af.load(tmp_path).tokenizers) == set(experiment.data["tokenizers"])


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.stem)
def test_an_experiment_says_how_it_is_run(config):
    """The first line is the command, so that the file can be used by itself."""
    assert config.read_text().startswith(f"# anyformer fit --config configs/experiments/{config.name}")
