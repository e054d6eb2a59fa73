"""The reference models that parity tests compare with: complete, repeatable, and such that a wrong switch shows."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import references
import torch
from references import FAMILIES, REGIMES, Reference
from safetensors.torch import load_file
from torch import Tensor, nn

pytestmark = pytest.mark.filterwarnings("ignore")

SEARCHES = {"greedy_ids", "greedy_noeos_ids", "greedy_noeos_logits"}
SEARCHES |= {f"{name}_{what}" for name in ("beam4", "beam4_lp06_early") for what in ("ids", "scores")}
TEXT = {"input_ids", "attention_mask", "labels"}
PROMPTS = {"gen.input_ids", "gen.attention_mask"}


def layers(name: str, first: int, last: int) -> set[str]:
    return {f"{name}.{i}" for i in range(first, last + 1)}


def decoder(depth: int) -> tuple[set[str], set[str]]:
    return TEXT | PROMPTS | {"compare_mask"}, {"logits", "loss"} | SEARCHES | layers("hidden_states", 0, depth)


def encoder(depth: int, more: str = "", logits: str = "logits") -> tuple[set[str], set[str]]:
    outputs = {*logits.split(), "loss"} | layers("hidden_states", 0, depth)
    return TEXT | {"compare_mask"} | set(more.split()), outputs


def translator(encoders: int, decoders: int, more: str = "") -> tuple[set[str], set[str]]:
    stacks = layers("encoder_hidden_states", 0, encoders) | layers("decoder_hidden_states", 0, decoders)
    outputs = {"logits", "loss", "encoder_last_hidden_state"} | SEARCHES | stacks
    return TEXT | PROMPTS | {"compare_mask"} | set(more.split()), outputs


SPEECH = (
    {"input_values", "attention_mask", "labels"},
    {"logits", "loss", "encoder_input", "encoder_mask"} | layers("hidden_states", 0, 3),
)
CLIPS = ({"input", "lengths", "compare_mask"}, {"logits", "output_lengths"} | layers("hidden_states_TBD", 1, 3))
PIXELS = ({"pixel_values"}, {"logits", "last_hidden_state"} | layers("hidden_states", 1, 3))
EPISODES = {"states", "actions", "rewards", "returns_to_go", "timesteps", "attention_mask", "compare_mask"}
PREDICTIONS = {"state_preds", "action_preds", "return_preds", "last_hidden_state"}

NAMES: dict[str, tuple[set[str], set[str]]] = {
    **dict.fromkeys(("gpt1", "gpt2", "gpt2_variants", "llama_gqa", "qwen2", "ernie4_5"), decoder(3)),
    **{"gpt3_neo": decoder(4), "llama_mqa": decoder(2), "mixtral": decoder(3), "bloom": decoder(3)},
    **{"roberta": encoder(3), "distilbert": encoder(2)},
    "bert": encoder(3, "token_type_ids next_sentence_label", "prediction_logits seq_relationship_logits"),
    "electra_generator": encoder(2, "token_type_ids"),
    "electra_discriminator": encoder(3, "token_type_ids"),
    **{"t5_v1_0": translator(3, 2), "t5_v1_1": translator(3, 2), "bart": translator(2, 3), "marian": translator(2, 3)},
    "mbart": translator(2, 3, "decoder_input_ids"),
    "whisper": (
        {"input_features", "labels", "compare_mask", "gen.input_features", "gen.decoder_input_ids"},
        translator(2, 3)[1],
    ),
    "vaswani_torch": (
        {"src", "tgt", "src_pad", "tgt_pad", "compare_mask"},
        {"logits"} | layers("encoder_hidden", 1, 2) | layers("decoder_hidden", 1, 2),
    ),
    "vit_hf": ({"pixel_values", "labels"}, {"logits", "loss"} | layers("hidden_states", 0, 3)),
    **{"vit_timm": PIXELS, "vit_torchvision": PIXELS},
    **{"conformer_torchaudio": CLIPS, "conformer_torchaudio_gn_convfirst": CLIPS},
    **dict.fromkeys(("conformer_w2v2_relative", "conformer_w2v2_rotary", "conformer_w2v2_none"), SPEECH),
    "shaw_w2v2bert_relkey": (
        {"input_features", "attention_mask", "compare_mask"},
        {"logits"} | layers("hidden_states", 0, 2),
    ),
    "decision_transformer": (EPISODES, PREDICTIONS | layers("hidden_states", 0, 3)),
    "rnnsearch": ({"src", "src_mask", "tgt_in"}, {"logits", "attention", "annotations", "final_state"}),
}
"""Family → (names in inputs.safetensors, names in outputs.safetensors)."""

CONSTANT = {
    "marian": r"embed_positions",
    "whisper": r"encoder\.embed_positions",
    "conformer_w2v2_rotary": r"inv_freq",
}
"""Tables that are computed, so that they are the same for every seed."""

BLIND = {
    "marian": r"layers\.0\.self_attn_layer_norm",  # reads sinusoids, which are never small
}
"""Norms whose epsilon does not show."""

Build = Callable[..., Path]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Build:
    """Folders of this module, each built once."""
    made: dict[tuple[str, str], Path] = {}

    def build(family: str, regime: str = "ordinary") -> Path:
        key = family, regime
        if key not in made:
            made[key] = references.build(family, tmp_path_factory.mktemp("reference") / family, regime=regime)
        return made[key]

    return build


def meta(folder: Path) -> dict:
    return json.loads((folder / "meta.json").read_text())


def main_output(outputs: dict[str, Tensor]) -> str:
    return next(name for name in ("logits", "prediction_logits", "action_preds") if name in outputs)


def compared(reference: Reference, outputs: dict[str, Tensor]) -> Tensor:
    """The main output where it counts."""
    values = outputs[main_output(outputs)]
    mask = outputs.get("encoder_mask", reference.compare)
    return values if mask is None else values[mask == 1]


def test_every_family_is_described():
    assert set(NAMES) == set(FAMILIES)


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_is_whole_and_in_proportion(built, family, regime):
    """Files, names, sizes of logits, and greedy choices that rounding cannot turn."""
    folder = built(family, regime)
    inputs, outputs = load_file(folder / "inputs.safetensors"), load_file(folder / "outputs.safetensors")
    assert (set(inputs), set(outputs)) == NAMES[family]
    assert all(value.isfinite().all() for value in outputs.values() if value.is_floating_point())
    about = meta(folder)
    assert (about["family"], about["seed"], about["regime"]) == (family, 0, regime)
    assert 0.4 < about["scale"][main_output(outputs)] < 3
    assert set(json.loads((folder / "config.json").read_text())) & {"cls", "model_type"}
    if outputs.keys() >= SEARCHES:
        generation = about["generation"]
        assert generation["greedy_min_top2_margin"] >= 1e-3
        prompt = generation["prompt_len"]
        assert outputs["greedy_noeos_ids"].shape[1] == prompt + generation["max_new_tokens"]
        assert generation["eos_token_id"] in outputs["greedy_ids"][0, prompt:].tolist(), "no search ends early"
        best, *others = outputs["beam4_scores"].view(-1, 4).unbind(1)
        assert all((best >= other).all() for other in others)
        assert regime != "ordinary" or generation["distinct_tokens"] > 1, "one piece for ever"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_build_is_a_function_of_its_arguments(built, family, tmp_path):
    """Whatever the random state and the number of threads, which are left alone."""
    first = built(family)
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    second = references.build(family, tmp_path / "again")
    assert torch.equal(torch.random.get_rng_state(), before)
    files = {path.name for path in first.iterdir()}
    assert files == {path.name for path in second.iterdir()} >= {"config.json", "model.safetensors", "meta.json"}
    for name in files:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


@pytest.mark.parametrize("family", FAMILIES)
def test_no_tensor_keeps_its_initial_value(family):
    """A bias of zeros or a weight of ones would hide an importer that forgets it."""
    one, two = (references.live(family, seed=seed).model.state_dict() for seed in (1, 2))
    same = {name for name, value in one.items() if value.is_floating_point() and (value == two[name]).any()}
    assert {name for name in same if not re.search(CONSTANT.get(family, "$^"), name)} == set()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_is_complete(built, family):
    """The library's own loader reads the folder and computes the same."""
    folder = built(family)
    reference = references.live(family)
    reference.model = load(folder, reference.model)
    outputs, expected = reference.outputs(), load_file(folder / "outputs.safetensors")
    for name in {main_output(outputs), "loss"} & outputs.keys():
        torch.testing.assert_close(outputs[name], expected[name])


