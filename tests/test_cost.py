"""What an architecture costs is read from its settings, and is what the model that is made of them has."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from blueprints import blueprint
from torch.overrides import TorchFunctionMode

from anyformer.architecture import (
    Architecture,
    BackboneConfig,
    kv_bytes_per_token,
    names,
    parameters,
    preset,
    reduced,
    train_flops_per_token,
)
from anyformer.architecture.cost import embedder
from anyformer.batch import Example, pack
from anyformer.cli import main
from anyformer.errors import ConfigError
from anyformer.model import Model, Network
from anyformer.sublayers import set_backend
from anyformer.tokens import Stream, Tokens


def counted(architecture: Architecture) -> int:
    """Unique parameters of the model itself."""
    with blueprint():
        return sum(parameter.numel() for parameter in Model.of(architecture).parameters())


# Parameters


@pytest.mark.parametrize("name", names())
def test_every_preset_has_the_parameters_that_its_settings_promise(name):
    assert parameters(preset(name)) == counted(preset(name))
    assert parameters(reduced(preset(name))) == counted(reduced(preset(name)))


PLAIN = {"dim": 16, "heads": 4, "depth": 3, "hidden": 20, "memory_dim": 6}
CONVOLVED = ["half feed_forward", "attention", "convolution", "half feed_forward"]


@pytest.mark.parametrize(
    "settings",
    [
        {"norm": "rms", "end_norm": True, "final_norm": False, "embed_norm": True, "embed_shift": True},
        {"kv_heads": 2, "head_dim": 10, "attention_bias": "ko", "gated": True, "feed_forward_bias": False},
        {"recipe": ["attention", "cross_attention", "feed_forward"], "attention_bias": "qv", "kv_heads": 1},
        {"experts": 5, "top_k": 2, "gated": True, "embed_dim": 8, "embed_norm": True},
        {"recipe": CONVOLVED, "kernel": 7, "convolution_bias": False, "convolution_norm": "group"},
        {"recipe": CONVOLVED, "kernel": 4, "causal_convolution": True, "convolution_norm": "batch"},
        {"recipe": [], "final_norm": False},
        {"positions": {"type": "learned", "size": 9, "offset": 2}, "rank": 2, "embed_dim": 6},
        {"positions": {"type": "sinusoidal", "size": 9}, "rank": 3},
        {"positions": {"type": "sinusoidal"}},
        {"positions": {"type": "shaw", "left": 4, "right": 2}, "head_dim": 6},
        {"positions": {"type": "transformer_xl"}, "head_dim": 6, "rank": 1},
        {"positions": {"type": "buckets"}},
        {"positions": {"type": "buckets", "buckets": 12}},
    ],
    ids=str,
)
def test_each_switch_is_counted(settings):
    config = BackboneConfig.of(PLAIN | settings, "backbone")
    streams = {
        "text": {"vocab_size": 11},
        "kind": {"vocab_size": 3, "overlay": True},
        "image": {"features": 5, "rank": 2, "embedder": {"type": "linear", "norm_eps": 1e-5}},
        "sound": {
            "features": 7,
            "embedder": {
                "type": "convolutions",
                "layers": [[5, 3, 2, 1], [None, 2, 2, 0]],
                "norm": True,
                "project": True,
            },
        },
        "noise": {"features": 9, "embedder": {"type": "convolutions", "layers": [[None, 4, 3, 0]], "bias": False}},
        "spectrum": {
            "features": 10,
            "embedder": {"type": "convolutions_2d", "layers": [[3, 3, 2, 1], [None, 2, 1, 0]], "bias": False},
        },
        "vectors": {"features": config.embed_width, "embedder": {"type": "given"}},
        "label": {"vocab_size": 4, "input": False},
    }
    heads = {
        "text": {"tie": True, "bias": True},
        "kind": {"dense": 9, "activation": "tanh", "norm": True},
        "label": {"dense": 3, "bias": True},
        "image": {},
    }
    heads["text"]["dense"] = config.embed_width
    architecture = Architecture(backbone=config, heads=heads, streams=streams)
    assert parameters(architecture) == counted(architecture)


def test_a_table_that_two_share_is_counted_once():
    tied = Architecture(backbone={"dim": 8, "heads": 2}, heads={"b": {"tie": "a"}}, streams=dict.fromkeys("ab", TABLE))
    free = replace(tied, heads={"b": {}})
    assert parameters(free) - parameters(tied) == 12 * 8
    assert train_flops_per_token(free) == train_flops_per_token(tied), "a shared matrix is multiplied all the same"


TABLE = {"vocab_size": 12}


EXACT = {
    "gpt1": 116_534_784, "gpt2": 124_439_808, "gpt2-medium": 354_823_168, "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "gpt3-small": 125_226_240, "gpt3-medium": 355_871_744, "gpt3-large": 760_300_032, "gpt3-xl": 1_335_513_264,
    "gpt3-2.7b": 2_651_553_280, "gpt3-6.7b": 6_658_404_352, "gpt3-13b": 12_853_386_240, "gpt3-175b": 174_604_259_328,
    "bert-base": 110_106_428, "bert-large": 336_226_108,
    "roberta-base": 124_697_433, "roberta-large": 355_412_057, "distilbert-base": 66_985_530,
    "electra-small-discriminator": 13_549_057, "electra-small-generator": 13_546_682,
    "electra-base-discriminator": 109_483_009, "electra-base-generator": 33_740_602,
    "electra-large-discriminator": 335_142_913,
    "t5-small": 60_506_624, "t5-base": 222_903_552, "t5-large": 737_668_096, "t5-3b": 2_851_598_336,
    "t5-11b": 11_307_321_344,
    "t5-v1.1-small": 76_961_152, "t5-v1.1-base": 247_577_856, "t5-v1.1-large": 783_150_080,
    "t5-v1.1-xl": 2_849_757_184, "t5-v1.1-xxl": 11_135_332_352,
    "transformer-base": 63_082_496, "transformer-big": 214_245_376,
    "vit-s-32": 22_878_952, "vit-s-16": 22_050_664, "vit-s-14": 22_004_584,
    "vit-b-32": 88_224_232, "vit-b-16": 86_567_656, "vit-b-14": 86_475_496,
    "vit-l-32": 306_535_400, "vit-l-16": 304_326_632, "vit-l-14": 304_203_752,
    "vit-h-32": 634_960_360, "vit-h-16": 632_199_400, "vit-h-14": 632_045_800,
    "whisper-tiny": 37_760_640, "whisper-base": 72_593_920, "whisper-small": 241_734_912,
    "whisper-medium": 763_857_920, "whisper-large-v1": 1_543_304_960, "whisper-large-v2": 1_543_304_960,
    "whisper-large-v3": 1_543_490_560, "whisper-large-v3-turbo": 808_878_080,
    "llama-7b": 6_738_415_616, "llama2-70b": 68_976_648_192, "llama3-8b": 8_030_261_248,
    "bart-base": 139_420_416, "bart-large": 406_291_456, "marian": 74_410_496,
    "mixtral-8x7b": 46_702_792_704, "bloom-560m": 559_214_592,
}  # fmt: skip
"""Parameters of the published models, as their reference implementations hold them."""

OTHERWISE = {
    # There, a grouped convolution for positions is made and never called, and so is the vector that masks frames.
    "wav2vec2-conformer": 618_591_904 - 8_389_760 - 1_024,
    "wav2vec2-conformer-rotary": 593_376_928 - 8_389_760 - 1_024,
    "wav2vec2-conformer-none": 593_376_928 - 8_389_760 - 1_024,
    # There, GPT-2's tables are in the weights: of 1,024 positions only row 0 is read (it is our constant behind the
    # embeddings), and of the one token none.
    "decision-transformer": 858_767 - (1_023 + 1) * 128,
}
"""What the reference has, and why we have another number."""


@pytest.mark.parametrize("name", names())
def test_parameters_are_the_published_ones(name):
    published = {**EXACT, **OTHERWISE}
    if name in published:
        assert parameters(preset(name)) == published[name]
    else:  # no reference: the paper's classes, and RNNsearch, whose paper gives no number
        assert name.startswith(("conformer-", "rnnsearch", "llama-"))


@pytest.mark.parametrize(
    ("name", "millions", "tolerance"),
    [
        ("transformer-base", 65, 0.03), ("transformer-big", 213, 0.03),
        ("whisper-tiny", 39, 0.04), ("whisper-base", 74, 0.02), ("whisper-small", 244, 0.01),
        ("whisper-medium", 769, 0.01), ("whisper-large-v1", 1550, 0.005), ("whisper-large-v3-turbo", 809, 0.001),
        ("bert-large", 340, 0.012), ("vit-b-16", 86, 0.01), ("vit-l-16", 307, 0.01), ("vit-h-14", 632, 0.001),
        ("gpt3-xl", 1300, 0.03), ("gpt3-13b", 13_000, 0.02), ("gpt3-175b", 175_000, 0.003),
        ("mixtral-8x7b", 47_000, 0.01), ("bloom-560m", 559, 0.001),
    ],
)  # fmt: skip
def test_papers_round_to_the_same(name, millions, tolerance):
    assert parameters(preset(name)) == pytest.approx(millions * 1e6, rel=tolerance)


@pytest.mark.parametrize(
    ("name", "blocks"), [("conformer-s", 7_771_392), ("conformer-m", 24_367_104), ("conformer-l", 103_029_248)]
)
def test_conformers_have_torchaudios_blocks(name, blocks):
    """Its model is nothing but blocks; ours has positions, subsampling and a head besides. The paper counts an LSTM
    decoder, too: 10.3, 30.7 and 118.8 million."""
    architecture = preset(name)
    assert isinstance(architecture.backbone, BackboneConfig)
    bare = replace(architecture, backbone=replace(architecture.backbone, positions={"type": "none"}), heads={})
    assert parameters(replace(bare, streams={})) == blocks
    assert parameters(architecture) < {"s": 10.3e6, "m": 30.7e6, "l": 118.8e6}[name[-1]]


def test_a_mixture_counts_all_experts_and_works_with_two():
    """47 B parameters, 13 B at work (arXiv:2401.04088 §1)."""
    mixtral = preset("mixtral-8x7b")
    attention = 12 * 32 * 128 * 32_768 * 32
    active = (train_flops_per_token(mixtral) - attention) / 6
    assert active + 32_000 * 4096 == pytest.approx(12.9e9, rel=0.01)


def test_what_no_tokenizer_has_brought_cannot_be_counted():
    with pytest.raises(ConfigError, match="Unknown stream 'text'"):
        parameters(Architecture(backbone={"dim": 8, "heads": 2}, heads={"text": {}}))


# FLOPs


def tokens(model: Network, name: str, slots: int) -> Tokens:
    """One item of a stream that fills so many slots, without a value too many."""
    spec = model.specs[name]
    count = next(count for count in range(1, 10_000) if spec.slots(count) == slots)
    values = torch.zeros(count, dtype=torch.int64) if spec.is_discrete else torch.zeros(count, spec.width)
    return Tokens({name: Stream.whole(values, torch.arange(slots))}, slots, torch.arange(slots)[:, None])


FACTOR = {F.linear: 0, torch.mv: 0, torch.addmv: 1, torch.bmm: 0, torch.baddbmm: 1}
"""Products of matrices, and which argument's last axis they add up."""


