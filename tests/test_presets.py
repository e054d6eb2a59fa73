"""Published architectures: each file says what it must, makes a model, and what it makes can be trained."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from blueprints import blueprint
from toys import Letters

import anyformer as af
from anyformer import presets
from anyformer.architecture import Architecture, BackboneConfig, names, preset, read, reduced
from anyformer.architecture.preset import merged
from anyformer.batch import Batch, Example, pack
from anyformer.errors import ConfigError
from anyformer.model import Model
from anyformer.model.embedders import Convolution2dEmbedding, stream_spec
from anyformer.tokens import Stream, StreamSpec, Tokens

SIZES = {
    "transformer": ["base", "big"],
    "gpt2": ["medium", "large", "xl"],
    "gpt3": ["small", "medium", "large", "xl", "2.7b", "6.7b", "13b", "175b"],
    "bert": ["base", "large"],
    "roberta": ["base", "large"],
    "electra": [
        "small-generator",
        "small-discriminator",
        "base-generator",
        "base-discriminator",
        "large-discriminator",
    ],
    "t5": ["small", "base", "large", "3b", "11b"],
    "t5-v1.1": ["small", "base", "large", "xl", "xxl"],
    "bart": ["base", "large"],
    "vit": [f"{size}-{patch}" for size in "sblh" for patch in (14, 16, 32)],
    "conformer": ["s", "m", "l"],
    "wav2vec2-conformer": ["rotary", "none"],
    "whisper": ["tiny", "base", "small", "medium", "large-v1", "large-v2", "large-v3", "large-v3-turbo"],
    "llama": ["7b", "mha", "gqa", "mqa"],
}
ALONE = (
    *("gpt1", "gpt2", "distilbert-base", "marian", "wav2vec2-conformer", "decision-transformer", "llama2-70b"),
    *("llama3-8b", "mixtral-8x7b", "bloom-560m", "rnnsearch"),
)
FAMILIES = {
    *("openai-gpt", "gpt2", "bert", "roberta", "distilbert", "electra", "t5", "bart", "marian", "vit", "whisper"),
    *("decision_transformer", "llama", "wav2vec2-conformer", "mixtral", "bloom", "rnnsearch"),
}
"""Tables of weights. GPT-3, the paper's Transformer and its Conformer were published without."""


def settings(name: str) -> dict:
    """What a file and those it is like say, before any default."""
    content = yaml.safe_load((presets.root() / "models" / f"{name}.yaml").read_text(encoding="utf-8"))
    return merged(settings(content["like"]), content) if "like" in content else content


def stacks(architecture: Architecture) -> list:
    return [stack for stack in (architecture.backbone, architecture.encoder) if stack is not None]


# What the files say


def test_every_published_architecture_is_here():
    assert set(names()) == {*ALONE, *(f"{name}-{size}" for name, sizes in SIZES.items() for size in sizes)}
    assert af.list_models() == names()


@pytest.mark.parametrize("name", names())
def test_a_file_begins_with_its_source_and_leaves_no_choice_unsaid(name):
    """Initial spread, dropout and context are the paper's business: a default must not answer for it."""
    first = (presets.root() / "models" / f"{name}.yaml").read_text(encoding="utf-8").partition("\n")[0]
    assert first.startswith("# ") and re.search(r"arXiv:\d{4}\.\d{5}|\b(19|20)\d\d\b|wav2vec 2.0|about 1 B", first)
    said, architecture = settings(name), preset(name)
    for stack in ("backbone", "encoder"):
        assert {"init_std", "dropout"} <= set(said.get(stack, ("init_std", "dropout"))), stack
    assert len(architecture.context) == (1 if architecture.encoder is None else 2)
    assert bool(architecture.source) == (architecture.encoder is not None)
    assert set(architecture.source) <= set(architecture.streams) and set(architecture.heads) <= set(
        architecture.streams
    )
    assert architecture.family in FAMILIES | {None}


