"""Imported models compute what their references do: every float output, and every generated id."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import references
import torch
from parity.fixtures import Fixture, sketched
from references import FAMILIES, REGIMES
from safetensors.torch import load_file

from anyformer.model import Model
from anyformer.weights import to_pretrained
from anyformer.weights.parity import Comparison, check_weights

pytestmark = pytest.mark.filterwarnings("ignore")

NOT_COMPARED = {
    "encoder_input": "the first hidden states, before the reference clears the frames that are padding",
}
"""Float outputs without a comparison, and why."""

Build = Callable[..., Path]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Build:
    """Folders with generations."""
    return kept(references.build, tmp_path_factory)


@pytest.fixture(scope="module")
def sketch(tmp_path_factory) -> Build:
    """Folders without."""
    return kept(sketched, tmp_path_factory)


def kept(build: Build, folders) -> Build:
    """Each built once."""
    made: dict[tuple, Path] = {}

    def build_once(family: str, regime: str = "ordinary", seed: int = 0) -> Path:
        key = family, regime, seed
        if key not in made:
            made[key] = build(family, folders.mktemp("reference") / family, seed=seed, regime=regime)
        return made[key]

    return build_once


def holds(folder: Path) -> dict[str, Comparison]:
    """Every comparison of a folder, all within what is allowed."""
    compared = {comparison.name: comparison for comparison in check_weights(folder)}
    wrong = {name: (c.difference, c.allowed) for name, c in compared.items() if not c.holds}
    assert not wrong
    return compared


@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_and_generations_are_the_references(whole, family):
    """None is left out."""
    folder = whole(family)
    compared, outputs = holds(folder), load_file(folder / "outputs.safetensors")
    wanted = {name for name, value in outputs.items() if value.is_floating_point() or name.endswith("_ids")}
    assert set(compared) == wanted - set(NOT_COMPARED)
    ids = [compared[name] for name in wanted if name.endswith("_ids")]
    assert all(c.difference == c.allowed == 0 for c in ids), "ids are equal, not near"
    assert len(ids) == (4 if references.live(family).prompt else 0)


@pytest.mark.parametrize("regime", ["sharp", "long"])
@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_are_the_references_where_mistakes_show(sketch, family, regime):
    """Small activations let each norm's epsilon show, 128 tokens and more the far distances."""
    assert len(holds(sketch(family, regime))) > 2


@pytest.mark.slow
@pytest.mark.parametrize("regime", ["sharp", "long"])
@pytest.mark.parametrize("family", FAMILIES)
def test_generations_are_the_references_where_mistakes_show(whole, family, regime):
    holds(whole(family, regime))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("family", FAMILIES)
def test_other_weights_and_inputs(sketch, family, regime, seed):
    holds(sketch(family, regime, seed))


def test_what_is_not_compared_is_compared_under_another_name(sketch):
    outputs = load_file(sketch("conformer_w2v2_relative") / "outputs.safetensors")
    there = outputs["encoder_mask"] == 1
    assert torch.equal(outputs["encoder_input"][there], outputs["hidden_states.0"][there])


@pytest.mark.parametrize("family", FAMILIES)
def test_what_outputs_cannot_show_is_kept_exactly(sketch, family, tmp_path):
    """Also tensors that no output depends on, such as the biases of keys: they come back bit by bit."""
    folder = sketch(family)
    to_pretrained(Fixture(family, "ordinary", folder).model, tmp_path)
    before, after = (load_file(path / "model.safetensors") for path in (folder, tmp_path))
    assert before.keys() == after.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


@pytest.mark.parametrize("family", ["gpt2", "t5_v1_1", "vit_hf"])
def test_a_wrong_weight_is_not_within_what_is_allowed(sketch, family):
    """The comparison can fail: one row of one matrix, by one part in a thousand."""
    fixture = Fixture(family, "ordinary", sketch(family))
    model: Model = fixture.model
    with torch.no_grad():
        model.backbone.blocks[0].feed_forward.sublayer.down.weight[0] *= 1.001
    assert not all(comparison.holds for comparison in fixture.compared(model))
