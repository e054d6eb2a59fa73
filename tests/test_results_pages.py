"""Pages of results: written from lines alone, and a missed bar says so."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from anyformer.reproduction import Reproduction, Step

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "reproductions.py"


@pytest.fixture
def pages(tmp_path, monkeypatch):
    """The script as a module, its results in a folder of the test's."""
    spec = importlib.util.spec_from_file_location("reproductions", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    return module


def line(seed: int, value: float, cpu_seconds: float = 50.0, **more) -> dict:
    rows = [
        {"row": row, "value": v, "values": {"accuracy": v}, "baselines": {"guess": 0.5, "better guess": 0.7}}
        | {"cpu_seconds": 20.0, "steps": 3, "tokens": 10, "training_flops": 1e9}
        for row, v in (("plain", value - 0.03), ("best", value))
    ]
    return {"name": "it", "value": value, "seed": seed, "cpu_seconds": cpu_seconds, "commit": "0123456789abcdef"} | {
        "rows": rows, "changed": False, "machine": "a machine"
    }  # fmt: skip


def page(*bars: dict) -> Reproduction:
    rows = {"plain": (Step("x"),), "best": (Step("x"), Step("x"))}
    return Reproduction("it", "accuracy", rows, "best", bars=bars, page="some")


def test_the_table_has_mean_spread_and_verdict(pages):
    for one in (line(1, 0.80), line(0, 0.82)):
        pages.keep("it", one)
    said = pages.page("some", [page({"at_least": 0.81}, {"better_than": "plain", "by": 0.02})])
    (row,) = [text for text in said.splitlines() if text.startswith("| it | accuracy")]
    assert "**0.81 ± 0.014**" in row and row.endswith("| met |") and "0.700 (better guess)" in row
    assert "| plain | 0.78 ± 0.014 | 3 | 10 | 1.00e+09 | 20 |" in said
    assert "| it | 1 | 0123456789 | a machine |" in said


@pytest.mark.parametrize(
    ("bar", "missed"),
    [
        ({"at_least": 0.83}, True), ({"at_least": 0.82}, False), ({"at_most": 0.81}, True), ({"at_most": 0.82}, False),
        ({"below": 0.82}, True), ({"below": 0.83}, False), ({"above_baselines": True}, False),
        ({"better_than": "plain", "by": 0.04}, True), ({"better_than": "plain", "by": 0.02}, False),
        ({"cpu_seconds": 49}, True), ({"cpu_seconds": 50}, False),
    ],
)  # fmt: skip
def test_a_missed_bar_is_named(pages, bar, missed):
    found = [line(0, 0.82)]
    assert ("missed" in pages.verdict(page(bar), found)) == missed


def test_a_peer_must_have_been_timed_and_be_as_slow(pages):
    bar, found = {"no_slower_than_peer": True}, [line(0, 0.82, cpu_seconds=50)]
    assert "missed" in pages.verdict(page(bar), found), "no peer was run"
    pages.keep("it.peer", {"name": "a peer", "value": 0.8, "seed": 0, "cpu_seconds": 49.0})
    assert "missed" in pages.verdict(page(bar), found)
    pages.keep("it.peer", {"name": "a peer", "value": 0.8, "seed": 0, "cpu_seconds": 50.0})
    assert pages.verdict(page(bar), found) == "met"


def test_a_newer_line_takes_the_place_of_the_older(pages, tmp_path):
    for one in (line(0, 0.7), line(1, 0.8), line(0, 0.9)):
        pages.keep("it", one)
    kept = [json.loads(text) for text in (tmp_path / "lines" / "it.jsonl").read_text().splitlines()]
    assert [(one["seed"], one["value"]) for one in kept] == [(0, 0.9), (1, 0.8)]


def test_what_was_not_run_says_so(pages):
    assert "| it | accuracy | computed when run | not run |" in pages.page("some", [page()])


@pytest.mark.parametrize(("reached", "missed"), [((20, 50, 90), False), ((20, 95, 90), True)])
def test_what_is_reached_must_rise_with_what_is_asked_for(pages, reached, missed):
    """By number, not by place: -100 is more than -300; every target stands in the table, and blanks."""
    found = line(0, 0.9)
    asked = zip(("return@30", "return@-300", "return@-100"), (reached[2], reached[0], reached[1]), strict=True)
    found["rows"][1]["values"] = {"accuracy": 0.9, **dict(asked)}
    one = page({"rising": "return"})
    assert ("missed" in pages.verdict(one, [found])) == missed
    pages.keep("it", found)
    said = pages.page("some", [one])
    assert "| row | accuracy | return@30 | return@-300 | return@-100 |" in said and "| plain | 0.87 |  |  |  |" in said
