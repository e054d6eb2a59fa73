"""A config.json is obeyed: fields change what they say, what is left unsaid is as the family's class has it, and tables
name only what exists."""

from __future__ import annotations

import importlib
import json
import re
from dataclasses import fields, replace
from typing import Any

import pytest
import references
from published import altered, config_of, sketch, write_config

import anyformer as af
from anyformer.architecture import (
    Architecture,
    BackboneConfig,
    HeadConfig,
    RecurrentConfig,
    StreamConfig,
    differences,
    names,
    preset,
)
from anyformer.architecture.words import EMBEDDERS, POSITIONS
from anyformer.errors import AnyformerError
from anyformer.model import Model
from anyformer.weights.conversions import CONVERSIONS, VALUES
from anyformer.weights.fixture import READERS
from anyformer.weights.parity import LOSSES, check_weights
from anyformer.weights.table import Table, table_for, table_named, tables
from anyformer.weights.transfer import own_tensors
from anyformer.weights.translate import architecture_of, split

transformers = pytest.importorskip("transformers", reason="the reference; pip install 'anyformer[hf]'")
StrictDataclassError = importlib.import_module("huggingface_hub.errors").StrictDataclassError
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

CHANGES: dict[str, list[dict[str, Any]]] = {
    "gpt1": [
        {"n_layer": 2, "n_head": 2, "layer_norm_epsilon": 1e-3},
        {"afn": "relu", "tie_word_embeddings": False},
        {"afn": "silu", "n_embd": 32, "n_positions": 50, "vocab_size": 70},
    ],
    "gpt2": [
        {"n_inner": 40, "activation_function": "silu"},
        {"activation_function": "gelu", "n_head": 2, "layer_norm_epsilon": 1e-2},
        {"scale_attn_by_inverse_layer_idx": True, "tie_word_embeddings": False},
        {"n_embd": 32, "n_positions": 50, "vocab_size": 70, "n_layer": 1},
    ],
    "gpt3_neo": [
        {"window_size": 2, "intermediate_size": 40},
        {"attention_types": [[["local"], 1], [["global"], 3]], "layer_norm_epsilon": 1e-2},
        {"activation_function": "relu", "num_heads": 2, "tie_word_embeddings": False},
    ],
    "llama_gqa": [
        {"head_dim": 20, "hidden_act": "gelu"},
        {"num_key_value_heads": 4, "rms_norm_eps": 1e-2},
        {"num_key_value_heads": 1, "hidden_act": "relu"},
        {"attention_bias": True},
        {"mlp_bias": True, "tie_word_embeddings": True},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 300.0, "factor": 2.0}},
        {"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 60, "vocab_size": 70},
    ],
    "llama_mqa": [{"num_key_value_heads": 2, "tie_word_embeddings": False}],
    "qwen2": [{"tie_word_embeddings": False, "num_key_value_heads": 4}, {"hidden_act": "gelu_pytorch_tanh"}],
    "ernie4_5": [{"use_bias": False, "head_dim": 20}, {"tie_word_embeddings": False, "rms_norm_eps": 1e-2}],
    "mixtral": [
        {"num_local_experts": 3, "num_experts_per_tok": 1},
        {"num_experts_per_tok": 3, "head_dim": 20, "tie_word_embeddings": True},
        {"sliding_window": 4, "hidden_act": "relu"},
    ],
    "bloom": [{"n_head": 6, "layer_norm_epsilon": 1e-2}, {"n_head": 3, "tie_word_embeddings": False, "n_layer": 2}],
    "bert": [
        {"layer_norm_eps": 1e-2, "intermediate_size": 40},
        {"hidden_act": "relu", "num_attention_heads": 2},
        {"hidden_act": "gelu_new", "type_vocab_size": 3},
        {"hidden_act": "silu", "max_position_embeddings": 64, "num_hidden_layers": 1, "hidden_size": 32},
    ],
    "roberta": [
        {"layer_norm_eps": 1e-2, "hidden_act": "relu"},
        {"type_vocab_size": 2, "max_position_embeddings": 60, "intermediate_size": 40},
    ],
    "distilbert": [
        {"activation": "relu", "hidden_dim": 40},
        {"n_heads": 2, "n_layers": 1, "sinusoidal_pos_embds": True, "tie_word_embeddings": False},
    ],
    "electra_generator": [
        {"embedding_size": 48, "hidden_act": "relu"},
        {"layer_norm_eps": 1e-2, "tie_word_embeddings": False},
    ],
    "electra_discriminator": [
        {"embedding_size": 48, "hidden_act": "relu"},
        {"layer_norm_eps": 1e-2, "type_vocab_size": 3},
    ],
    "t5_v1_0": [
        {"feed_forward_proj": "gelu", "d_kv": 8, "num_heads": 3},
        {"feed_forward_proj": "gelu_new", "layer_norm_epsilon": 1e-2},
        {"feed_forward_proj": "gated-silu", "relative_attention_num_buckets": 16},
        {"feed_forward_proj": "gated-relu", "relative_attention_max_distance": 30},
        {"feed_forward_proj": "gated-gelu", "num_layers": 2, "num_decoder_layers": 2, "d_ff": 40},
    ],
    "t5_v1_1": [{"feed_forward_proj": "gated-silu"}, {"num_heads": 2, "tie_word_embeddings": True}],
    "bart": [
        {"scale_embedding": True, "activation_function": "relu"},
        {"encoder_ffn_dim": 40, "decoder_attention_heads": 2, "max_position_embeddings": 60},
    ],
    "mbart": [{"scale_embedding": False, "decoder_ffn_dim": 40}, {"activation_function": "relu"}],
    "marian": [
        {"scale_embedding": False, "activation_function": "swish"},
        {"activation_function": "gelu", "decoder_layers": 2, "max_position_embeddings": 60},
    ],
    "whisper": [
        {"num_mel_bins": 12, "max_source_positions": 15, "scale_embedding": True},  # which Whisper's decoder overlooks
        {"activation_function": "relu", "max_target_positions": 60, "encoder_ffn_dim": 40},
    ],
    "vaswani_torch": [{"norm_first": True, "activation": "gelu"}, {"layer_norm_eps": 1e-2, "dim_feedforward": 40}],
    "vit_hf": [
        {"qkv_bias": False, "layer_norm_eps": 1e-2, "image_size": 32},
        {"image_size": (16, 40), "num_channels": 1, "hidden_act": "relu"},
        {"patch_size": 4, "num_labels": 3, "intermediate_size": 40},
    ],
    "vit_timm": [{"qkv_bias": False, "img_size": 32}, {"mlp_ratio": 3.0, "patch_size": 4, "num_classes": 3}],
    "vit_torchvision": [{"image_size": 32, "mlp_dim": 40}, {"patch_size": 4, "num_heads": 2, "num_classes": 3}],
    "conformer_torchaudio": [
        {"use_group_norm": True},
        {"convolution_first": True, "depthwise_conv_kernel_size": 3, "num_heads": 2, "ffn_dim": 40},
    ],
    "shaw_w2v2bert_relkey": [
        {"position_embeddings_type": "relative", "hidden_act": "relu"},
        {"position_embeddings_type": "rotary", "conv_depthwise_kernel_size": 3},
        {"position_embeddings_type": None, "feature_projection_input_dim": 12},
        {"left_max_position_embeddings": 2, "right_max_position_embeddings": 1},
    ],
    "conformer_w2v2_relative": [
        {"conv_bias": False, "hidden_act": "swish", "layer_norm_eps": 1e-2},
        {"feat_extract_activation": "relu", "conv_dim": (16, 24), "conv_kernel": (8, 4), "conv_stride": (4, 2)},
    ],
    "conformer_w2v2_rotary": [{"rotary_embedding_base": 50}],
    "decision_transformer": [
        {"action_tanh": False, "n_inner": 40, "activation_function": "gelu"},
        {"layer_norm_epsilon": 1e-2, "state_dim": 5, "act_dim": 2, "max_ep_len": 50, "n_positions": 128},
        {"n_head": 4, "scale_attn_by_inverse_layer_idx": True},
    ],
    "rnnsearch": [{"m": 20, "n": 12}, {"n_align": 10, "l": 8, "V": 70}],
}  # fmt: skip


