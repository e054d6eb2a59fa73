"""Published weights go in and come out again: nothing is lost, and the library they are of computes the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import references
import torch
from published import config_of, differing, revived, said_by, sketch, tensors_of, write_tensors
from torch import Tensor

import anyformer as af
from anyformer.architecture import Architecture, names, preset, reduced
from anyformer.errors import WeightsError
from anyformer.model import Model
from anyformer.weights.fixture import Facts
from anyformer.weights.parity import compare
from anyformer.weights.table import table_for, table_named

transformers = pytest.importorskip("transformers", reason="the other reader; pip install 'anyformer[hf]'")
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

SQUARE = {"vit_hf": {"image_size": 24}}
"""A picture's sides are in its config alone: without it, a square one is meant."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Callable[[str], Path]:
    """A reference's folder, made once and only read."""
    made: dict[str, Path] = {}

    def of(family: str) -> Path:
        if family not in made:
            made[family] = sketch(family, tmp_path_factory.mktemp(family), SQUARE.get(family))
        return made[family]

    return of


def read_by_its_library(directory: Path, family: str) -> None:
    """The reference's own class loads the folder without a word and gives the reference's outputs (but for the loss,
    of which a model does not know how to add it up)."""
    reference = references.live(family, change=SQUARE.get(family))
    expected = reference.outputs()
    reference.model = revived(directory)
    outputs = reference.outputs()
    assert outputs.keys() == expected.keys()
    for name in outputs.keys() - {"loss"}:
        value = expected[name]
        tolerance = 1e-5 * max(1.0, float(value.abs().max()))
        torch.testing.assert_close(
            outputs[name], value, atol=tolerance, rtol=0, msg=lambda m, name=name: f"{name}: {m}"
        )


# There and back


@pytest.mark.parametrize("family", references.FAMILIES)
def test_a_round_trip_changes_no_byte(family, folder, tmp_path):
    """Biases of keys, which no output shows, and tensors that nothing reads, included."""
    af.to_pretrained(af.from_pretrained(folder(family)), tmp_path)
    assert differing(tensors_of(folder(family)), tensors_of(tmp_path)) == set()
    assert config_of(tmp_path) == config_of(folder(family))


@pytest.mark.parametrize("family", references.FAMILIES)
def test_a_model_whose_origin_is_forgotten_is_written_whole(family, folder, tmp_path):
    """As after save and load: every tensor that some forward reads, under a config of our own, for its library."""
    model = af.from_pretrained(folder(family))
    model.origin = None
    af.to_pretrained(model, tmp_path)
    table = table_named(model.architecture.family)
    before, after = tensors_of(folder(family)), tensors_of(tmp_path)
    partly = {entry.sources[0]: entry.row[0] for _, entry in table.entries if entry.row is not None}
    assert before.keys() == after.keys()
    for name, value in before.items():
        if name in partly:
            assert torch.equal(after[name][partly[name]], value[partly[name]]), name
        else:
            assert table.is_unused(name) or torch.equal(after[name], value), name
    read_by_its_library(tmp_path, family)


def test_a_folder_can_be_written_over_itself(tmp_path):
    """Though tensors are read from the disk only when they are needed."""
    sketch("decision_transformer", tmp_path)
    before = tensors_of(tmp_path)
    af.to_pretrained(af.from_pretrained(tmp_path), tmp_path)
    assert differing(before, tensors_of(tmp_path)) == set()


@pytest.mark.parametrize("family", ["gpt2", "mixtral", "vit_hf", "conformer_w2v2_relative", "rnnsearch"])
def test_reading_draws_no_random_numbers(family, folder):
    """Initial values of billions of weights, all of them overwritten, would take minutes."""
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    model = af.from_pretrained(folder(family))
    assert torch.equal(torch.random.get_rng_state(), before)
    Model.of(model.architecture)
    assert not torch.equal(torch.random.get_rng_state(), before)