class Multiplications(TorchFunctionMode):
    """Counts the FLOPs of linear maps and of attention: two for each product that is added up."""

    flops = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func in FACTOR:
            self.flops += 2 * result.numel() * args[FACTOR[func]].shape[-1]
        if func is torch.einsum:
            axes = [axis for operand in args[0].split("->")[0].split(",") for axis in operand]
            sizes = dict(zip(axes, [size for operand in args[1:] for size in operand.shape], strict=True))
            self.flops += 2 * math.prod(sizes.values())
        return result


def measured(architecture: Architecture, streams: tuple[str, ...], lengths: tuple[int, ...]) -> int:
    """FLOPs of a forward pass, and of every head over every token, as they happen."""
    model = Model.of(architecture).eval()
    examples = [
        Example(tokens(model, name, length), {}, 0 if stack.causal else length)
        for name, length, stack in zip(
            streams, lengths, [s for s in (architecture.encoder, architecture.backbone) if s is not None], strict=True
        )
    ]
    if len(examples) == 2:
        examples = [replace(examples[1], source=examples[0])]
    with set_backend("eager"), Multiplications() as counter, torch.no_grad():
        hidden = model(pack(examples))
        for name in model.architecture.heads:
            model.read(name, hidden)
    return counter.flops


@pytest.mark.parametrize(
    ("name", "streams", "lengths"),
    [
        ("gpt2", ["text"], [12]),
        ("gpt1", ["text"], [7]),
        ("llama-gqa", ["text"], [12]),
        ("llama-mqa", ["text"], [12]),
        ("llama-mha", ["text"], [12]),
        ("bert-base", ["text"], [12]),
        ("electra-small-generator", ["text"], [12]),
        ("vit-b-16", ["image"], [12]),
        ("mixtral-8x7b", ["text"], [12]),
        ("bloom-560m", ["text"], [12]),
        ("t5-3b", ["text", "text"], [12, 7]),
        ("bart-base", ["text", "text"], [5, 9]),
        ("transformer-base", ["text", "text"], [8, 8]),
    ],
)
def test_flops_are_three_times_those_of_a_forward_pass(name, streams, lengths):
    """A backward pass multiplies twice as much. What grouped heads repeat is the same work here and there."""
    architecture = replace(reduced(preset(name)), context=tuple(lengths))
    predicted = train_flops_per_token(architecture)
    assert predicted == 3 * measured(architecture, tuple(streams), tuple(lengths)) // sum(lengths)


