"""What one label is read from: the first slot or the mean of all, alike in any company; and pictures' class token."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from anyformer.architecture import Architecture, BackboneConfig, HeadConfig
from anyformer.batch import Batch, Example, pack
from anyformer.errors import ConfigError
from anyformer.model import ForwardPass, Model, Network
from anyformer.objectives import Classification, Traversal
from anyformer.testing import check_tokenizer
from anyformer.tokens import Stream, StreamSpec, Tokens
from anyformer_tokenizers.image import ImageTokenizer
from anyformer_tokenizers.label import LabelTokenizer

RNG = np.random.default_rng(0)
PATCH, LABEL = StreamSpec.continuous("patch", 3), StreamSpec.discrete("label", 4, input=False)
OBJECTIVE = Classification(pooling="mean").ready({"picture": [PATCH], "label": [LABEL]})


def network() -> Network:
    """Large random weights, so that a leak between sequences would be seen."""
    torch.manual_seed(0)
    backbone = BackboneConfig(dim=8, heads=2, depth=2)
    made = Network([PATCH, LABEL], Architecture(backbone, {"label": HeadConfig(bias=True)}))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.4)
    return made.eval()


def example(length: int, label: int, key: str = "") -> Example:
    values = torch.randn(length, 3, generator=torch.Generator().manual_seed(17 * length + label))
    fields = {"picture": Tokens.of("patch", values), "label": Tokens.of("label", torch.tensor([label]))}
    made = OBJECTIVE.prepare(fields, RNG)
    return Example(made.tokens, made.targets, made.prefix, key=key)


def answers(model: Network, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits, and the gradient of the summed loss for all weights as one row."""
    model.zero_grad()
    forward = ForwardPass(model, batch)
    said = forward.read_pooled("label", batch.targets[""]["label"])
    OBJECTIVE.loss(forward, batch.targets[""]).sum.backward()
    slopes = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    return said.detach(), torch.cat([slope.flatten() for slope in slopes])


@settings(max_examples=15)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 3)), min_size=1, max_size=4), st.integers(1, 7))
def test_a_mean_is_of_its_own_slots_alone(sizes, padding):
    """Logits and gradients of a label read from all slots: alone = packed = padded."""
    model, examples = network(), [example(*size) for size in sizes]
    alone = [answers(model, pack([one])) for one in examples]
    slots = sum(one.tokens.length for one in examples)
    for batch in (pack(examples), pack(examples, pad_to=slots + padding)):
        said, slope = answers(model, batch)
        assert torch.allclose(said, torch.cat([one for one, _ in alone]), atol=1e-5)
        assert torch.allclose(slope, torch.stack([one for _, one in alone]).sum(0), atol=1e-4, rtol=1e-4)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_a_pooled_answer_is_the_heads_of_the_mean(sizes):
    """By the definition, item by item; and an item of one slot is read as it is."""
    model, slots = network(), torch.randperm(sum(sizes), generator=torch.Generator().manual_seed(len(sizes)))
    target = Stream(torch.zeros(len(sizes), dtype=torch.int64), slots, torch.tensor([[1, size] for size in sizes]))
    forward = ForwardPass(model, pack([example(sum(sizes), 0)]))
    with torch.no_grad():
        means = torch.stack([forward.hidden[part].mean(0) for part in slots.split(sizes)])
        assert torch.allclose(forward.read_pooled("label", target), model.read("label", means), atol=1e-5)
        single = Stream.joined([Stream.whole(torch.zeros(1, dtype=torch.int64), slot[None]) for slot in slots])
        assert torch.equal(forward.read_pooled("label", single), forward.read("label", single))


def test_every_slot_moves_a_mean_and_the_first_alone_a_first():
    """A head on hidden states that slots do not mix: the gradient shows which of them were read."""
    hidden = torch.randn(5, 8, requires_grad=True)
    for pooling, touched in (("mean", [0, 1, 2, 3, 4]), ("first", [0])):
        objective = Classification(pooling=pooling).ready({"picture": [PATCH], "label": [LABEL]})
        fields = {"picture": Tokens.of("patch", torch.zeros(5, 3)), "label": Tokens.of("label", torch.tensor([2]))}
        made = objective.prepare(fields, RNG)
        assert made.targets["label"].items.tolist() == [[1, len(touched)]] and made.prefix == 5
        forward = ForwardPass(network(), pack([made]))
        forward.__dict__["hidden"] = hidden
        (slope,) = torch.autograd.grad(objective.loss(forward, made.targets).sum, hidden)
        assert slope.abs().sum(1).nonzero()[:, 0].tolist() == touched


def test_an_unknown_pooling_is_told():
    with pytest.raises(ConfigError, match="'avg'; expected one of: first, mean"):
        Classification(pooling="avg")


def test_a_class_slot_stands_before_the_patches():
    """One slot more; the picture comes back, its positions begin past the class token's."""
    check_tokenizer(ImageTokenizer(patch=4, channels=1, class_slot=True))
    plain, classed = (ImageTokenizer(patch=4, channels=1, class_slot=chosen) for chosen in (False, True))
    picture = RNG.integers(0, 256, (8, 12, 1), dtype=np.uint8)
    one, other = plain.encode(picture), classed.encode(picture)
    assert (one.length, other.length) == (6, 7) and other.positions[:2].tolist() == [[0, 0], [1, 1]]
    assert torch.equal(other.positions[1:] - 1, one.positions)
    assert other.streams["image.class"].slots.tolist() == [0] and other.streams["image"].slots.tolist() == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]
    assert np.array_equal(classed.decode(other), picture)


def test_a_class_token_is_trained_and_is_where_a_label_is_read():
    """It is laid as it is, no text is looked for around it, and its vector has a gradient."""
    tokenizers = {
        "image": ImageTokenizer(patch=4, channels=1, class_slot=True),
        "label": LabelTokenizer(names=["a", "b"]),
    }
    specs = {name: tokenizer.streams for name, tokenizer in tokenizers.items()}
    objective = Classification().ready(specs)
    picture = RNG.integers(0, 256, (8, 8, 1), dtype=np.uint8)
    made = objective.prepare(
        {"image": tokenizers["image"].encode(picture), "label": tokenizers["label"].encode("b")}, RNG
    )
    assert made.tokens.length == 5 and made.targets["label"].slots.tolist() == [0]
    model = Model(tokenizers, {"dim": 8, "heads": 2}, ["label"])
    objective.loss(ForwardPass(model, pack([made], model.rank)), made.targets).sum.backward()
    assert float(model.embedders["image/class"].table.weight.grad.abs().sum()) > 0
    assert Traversal(target="label").predicts(specs) == ["label"]  # a class token is no text to be said
