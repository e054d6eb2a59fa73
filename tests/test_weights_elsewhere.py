"""Weights from elsewhere: families that share a layout, timm's directories on the hub, Meta's own files."""

from __future__ import annotations

import pytest
import references
import torch
from published import agree, altered, config_of, differing, holds, revived, sketch, tensors_of, write_config

import anyformer as af
from anyformer.errors import WeightsError

transformers = pytest.importorskip("transformers", reason="the other reader; pip install 'anyformer[hf]'")
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


@pytest.mark.parametrize(
    ("family", "name", "kind"),
    [
        ("roberta", "xlm-roberta", "XLMRobertaForMaskedLM"),
        ("roberta", "camembert", "CamembertForMaskedLM"),
        ("t5_v1_1", "mt5", "MT5ForConditionalGeneration"),
    ],
)
def test_a_family_may_share_the_layout_of_another(family, name, kind, tmp_path):
    """And keeps its own name, also when its origin is forgotten."""
    renamed = lambda config: {**config, "model_type": name, "architectures": [kind]}  # noqa: E731
    altered(sketch(family, tmp_path), config=renamed)
    holds(tmp_path)
    model = af.from_pretrained(tmp_path)
    model.origin = None
    af.to_pretrained(model, tmp_path / "again")
    assert {"model_type": name, "architectures": [kind]}.items() <= config_of(tmp_path / "again").items()
    reference = references.live(family)
    reference.model = revived(tmp_path / "again")
    agree(model, tmp_path, reference.inputs, reference.outputs())


TIMM = {
    "vit_tiny_patch16_224": {"depth": 2, "img_size": 32},
    "vit_small_patch32_224": {"depth": 1, "img_size": 64, "num_classes": 7},
    "vit_tiny_patch16_384": {"depth": 1, "img_size": 48, "num_classes": 0},
    "deit_tiny_patch16_224": {"depth": 1, "img_size": 32, "num_heads": 6},
}


@pytest.mark.parametrize("name", TIMM)
def test_timm_s_directories_tell_sizes_by_their_tensors(name, tmp_path):
    """config.json names a function of timm's and its changed arguments, as timm writes them for the hub."""
    import timm
    from timm.models._hub import save_for_hf

    torch.manual_seed(0)
    theirs = timm.create_model(name, **TIMM[name]).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    save_for_hf(theirs, tmp_path, model_args=TIMM[name], safe_serialization=True)
    config = config_of(tmp_path)
    assert config["architecture"] == name and "embed_dim" not in config
    pixels = torch.randn(2, 3, *theirs.patch_embed.img_size)
    model = af.from_pretrained(tmp_path)
    with torch.no_grad():
        said = (
            {"logits": theirs(pixels)} if theirs.num_classes else {"last_hidden_state": theirs.forward_features(pixels)}
        )
    agree(model, tmp_path, {"pixel_values": pixels}, said)
    af.to_pretrained(model, tmp_path / "again")
    assert config_of(tmp_path / "again") == config
    assert differing(tensors_of(tmp_path / "again"), tensors_of(tmp_path)) == set()
    model.origin = None
    af.to_pretrained(model, tmp_path / "anew")  # as timm's class, all of whose arguments are said
    assert differing(revived(tmp_path / "anew").state_dict(), theirs.state_dict()) == set()
    with pytest.raises(WeightsError, match="give family='vit_timm'"):
        af.to_pretrained(model, tmp_path / "anew", family="vit_timm_hub")


def test_other_models_of_timm_are_refused(tmp_path):
    sketch("vit_timm", tmp_path)
    write_config({"architecture": "resnet50", "num_classes": 10, "pretrained_cfg": {}}, tmp_path)
    with pytest.raises(WeightsError, match="timm's 'resnet50' is not built here"):
        af.from_pretrained(tmp_path)


def test_llama_as_meta_publishes_it(tmp_path):
    """consolidated.00.pth and params.json: rows of q and k stand so that neighbours are turned together, and the
    vocabulary's size is not said."""
    reference = references.live("llama_gqa", change={"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}})
    theirs = reference.model.state_dict()
    names = {
        "embed_tokens": "tok_embeddings", "self_attn.q_proj": "attention.wq", "self_attn.k_proj": "attention.wk",
        "self_attn.v_proj": "attention.wv", "self_attn.o_proj": "attention.wo", "mlp.gate_proj": "feed_forward.w1",
        "mlp.down_proj": "feed_forward.w2", "mlp.up_proj": "feed_forward.w3", "lm_head": "output",
        "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm", "model.": "",
    }  # fmt: skip
    tensors = {"rope.freqs": torch.ones(6)}
    for name, value in theirs.items():
        for old, new in names.items():
            name = name.replace(old, new)
        if name.endswith(("wq.weight", "wk.weight")):
            value = value.unflatten(0, (-1, 2, 6)).transpose(1, 2).flatten(0, 2)
        tensors[name] = value
    torch.save(tensors, tmp_path / "consolidated.00.pth")
    params = {"dim": 48, "n_layers": 3, "n_heads": 4, "n_kv_heads": 2, "norm_eps": 1e-5, "rope_theta": 500.0}
    params |= {"vocab_size": -1, "multiple_of": 256}
    model = af.from_pretrained(tmp_path / "consolidated.00.pth", config=params)
    write_config(params, tmp_path)
    agree(model, tmp_path, reference.inputs, {"logits": reference.outputs()["logits"]})
    for origin in (model.origin, None):
        model.origin = origin
        af.to_pretrained(model, tmp_path / "again")
        again = af.from_pretrained(tmp_path / "again")
        assert differing(again.state_dict(), model.state_dict()) == set()
        assert again.architecture == model.architecture
    with pytest.raises(WeightsError, match=r"llama files cannot say this architecture.*neighbours"):
        af.to_pretrained(model, tmp_path / "llama", family="llama")