@pytest.mark.parametrize("name", names())
def test_numbers_are_numbers(name):
    """YAML reads 1e-12 as a word; 1.0e-12 is the number."""
    architecture = preset(name)
    for config in [*stacks(architecture), *architecture.heads.values()]:
        for field in ("norm_eps", "dropout", "attention_dropout", "init_std"):
            assert isinstance(getattr(config, field, 0.0), float | None), field
    assert all(isinstance(key, str) for stack in stacks(architecture) for key in getattr(stack, "positions", ()))


@pytest.mark.parametrize("name", names())
def test_a_whole_context_has_positions(name):
    """A table of positions is as long as the longest sequence."""
    architecture = preset(name)
    for stack, length in zip(stacks(architecture), reversed(architecture.context), strict=True):
        if isinstance(stack, BackboneConfig) and stack.positions.get("size"):
            assert length <= stack.positions["size"] - stack.positions.get("offset", 0)


def test_gpt3_alternates_between_all_keys_and_a_band():
    backbone = preset("gpt3-small").backbone
    assert isinstance(backbone, BackboneConfig)
    assert [backbone.window_of(layer) for layer in range(4)] == [None, 256, None, 256]


# One like another


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Models of one's own, in the place of the published ones."""
    (tmp_path / "models").mkdir()
    monkeypatch.setattr(presets, "root", lambda: tmp_path)
    base = {"backbone": {"dim": 8, "heads": 2, "positions": {"type": "rotary", "base": 10.0}}, "context": 4}
    for name, content in {
        "base": base,
        "wide": {"like": "base", "backbone": {"dim": 16}},
        "wider": {"like": "wide", "backbone": {"dim": 32, "positions": {"base": 20.0}}},
        "other": {"like": "wide", "backbone": {"positions": {"type": "none"}}, "context": [5]},
        "hen": {"like": "egg"},
        "egg": {"like": "hen"},
        "orphan": {"like": "bass"},
        "list": [1, 2],
        "number": {"like": 3},
    }.items():
        (tmp_path / "models" / f"{name}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return tmp_path / "models"


def test_settings_are_laid_over_those_of_the_model_that_it_is_like(folder):
    wider, other = preset("wider").backbone, preset("other").backbone
    assert isinstance(wider, BackboneConfig) and isinstance(other, BackboneConfig)
    assert (wider.dim, wider.heads, wider.positions) == (32, 2, {"type": "rotary", "base": 20.0})
    assert (other.dim, other.positions) == (16, {"type": "none"}), "settings of another scheme are gone"
    assert preset("wider").context == (4,) and preset("other").context == (5,)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("hen", "in a circle: hen, egg, hen"),
        ("orphan", "Unknown model 'bass'. Did you mean 'base'?"),
        ("list", "expected a mapping"),
        ("number", "expected the name of a model"),
        ("wyder", "Did you mean 'wider'?"),
    ],
)
def test_a_model_that_is_like_nothing_is_refused(folder, name, sentence):
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        preset(name)


def test_a_file_of_ones_own_may_be_like_a_published_one(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("like: gpt2\nbackbone: {depth: 3}\n")
    backbone = read(str(file)).backbone
    assert isinstance(backbone, BackboneConfig) and (backbone.depth, backbone.dim) == (3, 768)
    assert read("gpt2") == preset("gpt2")
    file.write_text("a: [")
    for path in (file, tmp_path / "none.yaml"):
        with pytest.raises(ConfigError, match=r"is not YAML|holds a|cannot be read"):
            read(str(path))


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=re.escape("Unknown model 'gpt2-midium'. Did you mean 'gpt2-medium'?")):
        af.create_model("gpt2-midium")


# What is made of them


def test_a_model_is_made_by_name():
    with blueprint():
        model = af.create_model("bert-base")
    assert isinstance(model, Model) and model.architecture == preset("bert-base")
    assert set(model.heads) == {"text", "next_sentence"}


def test_a_tokenizer_brings_its_own_vocabulary():
    class Text(Letters):
        @property
        def streams(self) -> tuple[StreamSpec, ...]:
            return (StreamSpec.discrete("text", 11),)

    letters = Text()
    letters.fit(["abc"])
    with blueprint():
        model = af.create_model("gpt2", {"text": letters})
    assert model.specs["text"].vocab_size == 11 and model.heads["text"].weight.shape == (11, 768)
    assert model.heads["text"].weight is model.embedders["text"].table.weight


