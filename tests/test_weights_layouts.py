"""One model in every layout in which its weights are found: shards and pickles, other releases' names, tensors that
repeat others or that nothing reads, models without heads, narrow numbers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import references
import torch
from published import (
    agree,
    altered,
    config_of,
    differing,
    holds,
    revived,
    said_by,
    sketch,
    tensors_of,
    write_tensors,
)
from torch import Tensor

import anyformer as af
from anyformer.errors import WeightsError
from anyformer.weights.table import table_for

transformers = pytest.importorskip("transformers", reason="the other reader; pip install 'anyformer[hf]'")
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


# Files


def pickled(directory: Path, tensors: Any, **how: Any) -> None:
    """pytorch_model.bin in the place of model.safetensors."""
    torch.save(tensors, directory / "pytorch_model.bin", **how)
    (directory / "model.safetensors").unlink()


def in_shards(directory: Path, ending: str) -> None:
    """The tensors dealt out to three files, beside an index."""
    tensors, stem = tensors_of(directory), "model" if ending == "safetensors" else "pytorch_model"
    (directory / "model.safetensors").unlink()
    where = {name: f"{stem}-{i % 3 + 1:05}-of-00003.{ending}" for i, name in enumerate(sorted(tensors))}
    for shard in set(where.values()):
        part = {name: tensors[name] for name in where if where[name] == shard}
        if ending == "safetensors":
            write_tensors(part, directory / shard)
        else:
            torch.save(part, directory / shard)
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    (directory / f"{stem}.{ending}.index.json").write_text(json.dumps(index), encoding="utf-8")


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_shards_are_one_model(ending, tmp_path):
    in_shards(sketch("gpt2", tmp_path), ending)
    holds(tmp_path)


@pytest.mark.parametrize("how", [{}, {"_use_new_zipfile_serialization": False}])
@pytest.mark.parametrize("inside", [False, True])
def test_a_pickle_of_tensors_is_read(how, inside, tmp_path):
    """Of today's format or that of PyTorch before 1.6, alone or under `state_dict`."""
    tensors = tensors_of(sketch("bert", tmp_path))
    pickled(tmp_path, {"state_dict": tensors} if inside else tensors, **how)
    holds(tmp_path)


@pytest.mark.parametrize("family", ["gpt2", "vit_timm", "vit_torchvision", "conformer_torchaudio", "rnnsearch"])
def test_a_state_dict_needs_only_a_config(family, tmp_path):
    """As timm, torchvision and torchaudio save models: one file, and settings from elsewhere."""
    expected = af.from_pretrained(sketch(family, tmp_path)).state_dict()
    file = tmp_path / "alone" / "weights.pt"
    file.parent.mkdir()
    torch.save(references.live(family).model.state_dict(), file)
    config = config_of(tmp_path)
    assert differing(af.from_pretrained(file, config).state_dict(), expected) == set()
    write_tensors(tensors_of(tmp_path), file.with_suffix(".safetensors"))
    assert differing(af.from_pretrained(file.with_suffix(".safetensors"), config).state_dict(), expected) == set()


STATES = [name for name in references.FAMILIES if name not in ("mixtral", "rnnsearch")]
"""transformers keeps Mixtral's experts in one tensor and saves them one by one; here files are read."""


@pytest.mark.parametrize("family", STATES)
def test_a_module_s_own_names_are_known(family, tmp_path):
    """What `torch.save(model.state_dict(), ...)` writes: tied tensors twice, buffers, and names that save_pretrained
    would have translated (the vision transformer's)."""
    sketch(family, tmp_path)
    pickled(tmp_path, references.live(family).model.state_dict())
    holds(tmp_path)


# Tensors that repeat others

