"""From values to vectors and from vectors to what is said: tables, linear maps, convolutions, heads."""

import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from anyformer.architecture import Architecture, BackboneConfig, HeadConfig, StreamConfig
from anyformer.errors import ConfigError
from anyformer.model import Model
from anyformer.model.embedders import (
    ConvolutionEmbedding,
    ConvolvedLength,
    LinearEmbedding,
    TableEmbedding,
    stream_spec,
)
from anyformer.model.heads import Head

ONE = torch.tensor([[2, 2]])


def shaken(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module with every parameter drawn anew, biases and norms too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return module


# Embedders


def test_a_table_is_looked_up_and_scaled():
    """Rows of the table, times the scale; initialised so that a scale of √dim gives unit size."""
    table = shaken(TableEmbedding(5, 3, scale=2.0))
    assert torch.equal(table(torch.tensor([4, 0]), ONE), 2 * table.table.weight[[4, 0]])
    torch.manual_seed(0)
    assert math.isclose(float(TableEmbedding(400, 64).table.weight.detach().std()), 1 / 8, rel_tol=0.05)
    assert math.isclose(float(TableEmbedding(400, 64, std=0.02).table.weight.detach().std()), 0.02, rel_tol=0.05)


def test_a_linear_map_may_have_a_norm_before_it():
    """Of each row, with its own epsilon (wav2vec2-bert)."""
    plain, normed = shaken(LinearEmbedding(4, 3)), shaken(LinearEmbedding(4, 3, norm_eps=0.1))
    x = torch.randn(2, 4)
    assert torch.allclose(plain(x, ONE), x @ plain.linear.weight.T + plain.linear.bias, atol=1e-6)
    inner = F.layer_norm(x, (4,), normed.norm.weight, normed.norm.bias, eps=0.1)
    assert torch.allclose(normed(x, ONE), inner @ normed.linear.weight.T + normed.linear.bias, atol=1e-6)


WHISPER = [(None, 3, 1, 1), (None, 3, 2, 1)]
WAV2VEC2 = [(6, 10, 5, 0), (None, 3, 2, 0)]


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=4),
    st.sampled_from([WHISPER, WAV2VEC2]),
    st.booleans(),
    st.integers(0, 99),
)
def test_convolutions_are_one_stack_per_item(lengths, layers, rich, seed):
    """Each item as by conv1d, activation by activation, with norms and a projection or without; and as many rows as
    the slot rule says, none for an item that is too short."""
    more = {"norm": True, "project": True, "norm_eps": 0.2, "bias": False} if rich else {}
    made = shaken(ConvolutionEmbedding(4, 8, layers, **more), seed)
    rule = ConvolvedLength(tuple(tuple(layer[1:]) for layer in layers))
    values = torch.randn(sum(lengths), 4)
    wanted = []
    for item in values.split(lengths):
        x = item.T
        for packed, norm, (_, _, stride, padding) in zip(made.convolutions, made.norms, layers, strict=True):
            conv = packed.conv
            short = x.shape[1] + 2 * padding < conv.kernel_size[0]
            x = x.new_zeros(conv.out_channels, 0) if short else F.conv1d(x, conv.weight, conv.bias, stride, padding)
            x = F.gelu(norm(x.T)).T
        wanted.append(x.T)
    slots = [rule(length) for length in lengths]
    assert slots == [len(rows) for rows in wanted]
    joined = torch.cat(wanted)
    if rich:
        project = made.project
        joined = F.layer_norm(joined, (8,), project.norm.weight, project.norm.bias, eps=0.2)
        joined = joined @ project.linear.weight.T + project.linear.bias
    items = torch.tensor(list(zip(lengths, slots, strict=True)))
    assert torch.allclose(made(values, items), joined, atol=1e-5)