@pytest.mark.parametrize("family", CHANGES)
def test_every_field_is_obeyed(family, tmp_path):
    """The reference's outputs under other settings, at every layer; and the config comes out as it went in."""
    for number, change in enumerate(CHANGES[family]):
        directory = sketch(family, tmp_path / str(number), change)
        found = check_weights(directory)
        assert len(found) > 2 and all(comparison.holds for comparison in found), (change, found)
        af.to_pretrained(af.from_pretrained(directory), tmp_path / "again")
        assert config_of(tmp_path / "again") == config_of(directory), change


PUBLISHED: dict[str, dict[str, Any]] = {
    "bert-base": {
        "architectures": ["BertForMaskedLM"], "attention_probs_dropout_prob": 0.1, "gradient_checkpointing": False,
        "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 768, "initializer_range": 0.02,
        "intermediate_size": 3072, "layer_norm_eps": 1e-12, "max_position_embeddings": 512, "model_type": "bert",
        "num_attention_heads": 12, "num_hidden_layers": 12, "pad_token_id": 0, "position_embedding_type": "absolute",
        "type_vocab_size": 2, "vocab_size": 30522,
    },
    "roberta-base": {
        "architectures": ["RobertaForMaskedLM"], "bos_token_id": 0, "eos_token_id": 2, "hidden_act": "gelu",
        "hidden_size": 768, "intermediate_size": 3072, "layer_norm_eps": 1e-5, "max_position_embeddings": 514,
        "model_type": "roberta", "num_attention_heads": 12, "num_hidden_layers": 12, "pad_token_id": 1,
        "type_vocab_size": 1, "vocab_size": 50265,
    },
    "gpt2-medium": {
        "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "bos_token_id": 50256,
        "eos_token_id": 50256, "layer_norm_epsilon": 1e-5, "model_type": "gpt2", "n_ctx": 1024, "n_embd": 1024,
        "n_head": 16, "n_layer": 24, "n_positions": 1024, "n_special": 0, "vocab_size": 50257,
    },
    "t5-v1.1-base": {
        "architectures": ["T5ForConditionalGeneration"], "d_ff": 2048, "d_kv": 64, "d_model": 768,
        "decoder_start_token_id": 0, "dropout_rate": 0.1, "eos_token_id": 1, "feed_forward_proj": "gated-gelu",
        "is_encoder_decoder": True, "layer_norm_epsilon": 1e-6, "model_type": "t5", "num_decoder_layers": 12,
        "num_heads": 12, "num_layers": 12, "relative_attention_num_buckets": 32, "tie_word_embeddings": False,
        "vocab_size": 32128,
    },
    "llama2-70b": {
        "architectures": ["LlamaForCausalLM"], "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 8192,
        "intermediate_size": 28672, "max_position_embeddings": 4096, "model_type": "llama", "num_attention_heads": 64,
        "num_hidden_layers": 80, "num_key_value_heads": 8, "pretraining_tp": 1, "rms_norm_eps": 1e-5,
        "rope_scaling": None, "tie_word_embeddings": False, "torch_dtype": "float16", "vocab_size": 32000,
    },
}  # fmt: skip
"""Our name → what config.json says beside the published weights."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_describes_the_published_architecture(name):
    config = PUBLISHED[name]
    read, known = architecture_of(table_for(config), config), preset(name)
    assert [str(d) for d in differences(known, replace(read, context=known.context)) if d.group != "training"] == []


# What a config leaves unsaid


def class_of(config: dict[str, Any]) -> Any:
    return transformers.models.auto.configuration_auto.CONFIG_MAPPING[config["model_type"]]


def whole(config: dict[str, Any]) -> dict[str, Any]:
    """With everything that the family's own class adds."""
    said = json.loads(class_of(config).from_dict(config).to_json_string(use_diff=False))
    return {**said, "model_type": config["model_type"]}


