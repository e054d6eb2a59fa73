"""Learning from a part of a picture: masked autoencoders, and patches that are dropped."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import runs
import torch

import anyformer as af
from anyformer.architecture import Architecture, BackboneConfig
from anyformer.batch import Example, pack
from anyformer.checkpoint import begin_with
from anyformer.errors import ConfigError, SampleError
from anyformer.model import ForwardPass, Network
from anyformer.objectives import Classification, MaskedAutoencoder, TokenDropping
from anyformer.objectives.autoencoder import standardised
from anyformer.tokens import Stream, StreamSpec, Tokens
from anyformer_tokenizers.image import ImageTokenizer
from anyformer_tokenizers.label import LabelTokenizer

IMAGE = ImageTokenizer(patch=2, channels=1, class_slot=True)
LABEL = LabelTokenizer(name="label")
LABEL.fit(["cat", "dog"])
SPECS = {"image": IMAGE.streams, "label": LABEL.streams}
SMALL = {"dim": 8, "heads": 2, "depth": 2, "positions": {"type": "sinusoidal"}}
MIXED = {
    "tokenizers": {"dots": {}, "colour": {}},
    "tasks": {"quadrants": {"objective": {"type": "masked_autoencoder", "decoder": SMALL}}},
}


def picture(rows: int, columns: int, seed: int = 0) -> dict[str, Tokens]:
    """Of so many patches."""
    levels = np.random.default_rng(seed).integers(0, 256, (2 * rows, 2 * columns), dtype=np.uint8)
    return {"image": IMAGE.encode(levels), "label": LABEL.encode("dog")}


def prepared(rows: int, columns: int, seed: int = 0, **more) -> Example:
    objective = MaskedAutoencoder(decoder=SMALL, **more).ready(SPECS)
    return objective.prepare(picture(rows, columns, seed), np.random.default_rng(seed))


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    positions = {"type": "sinusoidal"}
    return Network(IMAGE.streams, Architecture(BackboneConfig(12, 2, 2, positions=positions))).double()


@pytest.fixture(scope="module")
def objective(network) -> MaskedAutoencoder:
    made = MaskedAutoencoder(decoder=SMALL)
    torch.manual_seed(1)
    decoder = made.beside(network, SPECS, lambda path: network)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.normal_(std=0.4)
    decoder.double()
    return made


def double(examples: list[Example]):
    return pack(examples).map(lambda t: t.double() if t.is_floating_point() else t)


def loss(network, objective, examples: list[Example]):
    batch = double(examples)
    return objective.loss(ForwardPass(network, batch), batch.targets[""])


# ── Masked autoencoders ──


def test_the_papers_settings():
    """§3 and §4: 75 % of the patches are taken away, 49 of 196 are read beside the class token; each missing patch is
    told with its own mean and deviation taken out; the decoder has 8 blocks, 512 wide."""
    made = MaskedAutoencoder()
    assert (made.rate, made.normalised) == (0.75, True)
    assert {key: made.decoder[key] for key in ("dim", "depth", "heads")} == {"dim": 512, "depth": 8, "heads": 16}
    example = made.ready(SPECS).prepare(picture(14, 14), np.random.default_rng(0))
    assert example.tokens.length == 1 + 49 and example.prefix == 50
    wanted = example.targets["image"]
    assert wanted.items.tolist() == [[147, 50]] and "label" not in example.tokens.streams
    rows = wanted.values[:, :4]
    assert torch.allclose(rows.mean(1), torch.zeros(147), atol=1e-5)
    assert torch.allclose(rows.var(1), torch.ones(147), atol=1e-3)


def test_what_is_read_and_what_is_missing_make_the_picture():
    """Every patch once, where it stood."""
    example, whole = prepared(5, 3, normalised=False), picture(5, 3)["image"]
    read, wanted = example.tokens.streams["image"], example.targets["image"].values
    there = torch.cat((read.values, wanted[:, :4]))
    places = torch.cat((example.tokens.positions[read.slots], wanted[:, 4:].long()))
    stream = whole.streams["image"]
    assert {(*p, *v) for p, v in zip(places.tolist(), there.tolist(), strict=True)} == {
        (*p, *v) for p, v in zip(whole.positions[stream.slots].tolist(), stream.values.tolist(), strict=True)
    }
    assert len(read.values) == 3 and read.items.tolist() == [[3, 3]]
    assert example.tokens.streams["image.class"].slots.tolist() == [0]


def test_rows_are_standardised_as_the_reference_does():
    rows = torch.tensor([[1.0, 2.0, 3.0, 6.0], [5.0, 5.0, 5.0, 5.0]])
    expected = (rows[0] - 3) / torch.sqrt(torch.tensor((4 + 1 + 0 + 9) / 3 + 1e-6))
    assert torch.allclose(standardised(rows)[0], expected) and not standardised(rows)[1].any()


def test_a_picture_costs_and_learns_the_same_alone_and_packed(network, objective):
    """Of different sizes, in any order: neither stack looks across."""
    examples = [prepared(4, 4, 1), prepared(2, 5, 2), prepared(3, 1, 3)]
    alone = [loss(network, objective, [example]) for example in examples]
    parameters = [p for p in (*network.parameters(), *objective.network.parameters()) if p.requires_grad]
    apart = torch.autograd.grad(torch.stack([each.sum for each in alone]).sum(), parameters, allow_unused=True)
    for order in ([0, 1, 2], [2, 0, 1]):
        packed = loss(network, objective, [examples[i] for i in order])
        assert packed.count == sum(each.count for each in alone) == 12 + 8 + 2
        assert float(packed.sum) == pytest.approx(sum(float(each.sum) for each in alone), rel=1e-9)
        found = torch.autograd.grad(packed.sum, parameters, allow_unused=True)
        for one, other in zip(apart, found, strict=True):
            assert (one is None) == (other is None) and (one is None or torch.allclose(one, other, rtol=1e-6))


def test_the_loss_is_the_decoders_answer_at_each_missing_place(network, objective):
    """One sequence by hand: what was read first, then the mask vector as often as patches are missing."""
    example = prepared(3, 3)
    batch, decoder = double([example]), objective.network
    wanted = batch.targets[""]["image"].values
    hidden = decoder.enter(network(batch))
    x = torch.cat((hidden, decoder.mask.expand(len(wanted), -1)))
    where = torch.cat((batch.positions, wanted[:, 4:].long()))
    said = decoder.out(decoder.stack(x, where, af.Mask.bidirectional((len(x),)))[len(hidden) :])
    expected = (said - wanted[:, :4]).square().mean(1).sum()
    assert torch.allclose(loss(network, objective, [example]).sum, expected)
    moved = torch.cat((batch.positions, wanted[:, 4:].long().flip(0)))
    other = decoder.out(decoder.stack(x, moved, af.Mask.bidirectional((len(x),)))[len(hidden) :])
    assert not torch.allclose(said, other)  # it is told by the place


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rate": 0.0}, "rate=0.0; expected some rows"),
        ({"rate": 1.0}, "rate=1.0; expected some rows"),
        ({"rate": "most"}, "expected a number from 0 to 1"),
        ({"decoder": {"dim": 8, "heads": 2, "deep": 2}}, "'deep'.*Did you mean 'depth'"),
    ],
)
def test_wrong_settings_are_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        MaskedAutoencoder(**settings)


def test_streams_that_cannot_be_told_are_refused():
    one = {"dots": [StreamSpec.continuous("dots", 1)], "text": [StreamSpec.discrete("text", 5)]}
    with pytest.raises(ConfigError, match="'dots' have one feature"):
        MaskedAutoencoder().predicts(one)
    with pytest.raises(ConfigError, match="needs a stream of rows"):
        MaskedAutoencoder().predicts({"text": one["text"]})
    with pytest.raises(ConfigError, match=r"'imag'.*Did you mean 'image'"):
        MaskedAutoencoder(stream="imag").ready(SPECS)
    with pytest.raises(SampleError, match="has 1 rows in 1 slots"):
        prepared(1, 1)
    with pytest.raises(ConfigError, match="no decoder yet"):
        MaskedAutoencoder().loss(None, {})


def test_a_run_goes_on_as_if_it_had_not_stopped_and_leaves_the_decoder_behind(toys, tmp_path):
    """The decoder is trained and resumed with the model; what a fine-tuning begins with is the model alone."""
    whole = runs.fit(tmp_path / "whole", 4, data=MIXED)
    runs.fit(tmp_path / "parts", 4, [runs.stop_at(3)], data=MIXED)
    resumed = runs.fit(tmp_path / "parts", 4, data=MIXED, resume=True)
    assert all(
        torch.equal(a, b) for a, b in zip(runs.weights(whole).values(), runs.weights(resumed).values(), strict=True)
    )
    trained = [name for name in whole.state_dict() if name.startswith("beside.")]
    assert any("mask" in name for name in trained)
    model = af.load(tmp_path / "whole")
    assert not [name for name in model.state_dict() if "beside" in name or "stack" in name]
    torch.manual_seed(5)
    tuned = af.Model(model.tokenizers, {"dim": 16, "heads": 2, "depth": 1}, ["colour"])
    assert begin_with(tuned, tmp_path / "whole") == [n for n in sorted(tuned.state_dict()) if n.startswith("heads.")]


def test_it_travels_to_workers_without_its_decoder(objective):
    assert pickle.loads(pickle.dumps(objective)).network is None and objective.network is not None


# ── Dropped patches ──


def test_dropped_patches_leave_the_others_where_they_are():
    made = TokenDropping(objective={"type": "classification", "pooling": "mean"}, least=0.5, most=0.5).ready(SPECS)
    example, whole = made.prepare(picture(4, 4), np.random.default_rng(3)), picture(4, 4)["image"]
    assert example.tokens.length == 1 + 8 and example.targets["label"].items.tolist() == [[1, 9]]
    stream = example.tokens.streams["image"]
    here = {
        (*p, *v) for p, v in zip(example.tokens.positions[stream.slots].tolist(), stream.values.tolist(), strict=True)
    }
    own = whole.streams["image"]
    assert here < {(*p, *v) for p, v in zip(whole.positions[own.slots].tolist(), own.values.tolist(), strict=True)}


def test_each_sample_loses_another_part_and_a_prompt_none():
    """A rate of its own between the two, the same for the same key; one patch always stays."""
    made = TokenDropping(objective={"type": "classification"}, least=0.0, most=0.8).ready(SPECS)
    lengths = [made.prepare(picture(5, 5), np.random.default_rng(seed)).tokens.length for seed in range(40)]
    assert min(lengths) >= 1 + 5 and max(lengths) <= 26 and len(set(lengths)) > 10
    again = made.prepare(picture(5, 5), np.random.default_rng(7)).tokens
    assert torch.equal(again.positions, made.prepare(picture(5, 5), np.random.default_rng(7)).tokens.positions)
    prompt = {"image": picture(5, 5)["image"]}
    assert made.prepare(prompt, np.random.default_rng(0)).tokens.length == 26
    everything = TokenDropping(objective={"type": "classification"}, least=1.0, most=1.0).ready(SPECS)
    assert everything.prepare(picture(5, 5), np.random.default_rng(0)).tokens.length == 2


def test_words_may_be_dropped_that_are_read_but_not_those_that_are_predicted():
    text = StreamSpec.discrete("text", 10, special={"class": 8, "separator": 9})
    label = StreamSpec.discrete("label", 2)
    specs = {"text": (text,), "label": (label,)}
    inner = {"type": "classification", "pooling": "mean"}
    made = TokenDropping(objective=inner, stream="text", least=0.5, most=0.5).ready(specs)
    sample = {"text": Tokens.of("text", torch.arange(8)), "label": Tokens.of("label", torch.tensor([1]))}
    first, *left, last = made.prepare(sample, np.random.default_rng(0)).tokens.streams["text"].values.tolist()
    assert (first, last) == (8, 9) and len(left) == 4 and left == sorted(left)
    with pytest.raises(ConfigError, match="stream='text'; expected what is read, of: none"):
        TokenDropping(objective={"type": "next_token"}, stream="text").ready({"text": (text,)})


def test_without_a_rate_it_is_the_objective_itself():
    tokens, none = picture(3, 3), TokenDropping(objective={"type": "classification"}, most=0.0)
    one, other = (each.ready(SPECS).prepare(tokens, np.random.default_rng(0)) for each in (none, Classification()))
    assert torch.equal(one.tokens.positions, other.tokens.positions) and none.predicts(SPECS) == ["label"]


def test_what_cannot_be_dropped_is_refused():
    with pytest.raises(ConfigError, match=r"least=0\.6, most=0\.5"):
        TokenDropping(least=0.6)
    with pytest.raises(ConfigError, match="stream='label'; expected what is read, of: image"):
        TokenDropping(objective={"type": "classification"}, stream="label").ready(SPECS)
    sound = Tokens(
        {"sound": Stream(torch.randn(8, 3), torch.arange(2), torch.tensor([[8, 2]]))}, 2, torch.arange(2)[:, None]
    )
    with pytest.raises(ConfigError, match="kept whole, or not at all"):
        sound.only(torch.tensor([True, False]))


def test_items_of_which_nothing_is_left_are_none():
    pair = Tokens.laid_end_to_end([picture(1, 2)["image"], picture(2, 2)["image"]])
    kept = torch.ones(pair.length, dtype=torch.bool)
    kept[:3] = False  # the first picture and its class slot
    left = pair.only(kept)
    assert left.streams["image"].items.tolist() == [[4, 4]] and left.streams["image.class"].items.tolist() == [[1, 1]]
    assert left.length == 5 and left.streams["image"].slots.tolist() == [1, 2, 3, 4]
