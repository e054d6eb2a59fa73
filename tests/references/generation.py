"""Greedy and beam search by transformers, with every setting spelt out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from references.reference import Prompt, Tensors

MARGIN = 1e-3
"""Greedy continuations in which two pieces are closer than this are near ties, and drawn again."""


def settings(prompt: Prompt, **more: Any) -> Any:
    """A generation config that inherits nothing from the model's own."""
    from transformers import GenerationConfig

    plain = {"do_sample": False, "num_beams": 1, "use_cache": True, "max_new_tokens": prompt.new, "min_length": 0}
    penalties = {"length_penalty": 1.0, "early_stopping": False, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
    forced = {"bos_token_id": None, "eos_token_id": None, "forced_bos_token_id": None, "forced_eos_token_id": None}
    ids = {"pad_token_id": prompt.pad, "decoder_start_token_id": prompt.start}
    return GenerationConfig(**plain | penalties | forced | ids | more)


def generate(model: nn.Module, prompt: Prompt) -> tuple[Tensors, dict[str, Any]]:
    """(ids and scores of four searches, what they were made with and how near they came to a tie).

    Beams are int64[prompts * 4, time], the best of each prompt first.
    """
    greedy = _search(model, prompt, output_logits=True)
    logits = torch.stack(greedy.logits, 1)
    length = greedy.sequences.shape[1] - prompt.new
    end = _end(greedy.sequences[0, length:])
    beams = {"num_beams": 4, "num_return_sequences": 4, "eos_token_id": end, "output_scores": True}
    patient = _search(model, prompt, **beams)
    early = _search(model, prompt, **beams, length_penalty=0.6, early_stopping=True)
    outputs = {
        "greedy_noeos_ids": greedy.sequences,
        "greedy_noeos_logits": logits,
        "greedy_ids": _search(model, prompt, eos_token_id=end).sequences,
        "beam4_ids": patient.sequences,
        "beam4_scores": patient.sequences_scores,
        "beam4_lp06_early_ids": early.sequences,
        "beam4_lp06_early_scores": early.sequences_scores,
    }
    best = logits.double().topk(2).values
    meta = {
        "eos_token_id": end,
        "pad_token_id": prompt.pad,
        "decoder_start_token_id": prompt.start,
        "max_new_tokens": prompt.new,
        "prompt_len": length,
        "greedy_min_top2_margin": (best[..., 0] - best[..., 1]).min().item(),
        "distinct_tokens": greedy.sequences[:, length:].unique().numel(),
    }
    return outputs, meta


def _search(model: nn.Module, prompt: Prompt, **more: Any) -> Any:
    """transformers' general search: Whisper's own `generate` would add its timestamps and fallbacks."""
    from transformers import GenerationMixin

    model.generation_config = settings(prompt)
    config = settings(prompt, return_dict_in_generate=True, **more)
    with torch.no_grad():
        return GenerationMixin.generate(model, generation_config=config, **prompt.inputs)


def _end(ids: Tensor) -> int:
    """The piece that first appears nearest to the middle of a continuation: as end of sequence it cuts it there."""
    order = ids.tolist()
    return min(order, key=lambda piece: abs(order.index(piece) - len(order) // 2))
