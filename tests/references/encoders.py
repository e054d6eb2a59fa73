"""BERT and what came of it: masked language models and ELECTRA's two halves."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from references.decoders import VOCABULARY
from references.reference import Reference
from references.setting import Setting
from references.sharp import FAINT, QUIET, post_norm


def sizes(setting: Setting, **more: Any) -> dict[str, Any]:
    """Fields that most of them share."""
    small = {"vocab_size": VOCABULARY, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    room = {"max_position_embeddings": setting.sized(40, 256), "attn_implementation": "eager"}
    return setting.fields(**small | {"intermediate_size": 96} | room | more)


def texts(setting: Setting, high: int, pad: int = 0, types: bool = True) -> dict[str, Tensor]:
    """Right-padded texts of two segments."""
    ids, mask = setting.ragged("ids", setting.sized((17, 11, 14), (200, 131, 160)), high, pad)
    inputs = {"input_ids": ids, "attention_mask": mask}
    if types:
        second = mask.clone()
        second[:, :6] = 0
        inputs["token_type_ids"] = second
    return inputs


def masked_labels(setting: Setting, mask: Tensor, high: int) -> Tensor:
    """An id for two of five pieces, -100 for the others."""
    chosen = (setting.integers("chosen", 0, 5, *mask.shape) < 2) & (mask == 1)
    return setting.integers("labels", 5, high, *mask.shape).masked_fill(~chosen, -100)


def sharp(last: str, dense: str | None = None, norm: str | None = None) -> dict[str, float]:
    """Factors of the sharp regime. `dense` and `norm`: the map and the norm of a head whose table is tied."""
    factors = {r"embeddings\.\w+_embeddings": FAINT} | post_norm(last, first=r"embeddings\.LayerNorm|project\.bias")
    return factors | ({dense: QUIET, norm: 1 / FAINT} if dense and norm else {})


def bert(setting: Setting) -> Reference:
    import torch
    import transformers

    model = transformers.BertForPreTraining(transformers.BertConfig(**sizes(setting)))
    inputs = texts(setting, model.config.vocab_size)
    inputs["labels"] = masked_labels(setting, inputs["attention_mask"], model.config.vocab_size)
    inputs["next_sentence_label"] = torch.tensor([0, 1, 1])
    factors = sharp(_last(model), r"transform\.dense", r"transform\.LayerNorm")
    return Reference(model, inputs, compare=inputs["attention_mask"], sharp=factors)


def roberta(setting: Setting) -> Reference:
    import transformers

    ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    room = {"max_position_embeddings": setting.sized(42, 258)}  # the first position is pad + 1
    fields = sizes(setting, **ids, **room, type_vocab_size=1, layer_norm_eps=1e-5)
    model = transformers.RobertaForMaskedLM(transformers.RobertaConfig(**fields))
    inputs = texts(setting, model.config.vocab_size, pad=1, types=False)
    inputs["labels"] = masked_labels(setting, inputs["attention_mask"], model.config.vocab_size)
    factors = sharp(_last(model), r"lm_head\.dense", r"lm_head\.layer_norm")
    return Reference(model, inputs, compare=inputs["attention_mask"], sharp=factors)


def distilbert(setting: Setting) -> Reference:
    import transformers

    fields = setting.fields(
        vocab_size=VOCABULARY, dim=48, n_layers=2, n_heads=4, hidden_dim=96, attn_implementation="eager",
        max_position_embeddings=setting.sized(40, 256),
    )  # fmt: skip
    model = transformers.DistilBertForMaskedLM(transformers.DistilBertConfig(**fields))
    inputs = texts(setting, model.config.vocab_size, types=False)
    inputs["labels"] = masked_labels(setting, inputs["attention_mask"], model.config.vocab_size)
    last = rf"layer\.{model.config.n_layers - 1}\.output_layer_norm"
    factors = sharp(last, "vocab_transform", "vocab_layer_norm")
    return Reference(model, inputs, compare=inputs["attention_mask"], sharp=factors)


def electra_generator(setting: Setting) -> Reference:
    """Embeddings narrower than the model; the head goes back to their width."""
    import transformers

    fields = sizes(setting, embedding_size=32, num_hidden_layers=2)
    model = transformers.ElectraForMaskedLM(transformers.ElectraConfig(**fields))
    inputs = texts(setting, model.config.vocab_size)
    inputs["labels"] = masked_labels(setting, inputs["attention_mask"], model.config.vocab_size)
    factors = sharp(_last(model), r"predictions\.dense", r"predictions\.LayerNorm")
    return Reference(model, inputs, compare=inputs["attention_mask"], sharp=factors)


def electra_discriminator(setting: Setting) -> Reference:
    """One logit a piece: was it replaced?"""
    import transformers

    model = transformers.ElectraForPreTraining(transformers.ElectraConfig(**sizes(setting, embedding_size=32)))
    inputs = texts(setting, model.config.vocab_size)
    inputs["labels"] = setting.integers("replaced", 0, 2, *inputs["input_ids"].shape)
    kept = {r"output\.dense\.weight": 0.3}  # pieces stay different enough for logits of both signs
    return Reference(model, inputs, compare=inputs["attention_mask"], scale=kept, sharp=sharp(_last(model)))


def _last(model: Any) -> str:
    """The norm that ends the last block."""
    return rf"layer\.{model.config.num_hidden_layers - 1}\.output\.LayerNorm"


FAMILIES = {family.__name__: family for family in (bert, roberta, distilbert, electra_generator, electra_discriminator)}