REPEATED: dict[str, dict[str, str]] = {
    "gpt1": {"lm_head.weight": "transformer.tokens_embed.weight"},
    "gpt2": {"lm_head.weight": "transformer.wte.weight"},
    "gpt3_neo": {"lm_head.weight": "transformer.wte.weight"},
    "llama_mqa": {"lm_head.weight": "model.embed_tokens.weight"},
    "bloom": {"lm_head.weight": "transformer.word_embeddings.weight"},
    "bert": {
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    "roberta": {
        "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    },
    "distilbert": {"vocab_projector.weight": "distilbert.embeddings.word_embeddings.weight"},
    "electra_generator": {"generator_lm_head.weight": "electra.embeddings.word_embeddings.weight"},
    "t5_v1_0": dict.fromkeys(
        ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"), "shared.weight"
    ),
    **dict.fromkeys(
        ("bart", "mbart", "marian"),
        dict.fromkeys(
            ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"),
            "model.shared.weight",
        ),
    ),
    "whisper": {"proj_out.weight": "model.decoder.embed_tokens.weight"},
}
"""Family → tensors that older files have beside those that they repeat."""


@pytest.mark.parametrize("family", REPEATED)
def test_a_tensor_may_stand_twice(family, tmp_path):
    """Published files of some years have it twice, those of others once; ours has it once."""
    sketch(family, tmp_path)
    once = tensors_of(tmp_path)
    assert not once.keys() & REPEATED[family].keys()
    altered(tmp_path, lambda x: x | {copied: x[original] for copied, original in REPEATED[family].items()})
    holds(tmp_path)
    af.to_pretrained(af.from_pretrained(tmp_path), tmp_path / "again")
    assert differing(tensors_of(tmp_path / "again"), once) == set()


def test_a_repetition_may_stand_alone(tmp_path):
    """A file that has the encoder's table and not the shared one."""
    name = "encoder.embed_tokens.weight"
    altered(sketch("t5_v1_0", tmp_path), lambda x: {name if n == "shared.weight" else n: v for n, v in x.items()})
    holds(tmp_path)


@pytest.mark.parametrize("family", ["bert", "t5_v1_0", "bart"])
def test_a_repetition_that_differs_is_an_error(family, tmp_path):
    """Two tensors for one place: no choice is right."""
    table = table_for(config_of(sketch(family, tmp_path)))
    copied, original = next(iter(table.copies.items()))
    altered(tmp_path, lambda x: x | {copied: x[original] + 1})
    with pytest.raises(WeightsError, match=rf"{re.escape(copied)} should repeat {re.escape(original)}, but differs"):
        af.from_pretrained(tmp_path)


OUTPUTS = {
    "gpt2": "lm_head.weight",
    "bert": "cls.predictions.decoder.weight",
    "t5_v1_0": "lm_head.weight",
    "llama_mqa": "lm_head.weight",
    "whisper": "proj_out.weight",
}


@pytest.mark.parametrize("family", OUTPUTS)
def test_an_output_table_that_differs_is_its_own(family, tmp_path):
    """Though the config says tied: as transformers reads such a file. It is written again as it was."""
    sketch(family, tmp_path)
    name = OUTPUTS[family]
    altered(tmp_path, lambda x: x | {name: x[REPEATED[family][name]].flip(0)})
    before, model, reference = tensors_of(tmp_path), af.from_pretrained(tmp_path), references.live(family)
    assert not model.architecture.heads["text"].tie
    reference.model = revived(tmp_path)
    agree(model, tmp_path, reference.inputs, reference.outputs())
    af.to_pretrained(model, tmp_path / "again")
    assert differing(tensors_of(tmp_path / "again"), before) == set()
    assert config_of(tmp_path / "again") == config_of(tmp_path)


# Names of other releases


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra_generator"])
def test_norms_were_called_gamma_and_beta(family, tmp_path):
    """In files converted from TensorFlow."""

    def older(name: str) -> str:
        return re.sub(r"(orm)\.weight$", r"\1.gamma", re.sub(r"(orm)\.bias$", r"\1.beta", name))

    sketch(family, tmp_path)
    assert any(older(name) != name for name in tensors_of(tmp_path))
    altered(tmp_path, lambda x: {older(name): value for name, value in x.items()})
    holds(tmp_path)


BUFFERS: dict[str, dict[str, Tensor]] = {
    "gpt1": {"h.0.attn.bias": torch.ones(1, 1, 40, 40).tril()},
    "gpt2": {
        "h.0.attn.bias": torch.ones(1, 1, 40, 40, dtype=torch.uint8).tril(),
        "h.0.attn.masked_bias": torch.tensor(-1e4),
        "h.2.attn.bias": torch.ones(1, 1, 40, 40, dtype=torch.bool).tril(),
    },
    "gpt3_neo": {
        "transformer.h.1.attn.attention.bias": torch.ones(1, 1, 40, 40),
        "transformer.h.1.attn.attention.masked_bias": torch.tensor(-1e9),
    },
    "decision_transformer": {
        "encoder.h.0.attn.bias": torch.ones(1, 1, 64, 64), "encoder.h.0.attn.masked_bias": torch.tensor(-1e4),
    },
    "bert": {"bert.embeddings.position_ids": torch.arange(40)[None]},
    "roberta": {
        "roberta.embeddings.position_ids": torch.arange(40)[None], "roberta.pooler.dense.weight": torch.ones(48, 48),
    },
    "distilbert": {"distilbert.embeddings.position_ids": torch.arange(40)[None]},
    "electra_generator": {"electra.embeddings.position_ids": torch.arange(40)[None]},
    "llama_gqa": {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(6)},
    "t5_v1_0": {"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": torch.ones(8, 4)},
    "vit_hf": {"vit.embeddings.mask_token": torch.ones(1, 1, 48), "vit.pooler.dense.bias": torch.ones(48)},
    "conformer_w2v2_relative": {"wav2vec2_conformer.masked_spec_embed": torch.ones(48)},
}  # fmt: skip
"""Tensors of older files that no forward reads."""


@pytest.mark.parametrize("family", BUFFERS)
def test_what_no_forward_reads_is_put_aside_and_written_back(family, tmp_path):
    """Masks, indices and heads of other tasks, under old names without a prefix too."""
    altered(sketch(family, tmp_path), lambda x: x | BUFFERS[family])
    holds(tmp_path)
    table, before = table_for(config_of(tmp_path)), tensors_of(tmp_path)
    af.to_pretrained(af.from_pretrained(tmp_path), tmp_path / "again")
    current = {table.current_name(name): value for name, value in before.items()}
    assert differing(tensors_of(tmp_path / "again"), current) == set()


def test_sinusoids_may_be_stored_or_not(tmp_path):
    """Marian's older files hold what its class computes; it is written back where it was."""
    own = references.live("marian").model.model
    stored = {
        f"model.{side}.embed_positions.weight": getattr(own, side).embed_positions.weight
        for side in ("encoder", "decoder")
    }
    without = tensors_of(sketch("marian", tmp_path))
    assert not without.keys() & stored.keys()
    altered(tmp_path, lambda x: x | stored)
    holds(tmp_path)
    model = af.from_pretrained(tmp_path)
    af.to_pretrained(model, tmp_path / "again")
    assert differing(tensors_of(tmp_path / "again"), without | stored) == set()
    model.origin = None
    af.to_pretrained(model, tmp_path / "anew")
    assert differing(tensors_of(tmp_path / "anew"), without) == set()


@pytest.mark.parametrize("family", ["bart", "marian"])
def test_a_bias_of_the_output_may_be_left_out(family, tmp_path):
    """It is zero where a file has none, as its class has it."""
    altered(sketch(family, tmp_path), lambda x: {name: v for name, v in x.items() if name != "final_logits_bias"})
    model, reference = af.from_pretrained(tmp_path), references.live(family)
    reference.model.final_logits_bias.zero_()
    agree(model, tmp_path, reference.inputs, reference.outputs())


# Models without heads, and with those of others

HEADLESS = [
    family for family in references.FAMILIES
    if family not in ("decision_transformer", "rnnsearch", "gpt2_variants", "electra_discriminator", "t5_v1_1")
    and not family.startswith(("vaswani", "vit_t", "conformer_torch"))
]  # fmt: skip


@pytest.mark.parametrize("family", HEADLESS)
def test_a_model_without_heads_has_names_without_a_prefix(family, tmp_path):
    """As its own class saves it: BertModel with its pooler, GPT2Model, T5Model. It comes back whole."""
    reference = references.live(family)
    inner = reference.model.base_model  # T5 has no prefix, and is its own
    kind = transformers.T5Model if inner is reference.model else type(inner)
    base = kind(reference.model.config).eval()
    base.load_state_dict(inner.state_dict(), strict=False)
    base.save_pretrained(tmp_path)
    inputs = {name: value for name, value in reference.inputs.items() if "label" not in name}
    if "labels" in reference.inputs and base.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = reference.inputs["labels"].clamp(min=5)
    outputs = {name: value for name, value in said_by(base, inputs).items() if "hidden" in name}
    model = af.from_pretrained(tmp_path)
    agree(model, tmp_path, inputs, outputs)
    af.to_pretrained(model, tmp_path / "again")
    found = said_by(revived(tmp_path / "again"), inputs)
    for name, value in outputs.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-5)


def test_a_config_may_name_a_class_with_fewer_heads(tmp_path):
    """A file of BertForPreTraining under the name of BertForMaskedLM has both heads all the same."""
    altered(sketch("bert", tmp_path), config=lambda config: {**config, "architectures": ["BertForMaskedLM"]})
    assert set(af.from_pretrained(tmp_path).architecture.heads) == {"text", "next_sentence"}
    holds(tmp_path)


def test_a_head_that_a_config_names_must_be_there(tmp_path):
    """The file of BertForMaskedLM is not that of BertForPreTraining; by its own name, or none, it is read."""
    sketch("bert", tmp_path)
    altered(tmp_path, lambda x: {name: v for name, v in x.items() if "pooler" not in name and "seq_rel" not in name})
    with pytest.raises(WeightsError, match=r"missing: cls\.seq_relationship\.weight, .*, bert\.pooler\.dense\.bias\.$"):
        af.from_pretrained(tmp_path)
    for said in (["BertForMaskedLM"], None):
        altered(tmp_path, config=lambda config, said=said: {**config, "architectures": said})
        assert set(af.from_pretrained(tmp_path).architecture.heads) == {"text"}


# Precision


@pytest.mark.parametrize("narrow", [torch.float16, torch.bfloat16])
def test_narrow_numbers_are_held_exactly_in_float32(narrow, tmp_path):
    """And written as such, under a config that says so."""
    sketch("llama_gqa", tmp_path)
    mixed = lambda x: {n: v if "norm" in n else v.to(narrow) for n, v in x.items()}  # noqa: E731
    name = str(narrow).removeprefix("torch.")
    altered(tmp_path, mixed, lambda config: {**config, "dtype": name})
    model = af.from_pretrained(tmp_path)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    af.to_pretrained(model, tmp_path / "again")
    expected = {n: v.float() for n, v in tensors_of(tmp_path).items()}
    assert differing(tensors_of(tmp_path / "again"), expected) == set()
    assert config_of(tmp_path / "again") == {**config_of(tmp_path), "dtype": "float32"}
    af.to_pretrained(model.to(narrow), tmp_path / "narrow")
    assert differing(tensors_of(tmp_path / "narrow"), {n: v.to(narrow) for n, v in expected.items()}) == set()
    assert config_of(tmp_path / "narrow")["dtype"] == name
