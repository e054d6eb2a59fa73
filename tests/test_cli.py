"""The command line: every command runs, help costs nothing, and a slip of the finger is answered in one sentence."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import runs
import yaml
from PIL import Image
from toys import ENTRY_POINTS

from anyformer.cli import COMMANDS, main

pytestmark = pytest.mark.usefixtures("toys")

EXPERIMENT = {
    "model": {"backbone": {"dim": 16, "heads": 2, "depth": 1}, "lr": 0.001},
    "data": {
        "tokenizers": {"text": {"vocab_size": 300}, "image": {"channels": 1}},
        "tasks": {"digits": {"copies": 1}},
        "token_budget": 256,
    },
    "trainer": {"accelerator": "cpu", "max_steps": 2, "limit_val_batches": 0, "logger": False},
}
TOYS = {
    "tokenizers": {"letters": {}, "dots": {}, "colour": {}},
    "tasks": {"words": {}, "quadrants": {}},
    "token_budget": 64,
}


def anyformer(*arguments: object) -> int:
    """Exit status of a command, run in this process."""
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return int(end.value.code or 0)


def write(file: Path, content: object) -> Path:
    file.write_text(yaml.safe_dump(content))
    return file


def changed(section: str, **settings: object) -> dict:
    return EXPERIMENT | {section: EXPERIMENT[section] | settings}


@pytest.fixture(scope="module")
def run(toys, tmp_path_factory) -> Path:
    """A folder in which `fit` has made two steps."""
    folder = tmp_path_factory.mktemp("run")
    config = write(folder / "experiment.yaml", EXPERIMENT)
    assert anyformer("fit", "--config", config, "--trainer.default_root_dir", folder) == 0
    return folder


# Lightness


LAZY = """
import sys
from anyformer.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    status = end.code
heavy = sorted({"torch", "lightning", "numpy", "sentencepiece"} & set(sys.modules))
print("heavy:", heavy, "status:", status, file=sys.stderr)
"""


@pytest.mark.parametrize(
    "arguments", [["--help"], [], ["list", "tokenizers"], ["list", "tasks", "--json"], ["evaluate", "--help"], ["fti"]]
)
def test_help_and_lists_import_nothing_heavy(arguments):
    """They answer at once: no torch, and a fraction of a second of CPU (the figure is printed; 0.3 s is the aim)."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = subprocess.run(
        [sys.executable, "-c", LAZY, *arguments], capture_output=True, text=True, timeout=runs.PATIENCE
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"anyformer {' '.join(arguments)}: {seconds:.2f} s of CPU")
    assert f"heavy: [] status: {2 if arguments == ['fti'] else 0}" in found.stderr
    assert seconds < 1


def test_help_names_every_command(capsys):
    assert anyformer("--help") == 0
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name in COMMANDS)


def test_lists_tell_names_and_origins(capsys):
    assert anyformer("list", "tokenizers", "--json") == 0
    rows = {row["name"]: row["origin"] for row in json.loads(capsys.readouterr().out)}
    assert {"text", "image", "audio", "rl"} <= rows.keys()
    assert "anyformer_tokenizers.text" in rows["text"]
    assert anyformer("list", "experiments") == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == sorted(names) and {"quickstart", "char-shakespeare"} <= set(names)


def test_the_version_is_told(capsys):
    from anyformer import __version__

    assert anyformer("--version") == 0
    assert capsys.readouterr().out == f"anyformer {__version__}\n"


# Slips of the finger


def x(section: str = "", **settings: object) -> list[object]:
    """`fit` with a configuration in which a section is changed."""
    return ["fit", changed(section, **settings) if section else EXPERIMENT]


