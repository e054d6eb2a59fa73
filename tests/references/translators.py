"""Encoder-decoder models: T5, BART and mBART, the Transformer of 2017 by Marian and by PyTorch, Whisper."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from references.decoders import POST_NORM, VOCABULARY
from references.reference import Prompt, Reference, Tensors, numbered, watched
from references.setting import Setting, padding
from references.sharp import FAINT, QUIET, VECTORS, post_norm, pre_norm

SHIFTED = "decoder inputs are the labels, -100 as pad, shifted right behind the start id; they have no mask"
VALID = "encoder outputs count where attention_mask is 1"


def sizes(setting: Setting, **more: Any) -> dict[str, Any]:
    """Fields that BART's kind shares; the two stacks differ in depth and width."""
    small = {"vocab_size": VOCABULARY, "d_model": 48, "encoder_layers": 2, "decoder_layers": 3}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 96, "decoder_ffn_dim": 80}
    return setting.fields(**small | heads | {"attn_implementation": "eager"} | more)


def translator(model: Any, setting: Setting, pad: int = 0, start: int = 0, **more: Any) -> Reference:
    """Ragged sources and targets; the first two sources are also translated."""
    high = min(model.config.vocab_size, VOCABULARY - 1)  # Marian's last id is its pad
    ids, mask = setting.ragged("source", setting.sized((15, 9, 12), (200, 140, 170)), high, pad)
    target, spoken = setting.ragged("target", setting.sized((11, 13, 7), (150, 190, 131)), high, pad)
    inputs = {"input_ids": ids, "attention_mask": mask, "labels": target.masked_fill(spoken == 0, -100)}
    new = setting.sized(12, 4)
    prompt = Prompt({"input_ids": ids[:2], "attention_mask": mask[:2]}, pad=pad, start=start, new=new)
    return Reference(model, inputs, compare=spoken, prompt=prompt, notes=(SHIFTED, VALID), **more)


def shifted(labels: Tensor, start: int, pad: int) -> Tensor:
    """What a decoder reads: the start id, then the labels but the last."""
    first = torch.full_like(labels[:, :1], start)
    return torch.cat([first, labels[:, :-1].masked_fill(labels[:, :-1] == -100, pad)], 1)


def _t5(setting: Setting, **more: Any) -> Any:
    import transformers

    few = {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 12}
    published = {"relative_attention_num_buckets": 32, "relative_attention_max_distance": 128}
    fields = setting.fields(
        vocab_size=VOCABULARY, d_model=48, d_kv=16, d_ff=96, num_layers=3, num_decoder_layers=2, num_heads=4,
        decoder_start_token_id=0, attn_implementation="eager", **setting.sized(few, published), **more,
    )  # fmt: skip
    return transformers.T5ForConditionalGeneration(transformers.T5Config(**fields))


UNSCALED = {r"Attention\.q\.": 0.25, "relative_attention_bias": 3.0}
"""T5 does not divide scores by √d: smaller queries keep them where softmax is not one-hot, and positions count."""


WRITERS = r"shared|\.o\.|\.wo\."
"""What adds to T5's stream."""


def t5_v1_0(setting: Setting) -> Reference:
    scale = UNSCALED | {"shared": 4.0}  # the tied logits are divided by √d
    sharp = pre_norm(WRITERS, r"decoder\.final_layer_norm")
    return translator(_t5(setting), setting, scale=scale, sharp=sharp, signed=(r"decoder\.final_layer_norm",))


def t5_v1_1(setting: Setting) -> Reference:
    """Gated, with an output table of its own."""
    fields = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
    model = _t5(setting, **fields)
    if not setting.fields(**fields)["tie_word_embeddings"]:  # transformers ties a new one whatever its config says
        model.lm_head.weight = nn.Parameter(torch.empty_like(model.shared.weight))
    return translator(model, setting, scale=UNSCALED, sharp=pre_norm(WRITERS))


def bart(setting: Setting) -> Reference:
    import transformers

    fields = sizes(setting, max_position_embeddings=setting.sized(40, 256), scale_embedding=False)
    model = transformers.BartForConditionalGeneration(transformers.BartConfig(**fields))
    sharp = {"shared|embed_positions": QUIET}
    last = _last_norm(model)
    sharp |= post_norm(last, first="layernorm_embedding", lift=1 / QUIET)
    return translator(model, setting, pad=1, start=2, scale=POST_NORM, sharp=sharp, signed=(rf"{last}\.weight",))


def mbart(setting: Setting) -> Reference:
    """BART's parts in pre-norm order, with a norm behind each stack, and scaled embeddings."""
    import transformers

    fields = sizes(setting, max_position_embeddings=setting.sized(40, 256), scale_embedding=True)
    model = transformers.MBartForConditionalGeneration(transformers.MBartConfig(**fields))
    writers = "shared|embed_positions|layernorm_embedding|out_proj|fc2"
    sharp = pre_norm(writers, r"decoder\.layer_norm")
    signed = (r"decoder\.layer_norm\.weight",)
    reference = translator(model, setting, pad=1, start=2, sharp=sharp, signed=signed)
    # Left to itself, mBART moves each label's last id, its language, to the front.
    reference.inputs["decoder_input_ids"] = shifted(reference.inputs["labels"], start=2, pad=1)
    return reference