def test_convolutions_are_counted_at_their_own_rate():
    """A slot of Whisper is two frames of the first convolution; one of wav2vec 2.0 is 64 steps of the first, 32 of the
    second and so on; one of the conformer is 2 steps over 39 bands, then 1 over 19."""
    for name, expected in {
        "whisper-tiny": 2 * 80 * 3 * 384 + 384 * 3 * 384,
        "wav2vec2-conformer": 64 * 10 * 512 + (32 + 16 + 8 + 4) * 3 * 512**2 + (2 + 1) * 2 * 512**2 + 512 * 1024,
        "conformer-m": 2 * 39 * 9 * 256 + 19 * 9 * 256**2 + 19 * 256 * 256,
    }.items():
        architecture = preset(name)
        assert embedder(architecture.streams["audio"], architecture.stack_of("audio")).passed == expected


def test_a_window_bounds_what_is_seen():
    """GPT-3's every second layer sees 256 keys of 2,048: 12 · heads · head_dim · the keys that are saved."""
    banded = preset("gpt3-small")
    assert isinstance(banded.backbone, BackboneConfig)
    dense = replace(banded, backbone=replace(banded.backbone, window=None))
    both = replace(banded, backbone=replace(banded.backbone, causal=False))
    assert train_flops_per_token(dense) - train_flops_per_token(banded) == 12 * 768 * (2048 - 256) * 6
    assert train_flops_per_token(both) - train_flops_per_token(banded) == 12 * 768 * 255 * 6