SLIPS = {
    "command": (["fti"], "Unknown command 'fti'. Did you mean 'fit'?"),
    "kind": (["list", "tokenisers"], "Did you mean 'tokenizers'?"),
    "flag": (["generate", "--chekpoint", "x"], "Unknown option '--chekpoint'", "Did you mean '--checkpoint'?"),
    "missing value": (["generate", "--checkpoint"], "--checkpoint", "expected one argument"),
    "missing flag": (["evaluate", "--out", "x", "--config", "y"], "--checkpoint"),
    "number": (["generate", "--checkpoint", "x", "--max-new", "few"], "--max-new", "'few'"),
    "tokenizer": (["check", "tokenizer", "txt"], "Unknown tokenizer 'txt'", "Did you mean 'text'?"),
    "task": (["check", "task", "digit"], "Unknown task 'digit'", "Did you mean 'digits'?"),
    "trainer flag": ([*x(), "--trainer.max_step=3"], "'trainer.max_step'", "Did you mean 'trainer.max_steps'?"),
    "model flag": ([*x(), "--model.bakbone.dim=3"], "'model.bakbone.dim'", "Did you mean 'model.backbone'?"),
    "data flag": ([*x(), "--data.token_budge", "3"], "'data.token_budge'", "Did you mean 'data.token_budget'?"),
    "resume flag": ([*x(), "--ckpt_pat", "last"], "'ckpt_pat'", "Did you mean 'ckpt_path'?"),
    "flag's value": ([*x(), "--trainer.max_steps=abc"], "trainer.max_steps", "abc"),
    "stray word": ([*x(), "extra"], "extra"),
    "backbone setting": ([*x(), "--model.backbone.dmi=3"], "no setting 'dmi'", "Did you mean 'dim'?"),
    "position scheme": ([*x(), '--model.backbone.positions={"type":"rotery"}'], "'rotery'", "Did you mean 'rotary'?"),
    "schedule": ([*x(), "--model.schedule.type=cosin"], "'cosin'", "Did you mean 'warmup_cosine'?"),
    "schedule setting": ([*x(), "--model.schedule.warmup=3"], "'warmup'", "Did you mean 'warmup_steps'?"),
    "accelerator": ([*x(), "--trainer.accelerator=cuda"], "CUDAAccelerator"),
    "devices": ([*x(), "--trainer.devices=-3"], "devices", "int > 0"),
    "trainer setting": (x("trainer", max_epoch=3), "'trainer.max_epoch'", "Did you mean 'trainer.max_epochs'?"),
    "tokenizer name": (x("data", tokenizers={"txt": {}}), "Unknown tokenizer 'txt'", "Did you mean 'text'?"),
    "tokenizer setting": (
        x("data", tokenizers={"text": {"vocab_sise": 300}, "image": {}}),
        "no setting 'vocab_sise'",
        "Did you mean 'vocab_size'?",
    ),
    "task name": (x("data", tasks={"digit": {}}), "Unknown task 'digit'", "Did you mean 'digits'?"),
    "task setting": (x("data", tasks={"digits": {"weigth": 1}}), "no setting 'weigth'", "Did you mean 'weight'?"),
    "missing tokenizer": (x("data", tokenizers={"text": {}}), "Task 'digits' needs a tokenizer", "'image'"),
    "no configuration": (["fit"], "data.tokenizers"),
    "missing file": (["fit", "--config", "nowhere.yaml"], "nowhere.yaml"),
}


@pytest.mark.parametrize(("arguments", "said"), [(a, s) for a, *s in SLIPS.values()], ids=SLIPS.keys())
def test_a_slip_is_one_sentence_with_the_nearest_name(tmp_path, capsys, monkeypatch, arguments, said):
    """Status 2 and one line on stderr, whatever the command; never a traceback, never a run that ignores it."""
    monkeypatch.chdir(tmp_path)
    arguments = [
        part
        for argument in arguments
        for part in (["--config", write(tmp_path / "x.yaml", argument)] if isinstance(argument, dict) else [argument])
    ]
    assert anyformer(*arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("anyformer: ")]
    assert len(lines) == 1
    assert all(part in lines[0] for part in said), lines[0]
    assert "Traceback" not in lines[0]
    assert not (tmp_path / "last").exists()