def reading(config: dict[str, Any]) -> dict[str, Any] | str:
    """How we read a config, with what follows from other settings said; or why not."""
    try:
        architecture = architecture_of(table_for(config), config)
    except AnyformerError as error:
        return str(error)
    stacks = [stack for stack in (architecture.backbone, architecture.encoder) if isinstance(stack, BackboneConfig)]
    data = architecture.as_json()
    data["streams"].get("text", {}).pop("end", None)
    return {
        **data, "backbone": {}, "encoder": {},
        "stacks": [{
            **stack.as_json(), "hidden": stack.hidden_width, "kv_heads": stack.key_heads, "head_dim": stack.head_width,
            "final_norm_eps": stack.final_norm_eps or stack.norm_eps,
        } for stack in stacks],
    }  # fmt: skip


OTHERS = ("mt5", "xlm-roberta", "camembert")
"""Families that share the layout of another."""


@pytest.mark.parametrize("name", [*references.FAMILIES, *OTHERS])
def test_a_key_that_is_left_out_means_what_its_class_says(name):
    """As in older and in hand-written files: every key of a config in turn, and all at once."""
    if name in OTHERS:
        config = whole({"model_type": name})
    else:
        reference = references.live(name)
        if reference.config is not None:
            pytest.skip("its class has no config.json")
        config = json.loads(reference.model.config.to_json_string(use_diff=False))
    rests = [{key: value for key, value in config.items() if key != left_out} for left_out in config]
    compared = 0
    for rest in (*rests, {}):
        rest["model_type"] = config["model_type"]
        try:
            expected = whole(rest)
        except StrictDataclassError:  # what is left contradicts itself
            continue
        if expected.get("vocab_size", 0) is not None:  # speech models may have no vocabulary, but then no head either
            assert reading(rest) == reading(expected), config.keys() - rest.keys()
            compared += 1
    assert compared > len(config) // 2


