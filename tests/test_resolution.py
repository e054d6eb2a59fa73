"""A published Vision Transformer at another resolution than it was trained for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from anyformer.architecture import Architecture, BackboneConfig, HeadConfig, StreamConfig
from anyformer.batch import Example, pack
from anyformer.checkpoint import load
from anyformer.cli import main
from anyformer.errors import TokenizerError, WeightsError
from anyformer.model import Model
from anyformer.weights import at_grid, from_pretrained, to_pretrained
from anyformer.weights.resolution import interpolated
from anyformer_tokenizers.image import ImageTokenizer

FLAT = ImageTokenizer(patch=8, class_slot=True, flat=True)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A directory as transformers writes it, and the model that did: 3 x 3 patches of 8 x 8 pixels."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96, patch_size=8, image_size=24,
        num_labels=10, attn_implementation="eager",
    )  # fmt: skip
    theirs = transformers.ViTForImageClassification(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(std=0.2)
    folder = tmp_path_factory.mktemp("vit")
    theirs.save_pretrained(folder)
    return folder, theirs


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@torch.no_grad()
def logits(model: Model, levels: np.ndarray) -> torch.Tensor:
    tokens = FLAT.encode(levels)
    hidden = model(pack([Example(tokens, {}, tokens.length)]))
    return model.read("label", hidden[:1])[0]


@torch.no_grad()
def their_logits(theirs, levels: np.ndarray, **more) -> torch.Tensor:
    pixels = (torch.from_numpy(levels).permute(2, 0, 1)[None] / 255 - 0.5) / 0.5
    return theirs(pixel_values=pixels, **more).logits[0]


@pytest.mark.parametrize("size", [(24, 24), (48, 48), (48, 24), (16, 40), (8, 8)])
def test_logits_are_those_of_interpolated_positions(published, size):
    """transformers' ViT with interpolate_pos_encoding, larger and smaller, square and not, from a picture's pixels."""
    folder, theirs = published
    ours = at_grid(from_pretrained(folder, tokenizers={"image": FLAT}), size[0] // 8, size[1] // 8)
    wanted = their_logits(theirs, picture(*size), interpolate_pos_encoding=True)
    found = logits(ours, picture(*size))
    assert float((found - wanted).abs().max()) <= 1e-5 * max(1.0, float(wanted.abs().max()))
    assert not ours.training


def test_the_same_grid_changes_nothing_and_the_original_stays(published):
    model = from_pretrained(published[0])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    twin = at_grid(model, 3, 3)
    table = "backbone.positions.tables.0"
    assert torch.allclose(twin.state_dict()[table], before[table], atol=1e-6)
    at_grid(model, 5, 5).state_dict()[table].zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_slope_stays_a_slope():
    """Twice as fine: what grew by one from column to column grows by a half, away from the edges."""
    grid = torch.arange(4.0).repeat(4)[:, None]
    fine = interpolated(grid, 4, 8, 8).reshape(8, 8)
    assert torch.allclose(fine[:, 3:5], torch.tensor([1.25, 1.75]).expand(8, 2), atol=0.1)
    assert torch.allclose(fine, fine[:1].expand(8, 8), atol=1e-5)


def test_a_resized_model_is_written_as_one_of_that_size(published, tmp_path):
    """transformers then reads larger pictures without interpolating."""
    transformers = pytest.importorskip("transformers")
    folder, _ = published
    ours = at_grid(from_pretrained(folder, tokenizers={"image": FLAT}), 5, 5)
    to_pretrained(ours, tmp_path)
    theirs = transformers.ViTForImageClassification.from_pretrained(tmp_path).eval()
    assert theirs.config.image_size == 40
    wanted = their_logits(theirs, picture(40, 40))
    assert float((logits(ours, picture(40, 40)) - wanted).abs().max()) <= 1e-5 * max(1.0, float(wanted.abs().max()))


def test_the_command_resizes(published, tmp_path, capsys):
    """`anyformer convert --grid`, to a checkpoint that a run can begin with."""
    with pytest.raises(SystemExit) as end:
        main(["convert", str(published[0]), str(tmp_path / "large"), "--grid", "4x6"])
    assert not end.value.code
    assert load(tmp_path / "large").backbone.config.positions["size"] == 25
    with pytest.raises(SystemExit) as end:
        main(["convert", str(published[0]), str(tmp_path / "other"), "--grid", "4 by 6"])
    assert end.value.code and "'4 by 6'; expected the patches" in capsys.readouterr().err


def made(positions: dict, rank: int = 1) -> Model:
    streams = {"image": StreamConfig(features=4, rank=rank), "label": StreamConfig(vocab_size=2, input=False)}
    heads = {"label": HeadConfig()}
    return Model.of(Architecture(BackboneConfig(8, 2, positions=positions), heads=heads, streams=streams))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (lambda: made({"type": "rotary"}), "a learned table"),
        (lambda: made({"type": "sinusoidal", "size": 10}), "a learned table"),
        (
            lambda: made({"type": "learned", "size": 8}),
            "table of 8 positions, 1 of them before the patches, is no square",
        ),
        (lambda: made({"type": "learned", "size": 10}, rank=2), "no square grid"),
    ],
)
def test_models_without_a_square_table_are_refused(model, said):
    with pytest.raises(WeightsError, match=said):
        at_grid(model(), 2, 2)


def test_a_grid_of_nothing_is_refused():
    with pytest.raises(WeightsError, match="0 x 2 patches; expected at least one"):
        at_grid(made({"type": "learned", "size": 10}), 0, 2)


def test_a_flat_picture_counts_on_row_by_row_and_is_not_decoded(tmp_path):
    tokens = FLAT.encode(picture(16, 24))
    assert tokens.positions.tolist() == [[i] for i in range(7)]
    assert set(tokens.streams) == {"image", "image.class"}
    with pytest.raises(TokenizerError, match="is flat"):
        FLAT.decode(tokens)
    Image.fromarray(picture(16, 24)).save(tmp_path / "a.png")
    assert torch.equal(FLAT.encode(tmp_path / "a.png").streams["image"].values, tokens.streams["image"].values)