def test_a_stream_in_plain_data_is_a_spec():
    """Equal data give equal specs, which travel to workers with their slot rule and embedder."""
    config = StreamConfig(features=4, rank=2, embedder={"type": "convolutions", "layers": [[None, 3, 2, 1]]})
    one, other = stream_spec("frame", config), stream_spec("frame", config)
    assert one == other == pickle.loads(pickle.dumps(one))
    assert [one.slots(frames) for frames in (1, 4, 5)] == [1, 2, 3]
    assert one.embedder(8)(torch.randn(5, 4), torch.tensor([[5, 3]])).shape == (3, 8)
    label = stream_spec("label", StreamConfig(vocab_size=3, input=False, end=2, overlay=True))
    assert (label.input, label.end, label.overlay, label.rank, label.slots(7)) == (False, 2, True, 1, 7)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"features": 4, "embedder": {"type": "convolution"}}, "embedder 'convolution'.*Did you mean 'convolutions'"),
        ({"features": 4, "embedder": {"type": "linear", "nrom_eps": 1}}, "'linear' cannot be made from .*nrom_eps"),
        ({"features": 4, "embedder": {"type": "convolutions"}}, "'convolutions' cannot be made from .*layers"),
        ({"features": 4, "vocab_size": 4}, "expected exactly one of them"),
        ({}, "expected exactly one of them"),
        ({"feature": 4}, "stream 'frame' has no setting 'feature'. Did you mean 'features'"),
    ],
)
def test_a_wrong_stream_is_named(config, message):
    """When the model is built."""
    with pytest.raises(ConfigError, match=message):
        Model.of(Architecture.of({"backbone": {"dim": 8, "heads": 2}, "streams": {"frame": config}}, "model"))


# Heads


def said(head: Head, config: HeadConfig, hidden: Tensor) -> Tensor:
    """A head's answer, step by step in the order of its docstring; what it has not is left out."""
    x = hidden
    if config.dense:
        x = x @ head.dense.weight.T + head.dense.bias
    if config.activation:
        x = F.gelu(x)
    if config.norm:
        x = F.layer_norm(x, (x.shape[-1],), head.norm.weight, head.norm.bias, eps=config.norm_eps)
    x = x @ head.weight.T
    return x + head.bias if config.bias else x


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, 1.0),
        ({"bias": True}, 1.0),
        ({"dense": 7, "activation": "gelu", "norm": True, "norm_eps": 0.3, "bias": True}, 1.0),  # BERT's
        ({"activation": "gelu"}, 1.0),
        ({"scaled": True}, 6**-0.5),  # T5's
    ],
)
def test_a_head_is_what_its_settings_say(config, scale):
    """Scale, dense layer, activation, norm, linear map, bias."""
    settings_ = HeadConfig(**config)
    head, hidden = shaken(Head(6, 5, settings_)), torch.randn(3, 6)
    assert torch.allclose(head(hidden), said(head, settings_, hidden * scale), atol=1e-5)
    names = {name for name, _ in head.named_parameters()}
    assert ("bias" in names, "dense.weight" in names, "norm.weight" in names) == (
        *(bool(config.get(name)) for name in ("bias", "dense", "norm")),
    )


def test_a_head_may_squash_what_it_says():
    """Behind everything else (Decision Transformer's actions, -1 to 1)."""
    plain = shaken(Head(6, 5, HeadConfig(bias=True)))
    squashed = shaken(Head(6, 5, HeadConfig(bias=True, squash="tanh")))
    hidden = torch.randn(3, 6)
    assert torch.allclose(squashed(hidden), torch.tanh(plain(hidden)), atol=1e-6)


def test_a_head_is_tied_to_its_own_table_or_to_the_one_named():
    """One tensor, with both gradients; a table of other sizes, or none, is refused by name."""
    streams = {"text": {"vocab_size": 7}, "label": {"vocab_size": 7, "input": False}, "frame": {"features": 7}}
    backbone = BackboneConfig(8, 2)

    def model(**heads) -> Model:
        return Model.of(Architecture(backbone, heads, streams))

    both = model(text={"tie": True}, label={"tie": "text", "bias": True})
    table = both.embedders["text"].table.weight
    assert both.heads["text"].weight is table
    assert both.heads["label"].weight is table
    narrow = model(label={"tie": "text", "dense": 8})
    assert narrow.heads["label"].weight is narrow.embedders["text"].table.weight
    with pytest.raises(ConfigError, match=r"tied to stream 'text'.*needs a table of \(7, 5\), got \(7, 8\)"):
        model(label={"tie": "text", "dense": 5})
    with pytest.raises(ConfigError, match=r"tied to stream 'frame'.*no table"):
        model(frame={"tie": True})
    with pytest.raises(ConfigError, match="stream to tie to 'label'"):
        model(label={"tie": True})


def test_a_wrong_head_is_named():
    """An activation, with the nearest; a stream that is not there."""
    with pytest.raises(ConfigError, match="Did you mean 'gelu'"):
        Head(4, 3, HeadConfig(dense=4, activation="gleu"))
    with pytest.raises(ConfigError, match=r"stream 'txt'.*Did you mean 'text'"):
        Model.of(Architecture(BackboneConfig(8, 2), {"txt": {}}, {"text": {"vocab_size": 3}}))