def marian(setting: Setting) -> Reference:
    """Vaswani et al. 2017: post-norm, ReLU, √d times the embedding plus sinusoids."""
    import transformers

    ids = {"pad_token_id": 98, "decoder_start_token_id": 98, "eos_token_id": 0, "forced_eos_token_id": 0}
    room = {"max_position_embeddings": setting.sized(40, 256)}
    fields = sizes(setting, **ids, **room, activation_function="relu", scale_embedding=True)
    model = transformers.MarianMTModel(transformers.MarianConfig(**fields))
    last = _last_norm(model)
    return translator(
        model, setting, pad=98, start=98, keep=("embed_positions",), scale=POST_NORM, sharp=post_norm(last),
        signed=(rf"{last}\.weight",),
    )  # fmt: skip


def _last_norm(model: Any) -> str:
    """The norm that ends the decoder. The encoder's stays faint, or what crosses over would drown the decoder's."""
    return rf"decoder\.layers\.{model.config.decoder_layers - 1}\.final_layer_norm"


def whisper(setting: Setting) -> Reference:
    """Log-mel frames through two convolutions; keys without biases; a sinusoid table that is part of the checkpoint."""
    import transformers

    ids = {"pad_token_id": 3, "bos_token_id": 3, "eos_token_id": 3, "decoder_start_token_id": 4}
    room = {"max_source_positions": setting.sized(21, 150), "max_target_positions": setting.sized(40, 256)}
    silent = {"suppress_tokens": None, "begin_suppress_tokens": None}
    fields = sizes(setting, **ids, **room, **silent, num_mel_bins=20)
    model = transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**fields))
    config = model.config
    mels = setting.normal("mels", 2, config.num_mel_bins, 2 * config.max_source_positions)
    target, spoken = setting.ragged("target", setting.sized((11, 8), (150, 131)), config.vocab_size, pad=3)
    begun = {"input_features": mels, "decoder_input_ids": torch.tensor([[4, 7, 9]] * 2)}
    prompt = Prompt(begun, pad=3, start=4, new=setting.sized(12, 4))
    inputs = {"input_features": mels, "labels": target.masked_fill(spoken == 0, -100)}
    # Sinusoids are never small. As they are stored, the sharp regime may store something else.
    constant = () if setting.regime == "sharp" else (r"encoder\.embed_positions",)
    return Reference(
        model, inputs, compare=spoken, prompt=prompt, keep=constant, signed=(r"decoder\.layer_norm\.weight",),
        sharp=pre_norm(r"encoder\.conv2|embed|out_proj|fc2", r"decoder\.layer_norm"),
        notes=(SHIFTED, "generated by transformers' general search from [4, 7, 9], not by Whisper's own"),
    )  # fmt: skip


def vaswani_torch(setting: Setting) -> Reference:
    """torch.nn.Transformer between given vectors: unlike the paper, a norm follows each stack."""
    config = setting.fields(
        d_model=48, nhead=4, num_encoder_layers=2, num_decoder_layers=2, dim_feedforward=96, dropout=0.1,
        activation="relu", norm_first=False, batch_first=True,
    )  # fmt: skip
    heard = padding(setting.sized((11, 7), (200, 140)))
    spoken = padding(setting.sized((9, 6), (150, 131)))
    source = setting.normal("source", *heard.shape, config["d_model"]) * setting.loudness
    target = setting.normal("target", *spoken.shape, config["d_model"]) * setting.loudness
    inputs = {"src": source, "tgt": target, "src_pad": heard == 0, "tgt_pad": spoken == 0}
    return Reference(
        nn.Transformer(**config), inputs, watched(_translate, _layers), compare=spoken,
        config={"cls": "torch.nn.Transformer", **config}, sharp={VECTORS: FAINT, r"encoder\.norm": FAINT},
    )  # fmt: skip


def _translate(model: nn.Module, inputs: Tensors) -> Tensors:
    source, target = inputs["src_pad"], inputs["tgt_pad"]
    future = torch.ones(target.shape[1], target.shape[1], dtype=torch.bool).triu(1)
    hidden = model(
        inputs["src"], inputs["tgt"], tgt_mask=future, src_key_padding_mask=source, memory_key_padding_mask=source,
        tgt_key_padding_mask=target,
    )  # fmt: skip
    return {"logits": hidden}


def _layers(model: Any) -> dict[str, nn.Module]:
    encoder, decoder = model.encoder.layers, model.decoder.layers
    return numbered("encoder_hidden", encoder) | numbered("decoder_hidden", decoder)


FAMILIES = {family.__name__: family for family in (t5_v1_0, t5_v1_1, bart, mbart, marian, whisper, vaswani_torch)}