@pytest.mark.parametrize("command", ["evaluate", "generate", "fit"])
def test_a_missing_checkpoint_is_named(tmp_path, capsys, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    config = write(tmp_path / "x.yaml", EXPERIMENT if command == "fit" else {"tasks": {"digits": {}}})
    more = {
        "evaluate": ["--checkpoint", "nowhere", "--config", config, "--out", tmp_path / "out"],
        "generate": ["--checkpoint", "nowhere", "--prompt", "x"],
        "fit": ["--config", config, "--ckpt_path", "nowhere"],
    }
    assert anyformer(command, *more[command]) == 1
    assert "anyformer: nowhere: no such checkpoint directory." in capsys.readouterr().err


# Commands at work


def test_fit_writes_a_checkpoint_and_its_configuration(run):
    assert json.loads((run / "last" / "manifest.json").read_text())["step"] == 2
    kept = yaml.safe_load((run / "config.yaml").read_text())
    assert kept["model"]["backbone"] == EXPERIMENT["model"]["backbone"]
    assert kept["seed_everything"] == 0


def test_fit_resumes_from_last(tmp_path, capsys):
    """`--ckpt_path last` twice over: the first time there is none and training begins, then it goes on."""
    config = write(tmp_path / "x.yaml", EXPERIMENT | {"data": TOYS})
    common = ["fit", "--config", config, "--trainer.default_root_dir", tmp_path, "--ckpt_path", "last"]
    assert anyformer(*common) == 0
    assert anyformer(*common, "--trainer.max_steps=5") == 0
    assert json.loads((tmp_path / "last" / "manifest.json").read_text())["step"] == 5
    assert "step 5/5" in capsys.readouterr().err


def test_later_configurations_and_flags_win(tmp_path):
    first = write(tmp_path / "a.yaml", EXPERIMENT | {"data": TOYS})
    second = write(tmp_path / "b.yaml", {"trainer": {"max_steps": 3}, "model": {"lr": 0.5}})
    where = ["--trainer.default_root_dir", tmp_path]
    assert anyformer("fit", "--config", first, "--config", second, *where, "--model.lr=0.25") == 0
    kept = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert (kept["trainer"]["max_steps"], kept["model"]["lr"]) == (3, 0.25)


@pytest.mark.parametrize("flag", ["enable_progress_bar", "enable_checkpointing"])
def test_our_default_callbacks_can_be_switched_off(tmp_path, flag):
    config = write(tmp_path / "x.yaml", EXPERIMENT | {"data": TOYS})
    where = ["--trainer.default_root_dir", tmp_path]
    assert anyformer("fit", "--config", config, *where, f"--trainer.{flag}=false") == 0
    assert (tmp_path / "last").exists() == (flag == "enable_progress_bar")


def test_a_configured_callback_replaces_our_default(tmp_path):
    callback = {"class_path": "anyformer.Checkpoints", "init_args": {"every_n_train_steps": 1}}
    bar = {"class_path": "lightning.pytorch.callbacks.TQDMProgressBar"}
    trainer = EXPERIMENT["trainer"] | {"callbacks": [callback, bar]}
    config = write(tmp_path / "x.yaml", EXPERIMENT | {"data": TOYS, "trainer": trainer})
    assert anyformer("fit", "--config", config, "--trainer.default_root_dir", tmp_path) == 0
    assert (tmp_path / "last" / "manifest.json").exists()


def test_check_reads_an_experiments_settings(tmp_path, capsys):
    """What the mixture reads (weights) is not the task's; a name the file lacks is said."""
    data = EXPERIMENT["data"] | {"tasks": {"digits": {"copies": 1, "weight": 2}}}
    config = write(tmp_path / "x.yaml", EXPERIMENT | {"data": data})
    assert anyformer("check", "tokenizer", "image", "--config", config) == 0
    assert anyformer("check", "tokenizer", "audio", "--config", config) == 2
    assert "audio" in capsys.readouterr().err


def test_a_device_that_is_not_there_is_said(run, tmp_path, capsys):
    config = write(tmp_path / "e.yaml", {"tasks": {"digits": {}}})
    where = ("--checkpoint", run, "--config", config, "--out", tmp_path, "--device", "nowhere")
    assert anyformer("evaluate", *where) == 2
    assert "--device nowhere" in capsys.readouterr().err


def test_callbacks_of_a_configuration_join_ours(tmp_path):
    callbacks = [{"class_path": "lightning.pytorch.callbacks.LearningRateMonitor"}]
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": str(tmp_path / "log")}}
    trainer = EXPERIMENT["trainer"] | {"callbacks": callbacks, "logger": logger, "log_every_n_steps": 1}
    config = write(tmp_path / "x.yaml", EXPERIMENT | {"data": TOYS, "trainer": trainer})
    assert anyformer("fit", "--config", config, "--trainer.default_root_dir", tmp_path) == 0
    assert (tmp_path / "last" / "manifest.json").exists()
    (metrics,) = (tmp_path / "log").rglob("metrics.csv")
    header = metrics.read_text().splitlines()[0]
    assert {"train/words", "train/quadrants", "lr-AdamW/pg1"} <= set(header.split(","))


@pytest.mark.parametrize(("command", "stage"), [("validate", "val"), ("test", "test"), ("predict", "")])
def test_held_out_commands_read_a_checkpoint(run, capsys, command, stage):
    config = write(run / f"{command}.yaml", changed("trainer", limit_val_batches=2, limit_test_batches=2))
    where = ["--trainer.default_root_dir", run, "--trainer.limit_predict_batches=2", "--ckpt_path", run / "last"]
    assert anyformer(command, "--config", config, *where) == 0
    if stage:
        assert f"{stage}/digits" in capsys.readouterr().out


def test_generate_answers_text_and_pictures(run, tmp_path, capsys):
    """The answer alone goes to stdout, and a seed draws the same one again."""
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(tmp_path / "digit.png")
    picture = ["--input", f"image={tmp_path / 'digit.png'}"]
    answers = []
    for more in (["--prompt", "se"], picture, [*picture, "--prompt", "se"]):
        sampled = ["--temperature", "1", "--top-k", "50", "--top-p", "0.9", "--seed", "3", "--max-new", "6"]
        assert anyformer("generate", "--checkpoint", run / "last", *more, *sampled) == 0
        first = capsys.readouterr()
        assert anyformer("generate", "--checkpoint", run, *more, *sampled) == 0
        assert capsys.readouterr().out == first.out
        assert "tokens/s" in first.err
        answers.append(first.out)
    assert len(set(answers)) > 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Nothing to go on"),
        (["--input", "imagephoto.png"], "expected TOKENIZER=VALUE"),
        (["--input", "imge=x.png"], "Did you mean 'image'?"),
        (["--output", "txt", "--prompt", "a"], "Did you mean 'text'?"),
        (["--prompt", "a", "--temperature", "-1"], "temperature=-1.0"),
    ],
)
def test_generate_explains_what_it_needs(run, capsys, arguments, said):
    assert anyformer("generate", "--checkpoint", run, *arguments) == 2
    assert said in capsys.readouterr().err


