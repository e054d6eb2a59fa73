"""`fit --safe`: an experiment of somebody else's is held to be data before anything can be imported for it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from anyformer import presets
from anyformer.cli import main
from anyformer.errors import ConfigError
from anyformer.training.safe import require_safe

PLAIN = {
    "seed_everything": 0,
    "model": {"backbone": {"dim": 16, "heads": 2, "depth": 1}},
    "data": {"tokenizers": {"text": {}}, "tasks": {"python_docs": {}}},
    "trainer": {"max_steps": 2, "logger": False, "default_root_dir": "runs/it"},
}
CODE = {"class_path": "payload.Payload"}

REFUSED = {
    "a callback": {"trainer": {"callbacks": [CODE]}},
    "one callback": {"trainer": {"callbacks": CODE}},
    "a callback by its path": {"trainer": {"callbacks": ["payload.Payload"]}},
    "a logger": {"trainer": {"logger": CODE}},
    "a logger by its path": {"trainer": {"logger": "payload.Payload"}},
    "loggers": {"trainer": {"logger": [False, CODE]}},
    "a strategy": {"trainer": {"strategy": "payload.Payload"}},
    "a strategy's class": {"trainer": {"strategy": CODE}},
    "an accelerator": {"trainer": {"accelerator": CODE}},
    "a profiler": {"trainer": {"profiler": CODE}},
    "a plugin": {"trainer": {"plugins": [CODE]}},
    "a plugin by its path": {"trainer": {"plugins": "payload.Payload"}},
    "within a listed class": {
        "trainer": {"callbacks": {"class_path": "anyformer.Checkpoints", "init_args": {"dirpath": CODE}}}
    },
    "beside a listed class": {"trainer": {"callbacks": {"class_path": "anyformer.Checkpoints", "dict_kwargs": {}}}},
    "a model": {"model": {"model": CODE}},
    "a model by its path": {"model": {"model": "payload.Payload"}},
    "the learner": {"model": CODE},
    "the learner's file": {"model": "payload.yaml"},
    "the mixture": {"data": CODE},
    "the mixture's file": {"data": "payload.yaml"},
    "the trainer's file": {"trainer": "payload.yaml"},
    "deep in the data": {"data": {"tasks": {"python_docs": {"objective": {"deep": [CODE]}}}}},
    "another section": {"optimizer": CODE},
    "another file": {"config": "payload.yaml"},
    "a URL to begin with": {"model": {"start": "https://example.org/last"}},
    "a URL to resume from": {"ckpt_path": "https://example.org/last"},
    "a bucket to write to": {"trainer": {"default_root_dir": "s3://bucket/x"}},
    "a folder elsewhere": {"trainer": {"default_root_dir": "/tmp/elsewhere"}},
    "a folder above": {"trainer": {"default_root_dir": "../../elsewhere"}},
    "somebody's home": {"trainer": {"default_root_dir": "~/elsewhere"}},
    "a log's name elsewhere": {
        "trainer": {"logger": {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"name": "../../up"}}}
    },
    "a log elsewhere": {
        "trainer": {"logger": {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "/tmp"}}}
    },
}


def written(folder: Path, change: dict) -> Path:
    content = {**PLAIN, **{key: {**PLAIN[key], **value} if isinstance(value, dict) and key in PLAIN else value
                           for key, value in change.items()}}  # fmt: skip
    file = folder / "experiment.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.fixture
def payload(tmp_path, monkeypatch) -> Path:
    """A module that says so when it is imported, where a configuration could reach it."""
    mark = tmp_path / "ran"
    (tmp_path / "payload.py").write_text(f"open({str(mark)!r}, 'w')\nclass Payload: ...\n")
    (tmp_path / "payload.yaml").write_text("class_path: payload.Payload\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "payload", raising=False)
    return mark


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_data_is_refused(payload, tmp_path, kind):
    """With the place's name, and before anything is imported; on the command line as in a file."""
    file = written(tmp_path, REFUSED[kind])
    with pytest.raises(ConfigError, match=r"safe|section"):
        require_safe(["--safe", "--config", str(file)])
    with pytest.raises(ConfigError, match=r"safe|section"):
        require_safe([f"-c={file}", "--safe"])
    assert not payload.exists() and "payload" not in sys.modules


@pytest.mark.parametrize(
    "argument",
    [
        "--trainer.callbacks=payload.Payload", "--trainer.callbacks+=payload.Payload", "--model=payload.yaml",
        "--trainer.callbacks.class_path=payload.Payload", "--model.model=payload.Payload", "--data.class_path=x",
        "--trainer.logger=payload.Payload", "--trainer.strategy=payload.Payload", "--ckpt_path=https://example.org/x",
        "--model.start=https://example.org/x", "--optimizer=payload.Payload", "--config=https://example.org/x",
    ],
)  # fmt: skip
def test_the_command_line_is_held_to_it_too(payload, argument):
    with pytest.raises(ConfigError):
        require_safe(["--safe", argument])
    with pytest.raises(ConfigError):
        require_safe([*argument.split("=", 1), "--safe"])
    assert not payload.exists()


def test_plain_experiments_pass(tmp_path):
    """Among them all of ours."""
    require_safe(["--safe", "--config", str(written(tmp_path, {})), "--trainer.max_steps=3", "--trainer.precision",
                  "bf16-mixed", "--trainer.default_root_dir=/tmp/mine", "--print_config", "--model.lr", "1e-3",
                  "--data.tasks={digits: {}}", "--trainer.strategy=ddp"])  # fmt: skip
    for file in (presets.root() / "experiments").glob("*.yaml"):
        require_safe(["--config", str(file)])


def test_the_command_refuses_before_it_imports(payload, tmp_path, capsys):
    """Exit status 2 and one sentence; without --safe the same file would run, which `--help` says."""
    file = written(tmp_path, REFUSED["a callback"])
    with pytest.raises(SystemExit) as end:
        main(["fit", "--safe", "--config", str(file)])
    assert end.value.code == 2 and "trainer.callbacks" in capsys.readouterr().err
    assert not payload.exists()
    with pytest.raises(SystemExit):
        main(["fit", "--help"])
    assert "An experiment file is code" in " ".join(capsys.readouterr().out.split())