def test_transformers_4_wrote_llamas_rotations_otherwise(tmp_path):
    """rope_theta beside rope_scaling, whose type was called so; torch_dtype; and no architectures."""
    sketch("llama_mqa", tmp_path)

    def older(config: dict[str, Any]) -> dict[str, Any]:
        rope = config.pop("rope_parameters")
        scaling = {"type": rope.pop("rope_type"), **{key: value for key, value in rope.items() if key != "rope_theta"}}
        del config["architectures"], config["dtype"]
        return {**config, "rope_theta": rope["rope_theta"], "rope_scaling": scaling, "torch_dtype": "float32"}

    altered(tmp_path, config=older)
    assert all(comparison.holds for comparison in check_weights(tmp_path))
    af.to_pretrained(af.from_pretrained(tmp_path), tmp_path / "again")
    assert config_of(tmp_path / "again") == config_of(tmp_path)


def test_t5_scales_its_output_as_the_config_was_saved(tmp_path):
    """transformers 5 says tied and not scaled of a 1.1 that is neither; 4 says nothing of scaling, and not tied."""
    sketch("t5_v1_1", tmp_path)
    config = config_of(tmp_path)
    assert config["tie_word_embeddings"] and not config["scale_decoder_outputs"]
    without = {key: value for key, value in config.items() if key != "scale_decoder_outputs"}
    for said in (config, {**without, "tie_word_embeddings": False}):
        write_config(said, tmp_path)
        model = af.from_pretrained(tmp_path)
        assert not model.architecture.heads["text"].tie and not model.architecture.heads["text"].scaled
        assert all(comparison.holds for comparison in check_weights(tmp_path))
    write_config(without, tmp_path)  # tied and scaled, which is 1.0: but the file's own table counts
    assert af.from_pretrained(tmp_path).architecture.heads["text"].scaled
    sketch("t5_v1_0", tmp_path)
    write_config(
        {key: v for key, v in config_of(tmp_path).items() if "scale" not in key and "tie" not in key}, tmp_path
    )
    assert all(comparison.holds for comparison in check_weights(tmp_path))