def piece(model: Model, name: str, slots: int, generator: torch.Generator) -> Tokens:
    """One item of a stream that fills so many slots."""
    spec = model.specs[name]
    count = next(count for count in range(1, 10_000) if spec.slots(count) >= slots)
    values = torch.randn(count, spec.width, generator=generator)
    if spec.is_discrete:
        values = torch.randint(spec.width, (count,), generator=generator)
    return Tokens({name: Stream.whole(values, torch.arange(slots))}, slots, torch.arange(slots)[:, None])


def axis(model: Model, streams: list[str], causal: bool, generator: torch.Generator, slots: int = 6) -> Example:
    """Every stream of an axis behind the other, and the overlays upon the first."""
    own = [name for name in streams if not model.specs[name].overlay]
    tokens = Tokens.laid_end_to_end([piece(model, name, slots, generator) for name in own])
    overlays = {n: piece(model, n, slots, generator).streams[n] for n in streams if model.specs[n].overlay}
    tokens = Tokens({**tokens.streams, **overlays}, tokens.length, tokens.positions)
    return Example(tokens, {}, prefix=0 if causal else tokens.length)


def batch_for(model: Model, generator: torch.Generator) -> Batch:
    """Two short sequences of everything that the architecture reads."""
    architecture, examples = model.architecture, []
    incoming = [name for name, spec in model.specs.items() if spec.input]
    target = [name for name in incoming if name not in architecture.source or name in architecture.heads]
    for slots in (6, 5):
        example = axis(model, target, architecture.backbone.causal, generator, slots)
        if architecture.encoder is not None:
            source = axis(model, list(architecture.source), causal=False, generator=generator, slots=slots)
            example = Example(example.tokens, {}, example.prefix, source=source)
        examples.append(example)
    return pack(examples, model.rank)


@pytest.mark.parametrize("name", names())
def test_a_small_twin_learns(name):
    """One step forward and back: the loss is finite, and every trained parameter gets a gradient."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    model = Model.of(reduced(preset(name))).train()
    for parameter in model.parameters():  # nothing behind what is zero at first would get a gradient
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    batch = batch_for(model, generator)
    hidden, loss = model(batch), torch.zeros(())
    assert hidden.shape == (batch.tokens, model.backbone.config.width)
    for stream in model.architecture.heads:
        said, spec = model.read(stream, hidden), model.specs[stream]
        if spec.is_discrete:
            loss = loss + F.cross_entropy(said, torch.randint(spec.width, (batch.tokens,), generator=generator))
        else:
            loss = loss + (said - torch.randn(said.shape, generator=generator)).square().mean()
    loss.backward()
    assert loss.isfinite()
    for parameter, weight in model.named_parameters():
        if not weight.requires_grad:
            assert ".positions.tables." in parameter, "only stored sinusoids are never trained"
        elif weight.grad is None or not weight.grad.isfinite().all() or not weight.grad.any():
            pytest.fail(f"{parameter} takes no part")


@pytest.mark.parametrize("name", names())
def test_a_small_twin_has_the_same_switches(name):
    """Sizes shrink, nothing else changes, and a twin's twin is itself."""
    small = reduced(preset(name))
    assert reduced(small) == small
    sizes = {
        *("dim", "heads", "depth", "kv_heads", "head_dim", "hidden", "memory_dim", "embed_dim", "kernel", "window"),
        *("positions", "experts", "top_k", "align", "maxout"),
    }
    for large, little in zip(stacks(preset(name)), stacks(small), strict=True):
        changed = {key for key, value in large.as_json().items() if little.as_json()[key] != value}
        assert changed <= sizes
        for key in ("kv_heads", "head_dim", "hidden", "embed_dim", "window"):
            assert (getattr(large, key, None) is None) == (getattr(little, key, None) is None), key
        if isinstance(large, BackboneConfig) and isinstance(little, BackboneConfig):
            assert set(large.positions) == set(little.positions)
            assert [kind(large) for kind in RELATIONS] == [kind(little) for kind in RELATIONS]
    assert small.source == preset(name).source and small.heads.keys() == preset(name).heads.keys()


