"""Promises under faults: a few of each kind in every run of the tests, and the bench that counts them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
import runs

from anyformer.chaos import TRIALS, Outcome, Trial, chance
from anyformer.chaos.ledger import Ledger, Line, page
from anyformer.cli import main

TRIAL = Trial("it", "it keeps its word", 10, "nowhere:run")


def command(arguments: list[str], output: str) -> None:
    """A process's whole life: the command, with its output in a file."""
    with open(output, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.argv[1:] = arguments
        main(arguments)


@pytest.mark.parametrize("name", [trial.name for trial in TRIALS.values() if trial.quick])
def test_a_few_of_each_trial(tmp_path, name):
    """The full figures are the command's; a failure's sentence is the test's."""
    output = tmp_path / "output.txt"
    process = runs.start(command, ["chaos", name, "--n", str(TRIALS[name].quick), "--out", str(tmp_path)], str(output))
    assert runs.end(process) == 0, output.read_text()
    lines = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    assert [line["trial"] for line in lines] == [name] * TRIALS[name].quick


def test_counts_add_up_and_failures_come_first(tmp_path):
    """A call goes on where the last one stopped, tries failures again, and the latest line of a number counts."""
    ledger = Ledger(tmp_path)
    assert ledger.next("it", 3) == [0, 1, 2] and ledger.left(TRIAL) == 10
    for index in range(3):
        ledger.add(Line("it", index, "it broke" if index == 1 else "", {"kind": "ab"[index % 2]}, commit="c" * 40))
    with open(ledger.journal.file, "a") as file:
        file.write('{"trial": "it", "ind')  # a crash
    again = Ledger(tmp_path)
    assert again.next("it", 3) == [1, 3, 4] and again.left(TRIAL) == 8
    assert again.next("it", 2, seed=1) == [10**6, 10**6 + 1] and again.left(TRIAL, seed=1) == 10
    assert again.next("it", 0) == []
    assert again.next("other", 1) == [0]
    again.add(Line("it", 1))
    assert [line.index for line in Ledger(tmp_path).lines] == [0, 1, 2, 1]


def test_the_page_tells_failures(tmp_path):
    """Of now, and that there were some before."""
    ledger = Ledger(tmp_path)
    for index in range(3):
        ledger.add(
            Line("it", index, "it broke" if index else "", {"kind": "ab"[index % 2], "cut": 1000}, 2.0, "c" * 40)
        )
    ledger.add(Line("it", 1, "", {"kind": "b"}, 2.0, "d" * 40 + "+"))
    told = page(ledger, [TRIAL, Trial("untried", "nothing", 5, "x:y")], "a machine")
    assert "| `it` | it keeps its word | 3 | 1 (1 more failed at first, and passed when tried again) | 10 | 2 |" in told
    assert "cccccccccc, dddddddddd+ |" in told
    assert "| `untried` | nothing | 0 | 0 | 5 | | |" in told
    assert "- `it`: kind: a 2, b 1; cases: cut 2,000" in told
    assert "- `it` number 2: it broke" in told


def test_a_trial_follows_from_its_name_and_number():
    numbers = {(name, index): chance(name, index).random() for name in ("a", "b") for index in range(3)}
    assert len(set(numbers.values())) == 6
    assert chance("a", 1).random() == numbers["a", 1]
    assert Outcome().passed and not Outcome("x").passed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["recrod"], "Unknown trial 'recrod'.*Did you mean 'record'"),
        ([], "expected a name of `anyformer chaos --list`"),
        (["record", "--n", "0"], "--n 0.*expected at least 1"),
        (["record", "--out", "{file}"], "ledger.jsonl cannot be kept there"),
    ],
)
def test_what_is_asked_wrongly_is_said(tmp_path, capsys, arguments, said):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as end:
        main(["chaos", *(part.format(file=tmp_path / "file") for part in arguments)])
    assert end.value.code == 2
    assert re.search(said, capsys.readouterr().err)


def test_the_list_needs_no_torch():
    code = """import sys, anyformer.cli
try:
    anyformer.cli.main(["chaos", "--list"])
finally:
    assert "torch" not in sys.modules"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in TRIALS)
