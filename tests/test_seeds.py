"""A seed on the command line is the seed of the run."""

from __future__ import annotations

import pytest
import torch
import yaml

import anyformer as af
from anyformer.cli import main

pytestmark = pytest.mark.usefixtures("toys")

EXPERIMENT = {
    "model": {"backbone": {"dim": 8, "heads": 2, "depth": 1}, "lr": 0.001},
    "data": {
        "tokenizers": {"letters": {}, "dots": {}, "colour": {}},
        "tasks": {"words": {}, "quadrants": {}},
        "token_budget": 64,
    },
    "trainer": {"accelerator": "cpu", "max_steps": 2, "limit_val_batches": 0, "logger": False},
}


def trained(folder, *arguments: str) -> dict[str, torch.Tensor]:
    (folder / "x.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    where = ["--config", str(folder / "x.yaml"), "--trainer.default_root_dir", str(folder / "run")]
    with pytest.raises(SystemExit) as end:
        main(["fit", *where, *arguments])
    assert not end.value.code
    return af.load(folder / "run" / "last").state_dict()


def test_seed_everything_is_every_seed(tmp_path):
    """Weights and order; the mixture's own seed wins; what was saved runs again, and with another seed too."""
    kinds = {
        "default": [],
        "one": ["--seed_everything", "1"],
        "again": ["--config", str(tmp_path / "one.yaml")],
        "other": ["--config", str(tmp_path / "one.yaml"), "--seed_everything", "2"],
        "own": ["--seed_everything", "1", "--data.seed", "0"],
    }
    found = {}
    for name, arguments in kinds.items():
        found[name] = trained(tmp_path, *arguments)
        (tmp_path / "run" / "config.yaml").rename(tmp_path / f"{name}.yaml")
    alike = lambda one, other: all(torch.equal(found[one][key], found[other][key]) for key in found[one])  # noqa: E731
    assert alike("default", "own") and alike("one", "again")
    assert not alike("default", "one") and not alike("one", "other") and not alike("default", "other")
