"""Decoder-only language models: GPT-1, 2 and 3, LLaMA's kind, ALiBi, a mixture of experts."""

from __future__ import annotations

from typing import Any

from references.reference import Prompt, Reference
from references.setting import Setting
from references.sharp import QUIET, post_norm, pre_norm, tied

VOCABULARY = 99


def sizes(setting: Setting, **more: Any) -> dict[str, Any]:
    """Fields that LLaMA's kind shares."""
    small = {"vocab_size": VOCABULARY, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5}
    room = {"max_position_embeddings": setting.sized(64, 256), "attn_implementation": "eager"}
    return setting.fields(**small | heads | room | more)


def gpt(setting: Setting, **more: Any) -> dict[str, Any]:
    """Fields that GPT-1 and GPT-2 share."""
    small = {"vocab_size": VOCABULARY, "n_embd": 48, "n_layer": 3, "n_head": 4}
    return setting.fields(**small, n_positions=setting.sized(40, 256), attn_implementation="eager", **more)


def causal(model: Any, setting: Setting, sharp: dict[str, float], final: str, **more: Any) -> Reference:
    """Right-padded texts to score and left-padded prompts to continue. `final`: pattern of the last norm of all."""
    high = model.config.vocab_size
    ids, mask = setting.ragged("ids", setting.sized((17, 11, 14), (200, 131, 160)), high)
    start, seen = setting.ragged("prompts", setting.sized((7, 4), (150, 131)), high, left=True)
    prompt = Prompt({"input_ids": start, "attention_mask": seen}, new=setting.sized(12, 4))
    inputs = {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}
    return Reference(model, inputs, compare=mask, prompt=prompt, sharp=sharp, signed=(rf"{final}\.weight",), **more)


POST_NORM = {r"\d\..*\.bias": 0.5, r"c_proj\.weight|decoder.*(?:out_proj|fc2)\.weight": 0.5}
"""Each post-norm forgets a part of what came in; what is added is small enough for the last piece to be remembered."""

GPT2 = r"wte|wpe|c_proj"
"""What adds to GPT-2's stream."""

LLAMA = r"embed_tokens|o_proj|down_proj"
"""What adds to a stream of LLaMA's kind."""


def pre_normed(model: Any, setting: Setting, writers: str, final: str, **more: Any) -> Reference:
    """`causal`, where the norm behind the last block makes up for a quiet table if that is tied."""
    return causal(model, setting, pre_norm(writers, final if tied(model) else None), final, **more)


def gpt1(setting: Setting) -> Reference:
    import transformers

    model = transformers.OpenAIGPTLMHeadModel(transformers.OpenAIGPTConfig(**gpt(setting)))
    last = rf"h\.{model.config.n_layer - 1}\.ln_2"  # post-norm: the last block's norm is the last of all
    sharp = {"s_embed": QUIET} | post_norm(last, lift=1 / QUIET)
    return causal(model, setting, sharp, last, scale=POST_NORM)


def gpt2(setting: Setting) -> Reference:
    import transformers

    config = transformers.GPT2Config(**gpt(setting, bos_token_id=1, eos_token_id=2))
    return pre_normed(transformers.GPT2LMHeadModel(config), setting, GPT2, "ln_f")


def gpt2_variants(setting: Setting) -> Reference:
    """GPT-2 with everything set that is usually left alone."""
    import transformers

    unusual = {"n_inner": 72, "activation_function": "relu", "scale_attn_by_inverse_layer_idx": True}
    ids = {"bos_token_id": 1, "eos_token_id": 2}
    usual = gpt(setting, **unusual, **ids, layer_norm_epsilon=1e-3)
    return pre_normed(transformers.GPT2LMHeadModel(transformers.GPT2Config(**usual)), setting, GPT2, "ln_f")


def gpt3_neo(setting: Setting) -> Reference:
    """GPT-3's alternation of dense and banded attention, as GPT-Neo has it: unscaled, q, k and v without biases."""
    import transformers

    fields = setting.fields(
        vocab_size=VOCABULARY, hidden_size=48, num_layers=4, num_heads=4, bos_token_id=1, eos_token_id=2,
        max_position_embeddings=setting.sized(40, 256), attention_types=[[["global", "local"], 2]],
        window_size=setting.sized(5, 100), attn_implementation="eager",
    )  # fmt: skip
    model = transformers.GPTNeoForCausalLM(transformers.GPTNeoConfig(**fields))
    return pre_normed(model, setting, rf"{GPT2}|out_proj", "ln_f", scale={r"q_proj\.weight": 0.3})


def llama_gqa(setting: Setting) -> Reference:
    """Two queries share a key; the output table is its own."""
    import transformers

    rope = {"rope_type": "default", "rope_theta": 500.0}
    fields = sizes(setting, rope_parameters=rope, tie_word_embeddings=False)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**fields))
    return pre_normed(model, setting, LLAMA, r"model\.norm")


def llama_mqa(setting: Setting) -> Reference:
    """All queries share a key; heads wider than dim / heads, biases everywhere, LLaMA 3's stretched rotations."""
    import transformers

    rope = {
        "rope_type": "llama3", "rope_theta": 10000.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }  # fmt: skip
    fields = sizes(
        setting, num_hidden_layers=2, num_key_value_heads=1, head_dim=16, attention_bias=True, mlp_bias=True,
        rms_norm_eps=1e-6, rope_parameters=rope, tie_word_embeddings=True,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**fields))
    return pre_normed(model, setting, LLAMA, r"model\.norm")


def qwen2(setting: Setting) -> Reference:
    """LLaMA's kind with biases of q, k and v alone, tied."""
    import transformers

    fields = sizes(setting, tie_word_embeddings=True)
    model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**fields))
    return pre_normed(model, setting, LLAMA, r"model\.norm")


def ernie4_5(setting: Setting) -> Reference:
    """LLaMA's kind whose rotations turn neighbouring features, (0, 1), (2, 3), …, instead of halves."""
    import transformers

    fields = sizes(setting, head_dim=12, use_bias=True, tie_word_embeddings=True)
    model = transformers.Ernie4_5ForCausalLM(transformers.Ernie4_5Config(**fields))
    return pre_normed(model, setting, LLAMA, r"model\.norm")


def mixtral(setting: Setting) -> Reference:
    """Each token goes through two of four experts, weighted by a softmax over those two."""
    import transformers

    fields = sizes(setting, num_local_experts=4, num_experts_per_tok=2, sliding_window=None, tie_word_embeddings=False)
    model = transformers.MixtralForCausalLM(transformers.MixtralConfig(**fields))
    return pre_normed(model, setting, LLAMA, r"model\.norm")


def bloom(setting: Setting) -> Reference:
    """ALiBi: scores fall linearly with distance, at a slope of each head's own; a norm behind the embedding."""
    import transformers

    fields = setting.fields(
        vocab_size=VOCABULARY, hidden_size=48, n_layer=3, n_head=4, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        attn_implementation="eager",
    )  # fmt: skip
    model = transformers.BloomForCausalLM(transformers.BloomConfig(**fields))
    return pre_normed(model, setting, r"word_embeddings|attention\.dense|dense_4h_to_h", "ln_f")


FAMILIES = {
    family.__name__: family
    for family in (gpt1, gpt2, gpt2_variants, gpt3_neo, llama_gqa, llama_mqa, qwen2, ernie4_5, mixtral, bloom)
}