def test_generate_names_a_picture_that_is_none(run, tmp_path, capsys):
    (tmp_path / "torn.png").write_bytes(b"\x89PNG torn")
    assert anyformer("generate", "--checkpoint", run, "--input", f"image={tmp_path / 'torn.png'}") == 1
    assert "torn.png" in capsys.readouterr().err


def test_evaluate_writes_a_report_of_one_task(run, tmp_path, capsys):
    config = write(tmp_path / "evaluation.yaml", {"tasks": {"digits": {"limit": 6}}})
    out = tmp_path / "report"
    assert anyformer("evaluate", "--checkpoint", run, "--config", config, "--out", out) == 0
    (row,) = json.loads((out / "report.json").read_text())["results"]
    assert (row["task"], row["metric"], row["n"]) == ("digits", "accuracy", 6)
    assert "digits" in capsys.readouterr().out
    assert anyformer("compare", out, out) == 0


def test_check_holds_plugins_to_their_contract(capsys):
    assert anyformer("check", "tokenizer", "text") == 0
    assert "tokenizer text: keeps its contract" in capsys.readouterr().out


def test_check_reports_a_breach(capsys, monkeypatch):
    """Status 1 and the clause, for a tokenizer whose `length` lies."""
    from toys import Dots

    monkeypatch.setattr(Dots, "length", lambda self, raw: len(raw) + 1)
    assert anyformer("check", "tokenizer", "dots") == 1
    assert "length" in capsys.readouterr().err


def test_an_installed_package_is_found_by_the_console_script(tmp_path):
    """A package that somebody else wrote: its entry points are all that the command line needs."""
    package = tmp_path / "toys-0.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 0.0\n")
    (package / "entry_points.txt").write_text(ENTRY_POINTS)
    path = os.pathsep.join([str(tmp_path), str(runs.HERE)])
    script = Path(sys.executable).with_name("anyformer")
    found = subprocess.run(
        [script, "list", "tasks"], capture_output=True, text=True, timeout=runs.PATIENCE,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert ["words", "toys:Words", "(toys", "0.0)"] in [line.split() for line in found.stdout.splitlines()]