def load(folder: Path, like: nn.Module) -> nn.Module:
    config = json.loads((folder / "config.json").read_text())
    if hasattr(like, "from_pretrained"):
        return type(like).from_pretrained(folder, attn_implementation="eager").eval()
    assert config.pop("cls").endswith(type(like).__name__)
    model = type(like)(**config)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval()


def norms(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """(name, module, name of its epsilon)."""
    for name, module in model.named_modules():
        for attribute in ("eps", "variance_epsilon"):
            if hasattr(module, attribute):
                yield name, module, attribute


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "rnnsearch"])
def test_every_epsilon_shows_in_the_sharp_regime(family):
    """One norm's epsilon at a time, 1e-12 or 1e-6 for 1e-5 and the other way round. Rounding moves logits by 3e-6."""
    reference = references.live(family, regime="sharp")
    expected = compared(reference, reference.outputs())
    blind = BLIND.get(family, "$^")
    found = 0
    for name, module, attribute in norms(reference.model):
        usual = getattr(module, attribute)
        setattr(module, attribute, 1e-5 if usual < 5e-6 else 1e-12)
        moved = (compared(reference, reference.outputs()) - expected).abs().max().item()
        setattr(module, attribute, usual)
        assert moved > 1e-4 or re.search(blind, name), f"{name}: {moved}"
        found += 1
    assert found > 2
    assert torch.equal(compared(reference, reference.outputs()), expected)


