"""Conformers by torchaudio and by transformers, with every kind of position they know."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from references.decoders import VOCABULARY
from references.reference import Reference, Tensors, hugging_face, numbered, watched
from references.setting import Setting, padding
from references.sharp import QUIET

WRITERS = r"output_dense|linear_out|pointwise_conv2|depthwise_conv"
"""What adds to a stream, and what is normalised inside the convolution."""


def _quiet(writers: str, depth: int, last: bool = True) -> dict[str, float]:
    """Sharp factors: pre-norm inside a block, whose last norm goes on to the next; the `last` of all keeps its size."""
    factors = {rf"{writers}|running|final_layer_norm": QUIET}
    return factors | ({rf"layers\.{depth - 1}\.final_layer_norm": 1 / QUIET} if last else {})


def _torchaudio(setting: Setting, **more: Any) -> Reference:
    from torchaudio.models import Conformer

    config = setting.fields(
        input_dim=48, num_heads=4, ffn_dim=96, num_layers=3, depthwise_conv_kernel_size=7, dropout=0.1, **more
    )
    lengths = setting.sized((19, 13, 8), (200, 160, 131))
    heard = padding(lengths)
    features = setting.normal("features", *heard.shape, config["input_dim"]) * setting.loudness
    call = watched(_hear, lambda model: numbered("hidden_states_TBD", model.conformer_layers))
    return Reference(
        Conformer(**config), {"input": features, "lengths": torch.tensor(lengths)}, call, compare=heard,
        config={"cls": "torchaudio.models.Conformer", **config},
        sharp=_quiet(r"ffn\d\.sequential\.4|out_proj|conv_module\.sequential\.[25]", config["num_layers"]),
        notes=("hidden states are [time, batch, dim]", "convolutions reach over the end of a clip into its padding"),
    )  # fmt: skip


def _hear(model: nn.Module, inputs: Tensors) -> Tensors:
    hidden, lengths = model(inputs["input"], inputs["lengths"])
    return {"logits": hidden, "output_lengths": lengths}


def conformer_torchaudio(setting: Setting) -> Reference:
    """No positions at all, batch norm."""
    return _torchaudio(setting)


def conformer_torchaudio_gn_convfirst(setting: Setting) -> Reference:
    """Group norm over time and features, the convolution before attention."""
    return _torchaudio(setting, use_group_norm=True, convolution_first=True)


def _wav2vec2(setting: Setting, positions: str | None) -> Reference:
    import transformers

    fields = setting.fields(
        vocab_size=VOCABULARY, hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96,
        conv_dim=(32, 32), conv_stride=(5, 2), conv_kernel=(10, 3), num_feat_extract_layers=2, conv_bias=True,
        feat_extract_norm="layer", num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=4,
        position_embeddings_type=positions, conv_depthwise_kernel_size=7, rotary_embedding_base=100,
        max_source_positions=setting.sized(64, 256), mask_time_prob=0.0, layerdrop=0.0, ctc_loss_reduction="mean",
        ctc_zero_infinity=False, pad_token_id=0, bos_token_id=1, eos_token_id=2, attn_implementation="eager",
    )  # fmt: skip
    model = transformers.Wav2Vec2ConformerForCTC(transformers.Wav2Vec2ConformerConfig(**fields))
    heard = padding(setting.sized((203, 150), (2003, 1500)))
    labels = setting.integers("labels", 3, VOCABULARY, 2, 5)
    labels[1, 3:] = -100
    wave = setting.normal("wave", *heard.shape) * heard * setting.loudness
    inputs = {"input_values": wave, "attention_mask": heard, "labels": labels}
    front = r"conv_layers\.\d\.layer_norm|conv_layers\.0\.conv|conv\.bias|feature_projection\.projection"
    return Reference(
        model, inputs, _with_encoder_input, keep=("inv_freq",),
        sharp=_quiet(f"{front}|{WRITERS}", model.config.num_hidden_layers, last=False),
        notes=("outputs count where encoder_mask is 1", "pos_conv_embed is in the checkpoint and never used"),
    )  # fmt: skip


def _with_encoder_input(model: Any, inputs: Tensors) -> Tensors:
    """What enters the conformer blocks is an output as well: parity can begin there."""
    seen: Tensors = {}

    def collect(module: nn.Module, arguments: tuple, named: dict[str, Any]) -> None:
        hidden = arguments[0] if arguments else named["hidden_states"]
        seen.update(encoder_input=hidden.detach().clone(), encoder_mask=named["attention_mask"].long())

    handle = model.wav2vec2_conformer.encoder.register_forward_pre_hook(collect, with_kwargs=True)
    try:
        return hugging_face(model, inputs) | seen
    finally:
        handle.remove()


def conformer_w2v2_relative(setting: Setting) -> Reference:
    """Transformer-XL's relative positions."""
    return _wav2vec2(setting, "relative")


def conformer_w2v2_rotary(setting: Setting) -> Reference:
    """Rotations before the projections of queries and keys."""
    return _wav2vec2(setting, "rotary")


def conformer_w2v2_none(setting: Setting) -> Reference:
    """No positions in attention."""
    return _wav2vec2(setting, None)


def shaw_w2v2bert_relkey(setting: Setting) -> Reference:
    """Shaw et al. 2018, keys only: a learned vector for each distance, clipped on both sides."""
    import transformers

    fields = setting.fields(
        vocab_size=VOCABULARY, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96,
        feature_projection_input_dim=20, position_embeddings_type="relative_key",
        left_max_position_embeddings=setting.sized(6, 64), right_max_position_embeddings=setting.sized(3, 8),
        conv_depthwise_kernel_size=5, mask_time_prob=0.0, layerdrop=0.0, apply_spec_augment=False, pad_token_id=0,
        attn_implementation="eager",
    )  # fmt: skip
    model = transformers.Wav2Vec2BertForCTC(transformers.Wav2Vec2BertConfig(**fields))
    heard = padding(setting.sized((17, 12), (200, 140)))
    features = setting.normal("features", *heard.shape, fields["feature_projection_input_dim"]) * setting.loudness
    inputs = {"input_features": features, "attention_mask": heard}
    sharp = _quiet(rf"feature_projection\.projection|{WRITERS}", model.config.num_hidden_layers)
    return Reference(model, inputs, compare=heard, sharp=sharp)


FAMILIES = {
    family.__name__: family
    for family in (
        *(conformer_torchaudio, conformer_torchaudio_gn_convfirst, shaw_w2v2bert_relkey),
        *(conformer_w2v2_relative, conformer_w2v2_rotary, conformer_w2v2_none),
    )
}
