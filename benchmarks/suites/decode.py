"""Generation, token by token."""

from __future__ import annotations

from anyformer.bench import PEERS, Bar, Contender, Settings, Suite, Work


def prompts(s: Settings):
    import torch

    return torch.randint(s.vocab, (s.batch, s.prompt), generator=torch.Generator().manual_seed(1))


def narrowed(model, s: Settings):
    import torch

    return model.eval().to(torch.bfloat16 if s.precision == "bf16" else torch.float32)


def answered(run, s: Settings) -> Work:
    """run: new tokens, a row for each prompt. In bfloat16 a tie may fall either way, so those are not compared."""

    def once() -> float:
        return float(sum(len(row) for row in run()))

    return Work(once, [float(v) for row in run() for v in row] if s.precision == "fp32" else None)


def ours(s: Settings) -> Work:
    import torch
    from peers.gpt import our_gpt

    import anyformer as af

    model = narrowed(our_gpt(s), s)
    given = [af.Example(af.Tokens.of("text", row), {}) for row in prompts(s)]

    def run():
        if s.beams == 1:
            said = model.generate(given, "text", s.new, af.GREEDY, end=None)
        else:
            said = [one.tokens for one, *_ in model.beam_search(given, "text", af.Beams(s.beams, s.new), end=None)]
        return [tokens.streams["text"].values.tolist() for tokens in said]

    with torch.inference_mode():
        return answered(run, s)


def transformers(s: Settings) -> Work:
    import torch
    from peers.gpt import transformers_gpt
    from transformers import GenerationConfig

    model, ids = narrowed(transformers_gpt(s), s), prompts(s)
    how = GenerationConfig(
        max_new_tokens=s.new,
        min_new_tokens=s.new,
        do_sample=False,
        num_beams=s.beams,
        pad_token_id=0,
        eos_token_id=None,
    )
    model.generation_config = how
    there = torch.ones_like(ids)

    def run():
        with torch.inference_mode():
            return model.generate(ids, attention_mask=there, generation_config=how)[:, s.prompt :].tolist()

    return answered(run, s)


def litgpt(s: Settings) -> Work:
    """One sequence is all that it takes."""
    import torch
    from litgpt.generate.base import generate
    from peers.gpt import litgpt_gpt

    model, ids = narrowed(litgpt_gpt(s), s), prompts(s)[0]

    def run():
        with torch.inference_mode():
            dtype = next(model.parameters()).dtype
            model.set_kv_cache(batch_size=1, max_seq_length=s.prompt + s.new, dtype=dtype)
            said = generate(model, ids, s.prompt + s.new, temperature=0.0, include_prompt=False)
            model.clear_kv_cache()
            return said[None].tolist()

    return Work(answered(run, s).run)


def x_transformers(s: Settings) -> Work:
    import torch
    from peers.gpt import x_transformers_gpt
    from x_transformers import AutoregressiveWrapper

    model, ids = narrowed(AutoregressiveWrapper(x_transformers_gpt(s)), s), prompts(s)

    def run():
        with torch.inference_mode():
            return model.generate(ids, s.new, temperature=0.0, cache_kv=True).tolist()

    return Work(answered(run, s).run)


SUITE = Suite(
    title="Generation by a small GPT: 6 layers, 384 wide, vocabulary 8192, prompts of 16, 128 new tokens, greedy or 4 "
    "beams.",
    unit="tokens",
    contenders=[
        Contender("anyformer", ours, ("transformers",)),
        Contender("transformers", transformers, ("transformers",)),
        Contender("litgpt", litgpt, ("litgpt",), ("batch 1",)),
        Contender("x-transformers", x_transformers, ("x-transformers",), ("batch 1", "batch 16", "batch 16 bf16")),
    ],
    cases={
        "batch 1": {"batch": 1, "beams": 1, "precision": "fp32"},
        "batch 16": {"batch": 16, "beams": 1, "precision": "fp32"},
        "batch 16 bf16": {"batch": 16, "beams": 1, "precision": "bf16"},
        "beam 4": {"batch": 1, "beams": 4, "precision": "fp32"},
    },
    full={"vocab": 8192, "dim": 384, "depth": 6, "heads": 6, "prompt": 16, "new": 128, "context": 256},
    toy={"vocab": 64, "dim": 16, "depth": 1, "heads": 2, "prompt": 4, "new": 4, "context": 16},
    tolerance=0.0,
    bars=[
        Bar("batch 1", at_least=1.5, beside=PEERS),
        Bar("batch 16", at_least=1.5, beside=PEERS),
        Bar("batch 16 bf16", at_least=1.7, beside=PEERS),
        Bar("beam 4", at_least=2.0, beside=PEERS),
    ],
    notes="The tokens of transformers and ours must be equal; the others have weights of their own.",
)