@pytest.mark.parametrize(
    ("family", "change", "sentence"),
    [
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key'.*absolute"),
        ("bert", {"is_decoder": True}, "is_decoder=True are not built here; expected False"),
        ("bert", {"hidden_act": "mish"}, "hidden_act='mish' is not built here; expected one of"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention=True"),
        ("qwen2", {"use_sliding_window": True}, "use_sliding_window=True"),
        ("marian", {"share_encoder_decoder_embeddings": False}, "share_encoder_decoder_embeddings=False"),
        ("llama_gqa", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "'yarn' is not built"),
        ("llama_gqa", {"rope_parameters": {"rope_type": "linear", "partial_rotary_factor": 0.5}}, "part of each"),
        ("bloom", {"apply_residual_connection_post_layernorm": True}, "post_layernorm=True"),
        ("t5_v1_0", {"feed_forward_proj": "swiglu"}, "feed_forward_proj='swiglu'"),
        ("vit_hf", {"patch_size": [8, 4]}, "8 x 4 are not built; expected square"),
        ("shaw_w2v2bert_relkey", {"layer_norm_eps": 1e-3}, "layer_norm_eps=0.001"),
        ("shaw_w2v2bert_relkey", {"position_embeddings_type": "absolute"}, "position_embeddings_type='absolute'"),
        ("conformer_w2v2_none", {"feat_extract_norm": "group"}, "feat_extract_norm='group'"),
        ("vit_timm", {"global_pool": "avg"}, "global_pool='avg'"),
        ("vaswani_torch", {"bias": False}, "bias=False"),
        ("gpt2", {"n_embd": "wide"}, "gpt2|dim"),
        ("gpt2", {"n_layer": None}, "no model can be made of its config"),
        ("gpt2", {"n_embd": -4}, "no model can be made|dim"),
        ("llama_gqa", {"rope_parameters": 3}, "A value in the config of the llama model"),
        ("vit_hf", {"image_size": "large"}, "A value in the config of the vit model"),
    ],
)  # fmt: skip
def test_what_is_not_built_is_refused_by_name(family, change, sentence, tmp_path):
    """Rather than computed otherwise."""
    directory = sketch(family, tmp_path)
    write_config({**config_of(directory), **change}, directory)
    with pytest.raises(AnyformerError, match=sentence) as caught:
        af.from_pretrained(directory)
    assert str(caught.value).count("\n") == 0


# The tables themselves


def test_every_family_that_an_architecture_names_has_a_table():
    assert all(table_named(preset(name).family) for name in names() if preset(name).family)
    assert all(table.like is None or preset(table.like) for table in tables())
    assert all(table.family is None or table_named(table.family) for table in tables())


def described(table: Table) -> Architecture:
    """Everything that a table may describe."""
    sizes = dict.fromkeys(table.sizes, 64)
    return architecture_of(table, {**sizes, "architecture": "vit_tiny_patch16_224", "feat_extract_norm": "layer"})


def exists(path: str, table: Table) -> bool:
    """A setting of an Architecture, at a place that the family's has."""
    place, *rest = split(path)
    data = described(table).as_json()
    known = {"backbone": BackboneConfig, "encoder": BackboneConfig, "streams": StreamConfig, "heads": HeadConfig}
    if not rest:
        return place in data
    if place in ("streams", "heads"):
        name, *rest = rest
        if name not in data[place]:
            return False
    stack = RecurrentConfig if "type" in (data[place] or {}) else known[place]
    kinds = {"positions": POSITIONS, "embedder": EMBEDDERS}
    settings = {name for kind in kinds.get(rest[0], {}).values() for name in kind.settings}
    return rest[0] in {f.name for f in fields(stack)} and set(rest[1:]) <= settings


@pytest.mark.parametrize("table", tables(), ids=lambda table: table.name)
def test_a_table_names_only_what_exists(table):
    assert [path for path in table.config if not exists(path, table)] == []
    for expression in table.config.values():
        if isinstance(expression, dict):
            assert expression.keys() & {"from", "by", "constant"}, expression
            assert expression.get("by") is None or expression["by"] in CONVERSIONS
            assert not isinstance(expression.get("values"), str) or expression["values"] in VALUES
    heads = described(table).heads
    assert all(set(having) <= set(heads) for having in table.architectures.values())
    assert table.check["inputs"] in READERS
    assert all(term["kind"] in LOSSES and term["head"] in heads for term in table.check.get("loss", ()))
    for pattern in (*table.unused, *table.aliases):
        re.compile(pattern)


def test_every_line_of_a_table_is_used(tmp_path_factory):
    """By some reference, as it is or changed; an entry that fits nothing is a misspelt one."""
    changed = [(family, change) for family, changes in CHANGES.items() for change in changes]
    used: dict[str, set[str]] = {}
    for family, change in [*((family, {}) for family in references.FAMILIES), *changed]:
        reference = references.live(family, change=change)
        config = reference.config or json.loads(reference.model.config.to_json_string(use_diff=False))
        table = table_for(config)
        architecture = architecture_of(table, config)
        untied = {name: replace(head, tie=False) for name, head in architecture.heads.items()}
        model = Model.of(replace(architecture, heads=untied))
        found = {ours for ours, _ in own_tensors(model, table)}
        lines = zip(table.entries, table.tensors, strict=True)
        used.setdefault(table.name, set()).update(
            line for (pattern, _), line in lines if any(pattern.fullmatch(name) for name in found)
        )
    idle = {name: set(table_named(name).tensors) - lines for name, lines in used.items()}
    assert {name: lines for name, lines in idle.items() if lines} == {}
