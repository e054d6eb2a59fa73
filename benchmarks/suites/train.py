"""Training steps of a small GPT, on documents of one length."""

from __future__ import annotations

from functools import partial

from anyformer.bench import PEERS, Bar, Contender, Settings, Suite, Work


def data(s: Settings):
    import torch

    return torch.randint(s.vocab, (s.batch, s.time), generator=torch.Generator().manual_seed(1))


def ours(s: Settings) -> Work:
    from peers.gpt import documents, our_gpt, our_loss, stepped

    model, batch = our_gpt(s), documents(data(s))
    return stepped(model, lambda: our_loss(model, batch), s, s.batch * s.time)


def transformers(s: Settings) -> Work:
    from peers.gpt import stepped, transformers_gpt

    model, ids = transformers_gpt(s), data(s)
    return stepped(model, lambda: model(input_ids=ids, labels=ids).loss, s, s.batch * s.time)


def other(build: str, s: Settings) -> Work:
    """Weights of its own: there is no answer to compare."""
    from peers import gpt

    model, ids = getattr(gpt, build)(s), data(s)
    work = gpt.stepped(model, lambda: gpt.next_token_loss(model(ids), ids), s, s.batch * s.time)
    return Work(work.run)


def flops(s: Settings) -> float:
    """Of a token, forward and backward: six for each weight that is multiplied with it, and attention's."""
    weights = s.depth * 12 * s.dim**2 + s.vocab * s.dim
    return 6 * weights + 12 * s.depth * s.dim * s.time


SUITE = Suite(
    title="Training steps of a small GPT: 6 layers, 384 wide, 16 documents of 256 tokens, vocabulary 8192.",
    unit="tokens",
    contenders=[
        Contender("anyformer", ours, ("transformers",)),
        Contender("transformers", transformers, ("transformers",)),
        Contender("litgpt", partial(other, "litgpt_gpt"), ("litgpt",)),
        Contender("x-transformers", partial(other, "x_transformers_gpt"), ("x-transformers",)),
        Contender("torch.nn", partial(other, "TorchGPT")),
    ],
    cases={"fp32": {"precision": "fp32"}, "bf16": {"precision": "bf16"}},
    full={"vocab": 8192, "dim": 384, "depth": 6, "heads": 6, "batch": 16, "time": 256, "context": 256},
    toy={"vocab": 64, "dim": 16, "depth": 1, "heads": 2, "batch": 2, "time": 8, "context": 8},
    flops=flops,
    tolerance=5e-3,
    bars=[Bar("fp32", at_least=1.0, beside=PEERS), Bar("bf16", at_least=1.25, beside=PEERS)],
    notes="bf16 is autocast with float32 weights; AdamW is fused for everybody. GELU is exact everywhere: what "
    "transformers does by default takes longer.",
)