def test_what_was_trained_is_written(folder, tmp_path):
    model = af.from_pretrained(folder("bert"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1
    af.to_pretrained(model, tmp_path)
    before, after = tensors_of(folder("bert")), tensors_of(tmp_path)
    assert all(torch.equal(after[name], value + 1) for name, value in before.items())


# Architectures from here, read elsewhere


def twin(name: str) -> Architecture:
    """A published architecture in small; a picture has whole patches and is square."""
    small = reduced(preset(name))
    if "image" not in small.streams:
        return small
    backbone = replace(small.backbone, positions={**small.backbone.positions, "size": 10})
    return replace(
        small, backbone=backbone, streams={**small.streams, "image": replace(small.streams["image"], features=48)}
    )


def disturbed(model: Model) -> Model:
    """No weight is zero or one any more."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in model.state_dict(keep_vars=True).items():
            if tensor.is_floating_point() and ".positions.tables.0" not in name:
                tensor += 0.1 * torch.rand(tensor.shape, generator=generator)
    return model.eval()


def pieces(config: dict[str, Any], *shape: int) -> Tensor:
    return torch.randint(5, config["vocab_size"] - 1, shape, generator=torch.Generator().manual_seed(len(shape)))


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def trajectory(config: dict[str, Any]) -> dict[str, Tensor]:
    return {
        "states": noise(2, 4, config["state_dim"]), "actions": noise(2, 4, config["act_dim"]),
        "returns_to_go": noise(2, 4, 1), "timesteps": torch.arange(4).expand(2, 4).contiguous(),
        "attention_mask": torch.ones(2, 4, dtype=torch.int64),
    }  # fmt: skip


INPUTS: dict[str, Callable[[dict[str, Any]], dict[str, Tensor]]] = {
    "text": lambda config: {"input_ids": pieces(config, 2, 11)},
    "text_to_text": lambda config: {"input_ids": pieces(config, 2, 11), "decoder_input_ids": pieces(config, 2, 7)},
    "sound_to_text": lambda config: {
        "input_features": noise(2, config["num_mel_bins"], 2 * config["max_source_positions"]),
        "decoder_input_ids": pieces(config, 2, 7),
    },
    "patches": lambda config: {"pixel_values": noise(2, 3, config["image_size"], config["image_size"])},
    "trajectory": trajectory,
    "waveform_with_padding": lambda config: {"input_values": noise(2, 4000)},
    "alignment": lambda config: {
        "src": pieces({"vocab_size": config["V"]}, 2, 9), "src_mask": torch.ones(2, 9, dtype=torch.int64),
        "tgt_in": pieces({"vocab_size": config["V"]}, 2, 6),
    },
}  # fmt: skip
"""By how a table says that a family's inputs are read."""


@pytest.mark.parametrize("name", [name for name in names() if preset(name).family])
def test_a_published_architecture_made_here_is_read_by_its_library(name, tmp_path):
    """Random weights of ours, in a config and under names of theirs, give the same outputs at every layer."""
    torch.manual_seed(0)
    model = disturbed(Model.of(twin(name)))
    af.to_pretrained(model, tmp_path)
    config = config_of(tmp_path)
    table = table_for(config)
    assert table.name == preset(name).family
    inputs, theirs = INPUTS[table.check["inputs"]](config), revived(tmp_path)
    with torch.no_grad():
        outputs = said_by(theirs, inputs) if "model_type" in config else theirs(**inputs)
    write_tensors(inputs, tmp_path / "inputs.safetensors")
    write_tensors(outputs, tmp_path / "outputs.safetensors")
    found = compare(model, tmp_path, Facts(config, table.check))
    assert len(found) > 2 and all(comparison.holds for comparison in found), found


def test_what_a_family_cannot_say_is_not_written(tmp_path):
    """GPT-3's bands are none of GPT-2's, a rotation of neighbours is none of LLaMA's: they would be read otherwise."""
    bands = replace(twin("gpt3-small"), family="gpt2")
    with pytest.raises(
        WeightsError, match=r"gpt2 files cannot say this .* window: all keys, then 4 keys.* -> all keys"
    ):
        af.to_pretrained(Model.of(bands), tmp_path)
    llama = twin("llama-7b")
    turned = replace(llama, backbone=replace(llama.backbone, positions={"type": "rotary", "layout": "interleaved"}))
    with pytest.raises(WeightsError, match="llama files cannot say"):
        af.to_pretrained(Model.of(turned), tmp_path)
    vit = twin("vit-b-16")
    oblong = replace(vit, backbone=replace(vit.backbone, positions={"type": "learned", "size": 7}))  # 2 x 3 patches
    with pytest.raises(WeightsError, match=r"vit files cannot say this .* 7 rows -> 5 rows"):
        af.to_pretrained(Model.of(oblong), tmp_path)
    with pytest.raises(WeightsError, match="names no family"):
        af.to_pretrained(Model.of(twin("gpt3-small")), tmp_path)
    assert not any(tmp_path.iterdir())


def test_streams_that_a_tokenizer_brought_are_written(tmp_path):
    """A vocabulary of one's own, in a published architecture."""
    from anyformer_tokenizers.text import PretrainedTextTokenizer

    tokenizer = PretrainedTextTokenizer(name="text", vocab_size=300)
    tokenizer.fit(["one text", "another text"] * 3)
    small = twin("gpt2")
    model = Model.of(replace(small, streams={}), {"text": tokenizer})
    af.to_pretrained(model, tmp_path)
    assert config_of(tmp_path)["vocab_size"] == 300
    assert revived(tmp_path).transformer.wte.weight.shape[0] == 300
    assert (tmp_path / "tokenizer.json").is_file()