def test_a_small_twin_of_given_vectors_takes_small_vectors():
    own = {"v": {"features": 90, "embedder": {"type": "given"}}, "text": {"vocab_size": 5}}
    small = reduced(Architecture(backbone={"dim": 90, "heads": 3}, streams=own))
    assert small.streams["v"].features == small.backbone.embed_width < 90 and Model.of(small)


def test_a_small_twin_is_made_of_unusual_settings_too():
    """Heads that divide no toy's width, and a table that is explicitly not there."""
    odd = Architecture(backbone={"dim": 9, "heads": 3, "positions": {"type": "sinusoidal", "size": None}}, streams=TEXT)
    assert Model.of(reduced(odd)).architecture.backbone.positions == {"type": "sinusoidal", "size": None}


TEXT = {"text": {"vocab_size": 5}}


RELATIONS = (
    lambda config: (config.key_heads == 1, config.key_heads == config.heads) if config.heads > 1 else None,
    lambda config: config.head_width * config.heads == config.dim,
    lambda config: config.embed_width == config.dim,
)
"""What a small twin must not lose: shared keys, heads that are wider than the model, narrower embeddings."""


# Convolutions over time and features


@pytest.fixture
def subsampling() -> Convolution2dEmbedding:
    """The conformer's, on few bands."""
    torch.manual_seed(0)
    return Convolution2dEmbedding(12, 8, [(None, 3, 2, 0), (None, 3, 2, 0)])


def test_an_item_is_embedded_as_if_it_were_alone(subsampling):
    """Also one that is too short to fill a slot, and none at all."""
    spec = stream_spec("audio", preset("conformer-s").streams["audio"])
    lengths = [30, 7, 6, 19, 0]
    slots = [spec.slots(length) for length in lengths]
    assert slots == [6, 1, 0, 4, 0]
    values = torch.randn(sum(lengths), 12)
    packed = subsampling(values, torch.tensor([lengths, slots]).T).split(slots)
    for item, count, row in zip(values.split(lengths), slots, packed, strict=True):
        alone = subsampling(item, torch.tensor([[len(item), count]]))
        torch.testing.assert_close(row, alone, atol=1e-6, rtol=1e-5)
    assert subsampling(values[:0], torch.zeros(0, 2, dtype=torch.int64)).shape == (0, 8)


def test_subsampling_is_two_convolutions_and_a_linear_map(subsampling):
    """Written out for one item: channels of a time step stand together, each with all its bands."""
    values = torch.randn(11, 12)
    x = values[None]
    for convolution in subsampling.convolutions:
        x = F.relu(F.conv2d(x, convolution.weight, convolution.bias, stride=2))
    rows = torch.stack([x[:, step].flatten() for step in range(x.shape[1])])
    expected = F.linear(rows, subsampling.project.linear.weight, subsampling.project.linear.bias)
    torch.testing.assert_close(subsampling(values, torch.tensor([[11, 2]])), expected)
    with blueprint():
        assert af.create_model("conformer-s").embedders["audio"].project.linear.in_features == 144 * 19


def test_padding_of_one_item_is_not_felt_by_another():
    """A layer's zeros behind a short item are zeros for the next layer too, whatever its bias."""
    torch.manual_seed(0)
    embedder = Convolution2dEmbedding(6, 4, [(3, 3, 1, 1), (None, 3, 1, 1)])
    short, long = torch.randn(3, 6), torch.randn(9, 6)
    both = embedder(torch.cat((short, long)), torch.tensor([[3, 3], [9, 9]]))
    torch.testing.assert_close(both[:3], embedder(short, torch.tensor([[3, 3]])), atol=1e-6, rtol=1e-5)


def test_features_that_convolutions_swallow_are_refused():
    with pytest.raises(ConfigError, match="they need 7"):
        Convolution2dEmbedding(6, 8, [(None, 3, 2, 0), (None, 3, 2, 0)])