@pytest.mark.parametrize(
    ("family", "field", "other"),
    [
        ("bert", "layer_norm_eps", 1e-5),
        ("roberta", "layer_norm_eps", 1e-12),
        ("gpt2", "layer_norm_epsilon", 1e-12),
        ("vit_hf", "layer_norm_eps", 1e-5),
        ("t5_v1_0", "layer_norm_epsilon", 1e-5),
    ],
)
def test_a_config_with_another_epsilon_shows_in_the_sharp_regime_only(family, field, other):
    """In the ordinary one it moves logits by less than a parity test can ask for: why there is a sharp one."""

    def moved(regime: str) -> float:
        usual, changed = (references.live(family, regime=regime, change=c) for c in ({}, {field: other}))
        return (compared(usual, usual.outputs()) - compared(changed, changed.outputs())).abs().max().item()

    assert moved("sharp") > 1e-2
    assert moved("ordinary") < 2e-4


@pytest.mark.parametrize("family", ["t5_v1_0", "t5_v1_1"])
@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_far_buckets_show_in_the_long_regime(family, stack):
    """A largest distance of 64 instead of 128, in either direction."""
    reference = references.live(family, regime="long")
    expected = compared(reference, reference.outputs())
    attention = getattr(reference.model, stack).block[0].layer[0].SelfAttention
    assert attention.relative_attention_max_distance == 128
    attention.relative_attention_max_distance = 64
    assert (compared(reference, reference.outputs()) - expected).abs().max() > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_the_long_regime_is_longer_than_128_tokens(built, family):
    """In every sequence that a model reads, hidden ones included."""
    outputs = load_file(built(family, "long") / "outputs.safetensors")
    hidden = {name: value for name, value in outputs.items() if "hidden" in name and value.ndim == 3}
    hidden |= {} if hidden else {"annotations": outputs["annotations"], "attention": outputs["attention"]}
    for name, value in hidden.items():
        assert value.shape[0 if "TBD" in name else 1] > 128, name


def test_a_change_changes_the_config_and_nothing_else(tmp_path):
    """So that an importer which overlooks a field computes something else from the same weights."""
    usual = references.build("gpt2", tmp_path / "usual")
    changed = references.build("gpt2", tmp_path / "changed", change={"n_head": 2, "activation_function": "relu"})
    config = json.loads((changed / "config.json").read_text())
    assert (config["n_head"], config["activation_function"]) == (2, "relu")
    weights = [load_file(folder / "model.safetensors") for folder in (usual, changed)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    logits = [load_file(folder / "outputs.safetensors")["logits"] for folder in (usual, changed)]
    assert (logits[0] - logits[1]).abs().max() > 0.1


@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("bart", {"scale_embedding": True, "activation_function": "relu"}),
        ("gpt2", {"tie_word_embeddings": False, "n_inner": 40}),
        ("llama_gqa", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
        ("t5_v1_1", {"d_ff": 56, "num_heads": 3, "feed_forward_proj": "gated-silu"}),
        ("vit_timm", {"depth": 2, "qkv_bias": False}),
        ("vaswani_torch", {"norm_first": True}),
        ("conformer_torchaudio", {"use_group_norm": True}),
    ],
)
def test_other_configs_build(family, change, tmp_path):
    folder = references.build(family, tmp_path, change=change)
    config = json.loads((folder / "config.json").read_text())
    assert {name: config[name] for name in change} == change
    assert meta(folder)["change"] == change


def test_what_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ValueError, match="layer_norm_eps"):
        references.build("gpt2", tmp_path, change={"layer_norm_eps": 1e-3})  # GPT-2 calls it layer_norm_epsilon
    with pytest.raises(TypeError, match="height"):
        references.build("vit_timm", tmp_path, change={"height": 3})
    with pytest.raises(ValueError, match="ordinary"):
        references.build("gpt2", tmp_path, regime="extraordinary")


def test_rnnsearch_neither_looks_at_nor_depends_on_padding():
    """The one reference that is ours: attention is a distribution over the words of the source."""
    reference = references.live("rnnsearch")
    words = reference.inputs["src_mask"].sum(1)
    outputs = reference.outputs()
    torch.testing.assert_close(outputs["attention"].sum(-1), torch.ones(2, 9))
    assert (outputs["attention"][1, :, words[1] :] == 0).all()
    given = reference.inputs
    source = {name: given[name][1:, : words[1]] for name in ("src", "src_mask")}
    alone = reference.model(**source, tgt_in=given["tgt_in"][1:])
    torch.testing.assert_close(alone["logits"], outputs["logits"][1:])
    assert outputs["attention"][0].std(-1).min() > 0.01, "flat attention would hide a wrong alignment model"