def test_recurrent_stacks_are_counted_too():
    """RNNsearch's step by hand: gated units, alignment, deep output, and what is compared for each word."""
    m, n, align, maxout, words, length = 620, 1000, 1000, 500, 30_000, 50
    unit = 3 * n * m + 3 * n * n
    target = unit + 3 * n * 2 * n + n * align + 2 * maxout * (n + m + 2 * n) + words * maxout
    source = 2 * unit + align * 2 * n
    total = length * (6 * target + 6 * length * (align + 2 * n)) + length * 6 * source
    assert train_flops_per_token(preset("rnnsearch")) == total // (2 * length)


# The cache


@pytest.mark.parametrize("name", [name for name in names() if name != "rnnsearch" and preset(name).backbone.causal])
def test_the_cache_is_as_large_as_said(name):
    """Of one sequence with room for one token, at two bytes a number."""
    model = Model.of(reduced(preset(name)))
    store = model.backbone.new_cache(1, capacity=1).store
    assert kv_bytes_per_token(model.architecture) == 2 * store.numel()


def test_sharing_keys_shrinks_the_cache():
    many, grouped, one = (kv_bytes_per_token(preset(f"llama-{kind}")) for kind in ("mha", "gqa", "mqa"))
    assert (many, grouped, one) == (2 * 2 * 2048 * 16, many // 4, many // 32)
    assert kv_bytes_per_token(preset("bert-base")) == kv_bytes_per_token(preset("rnnsearch")) == 0


# The list


def test_models_are_listed_without_torch():
    program = "import sys; sys.modules['torch'] = None; from anyformer.cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", program, "list", "models"]
    plain = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert plain[0].split() == ["model", "parameters", "training", "FLOPs/token", "KV", "bytes/token"]
    rows = {line.split()[0]: line.split()[1:] for line in plain[1:] if line and not line.startswith("*")}
    assert list(rows) == names()
    assert rows["gpt2"] == ["124.4M", "854.4M", "36.86k"] and rows["bert-base"][-1] == "-"
    assert rows["gpt3-small"][-1] == "36.86k*"
    shown = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout
    assert len(json.loads(shown)) == len(rows)


def test_the_list_is_also_data(capsys):
    with pytest.raises(SystemExit) as end:
        main(["list", "models", "--json"])
    assert not end.value.code
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["llama-gqa"] == {
        "name": "llama-gqa",
        "parameters": parameters(preset("llama-gqa")),
        "train_flops_per_token": train_flops_per_token(preset("llama-gqa")),
        "kv_bytes_per_token": 32_768,
    }
