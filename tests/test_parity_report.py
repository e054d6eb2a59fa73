"""The parity table says what was measured, and the one in docs/ speaks of every family."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import references
import torch
from parity.counts import COUNTS
from parity.table import Distance, Row, counted, distance, line, origin, rendered, understood
from parity.trial import Verdict

from anyformer.architecture import names, parameters, preset
from anyformer.weights.parity import Comparison

ROOT = Path(__file__).parents[1]
RECORDED = ROOT / "docs/results/parity.md"

VERDICTS = (
    Verdict("backbone.norm: rms", "caught", "ordinary", 812.0),
    Verdict("backbone.norm_eps: 1e-06", "caught", "sharp", 12.5),
    Verdict("backbone.dim: twice", "refused", "ordinary"),
    Verdict("backbone.positions: offset 1", "impossible", "ordinary"),
    Verdict("heads.text.tie: False", "invisible", identical=True),
)


def row(**changes) -> Row:
    distances = {
        "ordinary": Distance(2e-6, 0.04, 3.0, equal=20, sequences=20),
        "sharp": Distance(3e-5, 0.5, 4.0, equal=19, sequences=20),
    }
    usual = {"family": "gpt2", "reference": "GPT2LMHeadModel", "distances": distances, "verdicts": VERDICTS}
    return Row(**{**usual, "tensors": 52, "noticed": 52, **changes})


def test_a_row_says_how_near_and_what_was_flipped():
    cells = [cell.strip() for cell in line(row()).strip("|").split("|")]
    assert cells[:5] == ["gpt2", "GPT2LMHeadModel", "2.0e-06 (3.0)", "3.0e-05 (4.0)", "39 of 40"]
    assert cells[6:] == ["5", "2", "2", "1", "52 of 52"]


def test_a_page_says_where_it_comes_from_and_sums_up():
    page = rendered([row(), row(family="bart")], [("Commit", "abc"), ("Machine", "a machine")])
    assert page.startswith("# Parity\n\n- Commit: abc\n- Machine: a machine\n\n2 families")
    assert "the largest difference is 0.50 of what is allowed, 78 of 80 generated sequences are equal" in page
    assert "10 flipped switches: 8 noticed, the weakest at 12.5 times what is allowed, and 2 that no output" in page
    assert "- 2 in 2 families: the head's own table" in page
    assert "does not hold" not in page


def test_a_page_names_what_does_not_hold():
    page = rendered([row(failures=["gpt2, sharp: logits differs by 1.0e-01"])], [])
    assert page.endswith("## What does not hold\n\n- gpt2, sharp: logits differs by 1.0e-01\n")


def test_a_distance_is_the_worst_of_its_comparisons():
    compared = [
        Comparison("logits", 1e-6, 4e-6), Comparison("loss", 3e-6, 1e-4), Comparison("greedy_ids", 1.0, 0.0),
        Comparison("beam4_ids", 0.0, 0.0),
    ]  # fmt: skip
    outputs = {"logits": torch.tensor([[-7.0, 2.0]]), "greedy_ids": torch.zeros(2, 9), "beam4_ids": torch.zeros(8, 9)}
    assert distance(compared, outputs) == Distance(3e-6, 0.25, 7.0, equal=9, sequences=10)
    assert distance([Comparison("logits", math.inf, 0.0)], outputs).share == math.inf


def test_a_mutant_is_understood_when_it_is_noticed_or_its_reason_holds():
    assert all(understood("gpt2", verdict) for verdict in VERDICTS)
    assert not understood("gpt2", Verdict("backbone.norm: rms", "invisible", identical=True)), "without a reason"
    assert not understood("gpt2", Verdict("heads.text.tie: False", "invisible")), "its reason is not proven"
    assert not understood("gpt2", Verdict("heads.text.tie: False", "caught", excess=9.0)), "its reason is wrong"


def test_a_reference_is_named_with_its_version():
    assert origin({"architectures": ["GPT2LMHeadModel"]}).startswith("GPT2LMHeadModel, transformers 5.")
    assert origin({"cls": "torch.nn.Transformer"}).startswith("Transformer, torch 2.")
    assert "paper" in origin({"cls": "references.rnnsearch.RNNsearch"})


@pytest.mark.parametrize("family", COUNTS)
def test_counts_are_those_of_the_references(family):
    name, _, exact = COUNTS[family]
    assert family in references.FAMILIES and parameters(preset(name)) == exact
    assert counted(family).endswith(f"{exact:,}; the same")
    assert counted("qwen2") == "-"


def test_the_recorded_table_speaks_of_every_family_and_preset():
    """After a change of either: python benchmarks/parity.py"""
    page = RECORDED.read_text(encoding="utf-8")
    recorded = re.findall(r"^\| (\w+) \|", page, re.MULTILINE)
    assert recorded[0] == "family" and recorded[1:] == list(references.FAMILIES)
    assert f" of {len(names())} presets" in page
    assert "What does not hold" not in page and re.search(r"^- Commit: [0-9a-f]{40}", page, re.MULTILINE)


def test_the_command_writes_the_table(tmp_path):
    command = [sys.executable, ROOT / "benchmarks/parity.py", "--families", "rnnsearch", "--out", tmp_path / "table.md"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "rnnsearch: holds" in done.stdout
    assert "| rnnsearch | the equations of the paper, written out |" in (tmp_path / "table.md").read_text()
