"""A wrong switch is noticed: each one of each imported architecture is flipped alone, and something must differ."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields, make_dataclass, replace

import pytest
from parity.fixtures import Fixture, sketched
from parity.invisible import INVISIBLE, reason_for
from parity.noise import VISIBLE, disturbed, silent
from parity.schemes import EMBEDDER, POSITIONS, TOGETHER, embedder_settings, scheme_settings
from parity.stances import UNPROVEN, stances
from parity.switches import RULES, SIZES, WITHOUT_RULE, mutants
from parity.transplant import transplanted
from parity.trial import judged
from references import FAMILIES, REGIMES

from anyformer.architecture import (
    Architecture,
    BackboneConfig,
    HeadConfig,
    RecurrentConfig,
    StreamConfig,
    names,
    preset,
)
from anyformer.model.embedders import EMBEDDERS
from anyformer.sublayers.positions import SCHEMES

pytestmark = pytest.mark.filterwarnings("ignore")

CONFIGS = (BackboneConfig, RecurrentConfig, HeadConfig, StreamConfig, Architecture)

MARGIN = 2.0
"""What is caught differs by so many times what is allowed, at least."""

Make = Callable[..., Fixture]


@pytest.fixture(scope="module")
def fixture_of(tmp_path_factory) -> Make:
    """Each built once."""
    made: dict[tuple[str, str], Fixture] = {}

    def make(family: str, regime: str = "ordinary") -> Fixture:
        if (family, regime) not in made:
            folder = sketched(family, tmp_path_factory.mktemp("reference") / family, regime=regime)
            made[family, regime] = Fixture(family, regime, folder)
        return made[family, regime]

    return make


# Which switches there are


def forgotten(config: type, rules: dict, without: dict) -> set[str]:
    """Fields of which nothing is said."""
    return {field.name for field in fields(config)} - set(rules) - set(without)


@pytest.mark.parametrize("config", CONFIGS)
def test_every_setting_is_switched_or_has_a_reason_not_to_be(config):
    rules, without = RULES[config], WITHOUT_RULE[config]
    assert forgotten(config, rules, without) == set(), "a new setting needs a rule in parity/switches.py"
    known = {field.name for field in fields(config)}
    assert set(rules) | set(without) == known and not set(rules) & set(without) and SIZES[config] <= set(rules)


def test_a_new_setting_without_a_rule_is_noticed():
    grown = make_dataclass("Grown", [("slant", float, 0.0)], bases=(HeadConfig,), frozen=True)
    assert forgotten(grown, RULES[HeadConfig], WITHOUT_RULE[HeadConfig]) == {"slant"}


@pytest.mark.parametrize(
    ("makers", "settings", "rules"), [(SCHEMES, scheme_settings, POSITIONS), (EMBEDDERS, embedder_settings, EMBEDDER)]
)
def test_every_setting_of_a_scheme_or_an_embedder_is_switched(makers, settings, rules):
    found = {name for made_by in makers.values() for name in settings(made_by)}
    assert found == set(rules), "a new setting needs a rule in parity/schemes.py"
    assert set(TOGETHER) <= set(SCHEMES)


def test_every_rule_flips_something_in_some_published_architecture():
    """A rule that never applies tests nothing."""
    flipped = {path for name in names() for path in paths(preset(name))}
    stacks = {f"{side}.{field}" for side in ("backbone", "encoder") for field in RULES[BackboneConfig]}
    stacks |= {f"{side}.{field}" for side in ("backbone", "encoder") for field in RULES[RecurrentConfig]}
    wanted = {path.partition(".")[2] for path in stacks} | {*RULES[HeadConfig], *RULES[StreamConfig], "scale"}
    assert wanted - {path.rpartition(".")[2] for path in flipped} == set()


def paths(architecture: Architecture) -> set[str]:
    """Paths of the settings that mutants change."""
    return {mutant.name.partition(": ")[0] for mutant in mutants(architecture)}


@pytest.mark.parametrize("name", ["gpt2", "t5-v1.1-small", "mixtral-8x7b", "wav2vec2-conformer", "rnnsearch"])
def test_a_mutant_differs_in_one_place_and_from_all_others(name):
    usual = preset(name)
    found = list(mutants(usual))
    assert len({mutant.name for mutant in found}) == len(found)
    assert all(mutant.architecture != usual for mutant in found)
    assert len({repr(mutant.architecture) for mutant in found}) > 0.95 * len(found)


def test_every_switch_of_every_preset_stands_as_in_some_reference(fixture_of):
    """What parity and the mutants below prove of an imported architecture is thereby proven of the published ones."""
    proven = set().union(*(stances(fixture_of(family).model.architecture) for family in FAMILIES))
    found = {switch: name for name in names() for switch, position in stances(preset(name)) - proven}
    matched = {switch: [p for p in UNPROVEN if re.fullmatch(p, switch)] for switch in found}
    assert all(matched.values()), f"no reference has {found}"
    assert {pattern for patterns in matched.values() for pattern in patterns} == set(UNPROVEN)


# What becomes of them


@pytest.mark.parametrize("family", FAMILIES)
def test_every_flipped_switch_is_noticed(fixture_of, family):
    """Those that no output can show are listed with a reason, and are proven to be so."""
    verdicts = judged([fixture_of(family, regime) for regime in REGIMES])
    survivors = {verdict.mutant for verdict in verdicts if verdict.how == "invisible"}
    assert survivors == {verdict.mutant for verdict in verdicts if reason_for(family, verdict.mutant)}
    for verdict in verdicts:
        reason = reason_for(family, verdict.mutant)
        assert reason is None or reason.proves(verdict), f"{verdict}: {reason}"
        assert verdict.how != "caught" or verdict.excess > MARGIN, verdict
    count = {how: sum(verdict.how == how for verdict in verdicts) for how in ("caught", "impossible")}
    assert count["caught"] > 2 * count["impossible"], "what cannot run says little"


@pytest.mark.parametrize("entry", INVISIBLE, ids=lambda entry: entry.reason)
def test_a_reason_says_how_it_is_proven(entry):
    assert entry.identical or entry.unimportable


@pytest.mark.parametrize("family", ["gpt2", "bart", "marian", "mixtral", "conformer_torchaudio", "rnnsearch"])
def test_a_transplant_without_a_change_is_the_model_itself(fixture_of, family):
    """Otherwise every mutant would differ, whatever its switch does."""
    fixture = fixture_of(family)
    twin = transplanted(fixture.model, fixture.model.architecture, fixture.computed)
    assert fixture.compared(twin) == fixture.compared(fixture.model)
    assert fixture.refuses(fixture.model.architecture) is None


@pytest.mark.parametrize(
    ("family", "change"),
    [("bert", {"gated": True}), ("llama_gqa", {"gated": False}), ("whisper", {"attention_bias": "qo"})],
)
def test_a_transplant_takes_along_what_fits(fixture_of, family, change):
    """Parts of projections that are in both."""
    model = fixture_of(family).model
    stack = model.architecture.backbone
    other = transplanted(model, replace(model.architecture, backbone=replace(stack, **change)))
    mine, theirs = (m.backbone.blocks[0] for m in (model, other))
    hidden = stack.hidden_width
    assert (mine.attention.sublayer.qkv.weight == theirs.attention.sublayer.qkv.weight).all()
    assert (mine.feed_forward.sublayer.up.weight[:hidden] == theirs.feed_forward.sublayer.up.weight[:hidden]).all()
    if "attention_bias" in change:
        assert (mine.attention.sublayer.qkv.bias[: stack.dim] == theirs.attention.sublayer.qkv.bias).all()


# Tensors

FEW = ("gpt2", "electra_generator", "t5_v1_0", "conformer_w2v2_relative", "shaw_w2v2bert_relkey", "rnnsearch")


@pytest.mark.parametrize("family", [pytest.param(f, marks=() if f in FEW else pytest.mark.slow) for f in FAMILIES])
def test_noise_on_any_tensor_moves_an_output(fixture_of, family):
    """So that no import can lose or exchange one unseen; key biases cannot show, and come back exactly instead."""
    moved = disturbed(fixture_of(family))
    assert {name for name, change in moved.items() if change <= VISIBLE} == {n for n in moved if silent(family, n)}
    assert len(moved) >= 20
