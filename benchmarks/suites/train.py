"""Training steps of a small GPT, on documents of one length."""

from __future__ import annotations

from functools import partial

from anyformer.bench import PEERS, Bar, Contender, Settings, Suite, Work


def data(s: Settings):
    import torch

    return torch.randint(s.vocab, (s.batch, s.time), generator=torch.Generator().manual_seed(1)).to(s.device)


def ours(s: Settings) -> Work:
    from peers.gpt import compiler, documents, our_gpt, our_loss, stepped

    model, batch = our_gpt(s), documents(data(s).cpu()).to(s.device)
    if s.compiled:
        model.compile_blocks(compiler(s))
    return stepped(model, lambda: our_loss(model, batch), s, s.batch * s.time)


def transformers(s: Settings) -> Work:
    from peers.gpt import compiler, stepped, transformers_gpt

    model, ids = transformers_gpt(s), data(s)
    if s.compiled and not s.toy:  # to trace it alone takes half a minute
        model.compile(backend=compiler(s))
    return stepped(model, lambda: model(input_ids=ids, labels=ids).loss, s, s.batch * s.time)


def other(build: str, s: Settings) -> Work:
    """Weights of its own: there is no answer to compare."""
    from peers import gpt

    model, ids = getattr(gpt, build)(s), data(s)
    work = gpt.stepped(model, lambda: gpt.next_token_loss(model(ids), ids), s, s.batch * s.time)
    return Work(work.run)


def flops(s: Settings) -> float:
    """Of a token, forward and backward: 6 · (12 · layers · width² + vocabulary · width) for the products with weights,
    12 · layers · width · length for attention, whole although it is causal."""
    weights = s.depth * 12 * s.dim**2 + s.vocab * s.dim
    return 6 * weights + 12 * s.depth * s.dim * s.time


FP32, BF16 = {"precision": "fp32"}, {"precision": "bf16"}
SMALL = {"vocab": 50304, "dim": 768, "depth": 12, "heads": 12, "batch": 1, "time": 512, "context": 1024}
PLAIN = ("fp32", "bf16")
LARGER = ("fp32, 2 threads", "bf16, 2 threads", "GPT-2 small, fp32", "GPT-2 small, bf16")

SUITE = Suite(
    title="Training steps of a small GPT: 6 layers, 384 wide, 16 documents of 256 tokens, vocabulary 8192; and of one "
    "like GPT-2 small: 12 layers, 768 wide, a document of 512 tokens, vocabulary 50,304.",
    unit="tokens",
    contenders=[
        Contender("anyformer", ours, ("transformers",)),
        Contender("transformers", transformers, ("transformers",)),
        Contender("litgpt", partial(other, "litgpt_gpt"), ("litgpt",), PLAIN + LARGER),
        Contender("x-transformers", partial(other, "x_transformers_gpt"), ("x-transformers",), PLAIN),
        Contender("torch.nn", partial(other, "TorchGPT"), (), PLAIN),
    ],
    cases={
        "fp32": FP32,
        "bf16": BF16,
        "fp32, 2 threads": {**FP32, "threads": 2},
        "bf16, 2 threads": {**BF16, "threads": 2},
        "bf16, GPT-2's GELU": {**BF16, "activation": "gelu_new"},
        "fp32, compiled": {**FP32, "compiled": True},
        "bf16, compiled": {**BF16, "compiled": True},
        "GPT-2 small, fp32": {**FP32, **SMALL},
        "GPT-2 small, bf16": {**BF16, **SMALL},
    },
    full={
        "vocab": 8192, "dim": 384, "depth": 6, "heads": 6, "batch": 16, "time": 256, "context": 256,
        "activation": "gelu", "compiled": False,
    },
    toy={"vocab": 64, "dim": 16, "depth": 1, "heads": 2, "batch": 2, "time": 16, "context": 16},
    accelerated={"batch": 16, "time": 1024, "context": 1024},
    flops=flops,
    tolerance=5e-3,
    bars=[Bar("fp32", at_least=1.0, beside=PEERS), Bar("bf16", at_least=1.25, beside=PEERS)],
    notes="bf16 is autocast with float32 weights; AdamW is fused for everybody. GELU is exact, but where it is that of "
    "GPT-2: by tanh, which transformers writes out in Python for GPT-2's files. Compiled: ours what blocks do token by "
    "token, one graph for all lengths; transformers' whole model, for this length. Of 2 threads, a CPU second is that "
    "of either.",
)  # fmt: skip
