"""Generation, token by token."""

from __future__ import annotations

from typing import Any

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
    from peers.gpt import compiler, our_gpt

    import anyformer as af

    model = narrowed(our_gpt(s), s)
    if s.compiled:
        model.compile_steps(compiler(s))
    given = [af.Example(af.Tokens.of("text", row), {}) for row in prompts(s)]

    def run():
        if s.beams == 1:
            said = model.generate(given, "text", s.new, af.GREEDY, end=None)
        else:
            said = [one.tokens for one, *_ in model.beam_search(given, "text", af.Beams(s.beams, s.new), end=None)]
        return [tokens.streams["text"].values.tolist() for tokens in said]

    with torch.inference_mode():
        return answered(run, s)


def transformers(s: Settings, **how: Any) -> Work:
    import torch
    from peers.gpt import transformers_gpt
    from transformers import GenerationConfig

    model, ids = narrowed(transformers_gpt(s), s), prompts(s)
    settings = GenerationConfig(
        max_new_tokens=s.new,
        min_new_tokens=s.new,
        do_sample=False,
        num_beams=s.beams,
        pad_token_id=0,
        eos_token_id=None,
        **how,
    )
    model.generation_config = settings
    there = torch.ones_like(ids)

    def run():
        with torch.inference_mode():
            return model.generate(ids, attention_mask=there, generation_config=settings)[:, s.prompt :].tolist()

    return answered(run, s)


def compiled_transformers(s: Settings) -> Work:
    """With a cache of fixed size, and inductor asked for what ours asks it for."""
    from peers.gpt import compiler
    from transformers import CompileConfig

    if s.toy:  # to trace it alone takes half a minute
        return transformers(s)
    how = CompileConfig(backend=compiler(s), mode=None, options={"cpp_wrapper": True})
    how._compile_all_devices = True  # else no more than accelerators
    return transformers(s, cache_implementation="static", compile_config=how)


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


CASES = {
    "batch 1": {"batch": 1, "beams": 1, "precision": "fp32"},
    "batch 16": {"batch": 16, "beams": 1, "precision": "fp32"},
    "batch 16 bf16": {"batch": 16, "beams": 1, "precision": "bf16"},
    "beam 4": {"batch": 1, "beams": 4, "precision": "fp32"},
}
GREEDY = tuple(CASES)[:3]


def _compiled(cases: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{case}, compiled" for case in cases)


SUITE = Suite(
    title="Generation by a small GPT: 6 layers, 384 wide, vocabulary 8192, prompts of 16, 128 new tokens, greedy or 4 "
    "beams.",
    unit="tokens",
    contenders=[
        Contender("anyformer", ours, ("transformers",)),
        Contender("transformers", transformers, ("transformers",)),
        Contender("transformers, compiled", compiled_transformers, ("transformers",), _compiled(GREEDY)),
        Contender("litgpt", litgpt, ("litgpt",), ("batch 1", *_compiled(("batch 1",)))),
        Contender("x-transformers", x_transformers, ("x-transformers",), GREEDY),
    ],
    cases=CASES | {f"{case}, compiled": {**settings, "compiled": True} for case, settings in CASES.items()},
    full={
        "vocab": 8192, "dim": 384, "depth": 6, "heads": 6, "prompt": 16, "new": 128, "context": 256, "compiled": False,
    },
    toy={"vocab": 64, "dim": 16, "depth": 1, "heads": 2, "prompt": 4, "new": 4, "context": 16},
    tolerance=0.0,
    bars=[
        Bar("batch 1", at_least=1.5, beside=PEERS),
        Bar("batch 16", at_least=1.5, beside=PEERS),
        Bar("batch 16 bf16", at_least=1.7, beside=PEERS),
        Bar("beam 4", at_least=2.0, beside=PEERS),
    ],
    notes="The tokens of transformers and ours must be equal; the others have weights of their own. Compiled: "
    "our step, one graph for any number of sequences and keys; transformers' also as it compiles itself, with a cache "
    "of fixed size; the others as they are.",
)  # fmt: skip
