"""A plan follows from settings by arithmetic, and the page shows what the command says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from anyformer.architecture import parameters, preset
from anyformer.architecture.plan import Assumptions, plan
from anyformer.cli import main
from anyformer.errors import ConfigError

PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
SHOWN = re.findall(r"```\n(anyformer plan .*)\n```\n\n((?:\|.*\n)+)", PAGE.read_text(encoding="utf-8"))


@pytest.mark.parametrize(("command", "table"), SHOWN, ids=[command[15:40] for command, _ in SHOWN])
def test_the_page_shows_what_the_command_says(command, table, capsys):
    with pytest.raises(SystemExit) as ended:
        main(command.split()[1:])
    assert ended.value.code == 0
    assert capsys.readouterr().out == table


def test_the_page_has_plans():
    assert len(SHOWN) >= 2


def values(model: str, gpus: int, **given) -> dict[str, str]:
    return {figure.name: figure.values[0] for figure in plan(preset(model), [gpus], Assumptions(**given))}


def test_a_published_run_is_as_large_as_published():
    """GPT-3's 300 G tokens took 3.14e23 FLOPs (arXiv:2005.14165, appendix D), counted without attention's scores."""
    assert float(values("gpt3-175b", 8, tokens=300e9)["FLOPs in all"]) == pytest.approx(3.14e23, rel=0.06)


def test_parts_shrink_with_ranks_and_copies_do_not():
    few, many = values("llama-gqa", 8), values("llama-gqa", 64)
    assert few["ddp, GB a GPU"] == many["ddp, GB a GPU"]
    saved = float(few["sharded, GB a GPU"]) - float(many["sharded, GB a GPU"])
    assert saved == pytest.approx(16 * parameters(preset("llama-gqa")) * (1 / 8 - 1 / 64) / 1e9, abs=0.11)
    assert values("llama-gqa", 1)["sharded, exchange a step"] == "0.00 s"


@pytest.mark.parametrize(("model", "gpus", "more"), [("rnnsearch", 8, {}), ("gpt2", 0, {}), ("gpt2", 8, {"mfu": 1.2})])
def test_what_cannot_be_planned_is_refused(model, gpus, more):
    with pytest.raises(ConfigError):
        plan(preset(model), [gpus], Assumptions(**more))
