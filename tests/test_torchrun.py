"""Two machines, by what `torchrun` starts on each of them: here as two agents of two processes on one machine."""

from __future__ import annotations

import csv
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import toys
import yaml

EXPERIMENT = {
    "model": {"backbone": {"dim": 16, "heads": 2, "depth": 2}, "lr": 0.01, "schedule": {"warmup_steps": 2}},
    "data": {
        "tokenizers": {"letters": {}, "dots": {}, "colour": {}},
        "tasks": {"words": {"shortest": 30, "longest": 30}, "quadrants": {"dots": 31}},
        "token_budget": 32,
    },
    "trainer": {
        "accelerator": "cpu", "max_steps": 4, "check_val_every_n_epoch": None, "num_sanity_val_steps": 0,
        "gradient_clip_val": 0.5, "enable_progress_bar": False,
    },
}  # fmt: skip


def fit(folder: Path, *more: str) -> list[str]:
    """The command of a run that keeps its held-out losses of every step in a table."""
    folder.mkdir()
    logger = {
        "class_path": "lightning.pytorch.loggers.CSVLogger",
        "init_args": {"save_dir": str(folder), "name": "log"},
    }
    trainer = EXPERIMENT["trainer"] | {"logger": logger, "default_root_dir": str(folder)}
    (folder / "it.yaml").write_text(yaml.safe_dump(EXPERIMENT | {"trainer": trainer}))
    return [str(Path(sys.executable).parent / "anyformer"), "fit", "--config", str(folder / "it.yaml"), *more]


def held_out(folder: Path) -> list[dict[str, float]]:
    with open(folder / "log" / "version_0" / "metrics.csv", newline="") as file:
        rows = [{k: float(v) for k, v in row.items() if k.startswith("val/") and v} for row in csv.DictReader(file)]
    return [row for row in rows if row]


@pytest.fixture
def environment(tmp_path) -> dict[str, str]:
    """The toys are installed plugins there; every process has one thread."""
    package = tmp_path / "toys-1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1\n")
    (package / "entry_points.txt").write_text(toys.ENTRY_POINTS)
    path = os.pathsep.join([str(tmp_path), str(Path(toys.__file__).parent)])
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_two_machines_learn_what_one_process_learns(tmp_path, environment):
    """Held-out losses of every step are those of one process at the same global batch, to 1e-5, with copies and with
    parts; `last` is read by a process of its own."""
    alone = fit(tmp_path / "one", "--trainer.accumulate_grad_batches=4", "--trainer.val_check_interval=4")
    subprocess.run(alone, env=environment, check=True, timeout=900)
    wanted = held_out(tmp_path / "one")
    assert len(wanted) == 4
    for strategy in ("ddp", "sharded"):
        folder = tmp_path / strategy
        command = fit(folder, f"--trainer.strategy={strategy}", "--trainer.num_nodes=2", "--trainer.devices=2")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        agents = [
            subprocess.Popen(
                [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=2",
                 f"--node-rank={node}", "--master-addr=127.0.0.1", f"--master-port={port}", *command,
                 "--trainer.val_check_interval=1"],
                env=environment,
            )
            for node in (0, 1)
        ]  # fmt: skip
        assert [agent.wait(900) for agent in agents] == [0, 0]
        assert held_out(folder) == [pytest.approx(step, rel=1e-5) for step in wanted]
        on = [*alone, "--trainer.max_steps=5", "--ckpt_path", str(folder / "last")]
        shutil.rmtree(tmp_path / "one" / "log")
        subprocess.run([*on, "--trainer.accumulate_grad_batches=4"], env=environment, check=True, timeout=900)
        assert len(held_out(tmp_path / "one")) == 1
