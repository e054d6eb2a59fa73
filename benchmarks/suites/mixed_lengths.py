"""Training on documents of very different lengths: padded, or packed."""

from __future__ import annotations

from anyformer.bench import Bar, Contender, Settings, Suite, Work


def lengths(s: Settings) -> list[int]:
    """Log-normal, with a mean of about 100, cut at the context."""
    import numpy as np

    drawn = np.random.default_rng(s.seed).lognormal(np.log(100) - s.spread**2 / 2, s.spread, s.documents)
    return np.clip(drawn, 4, s.context).astype(int).tolist()


def data(s: Settings):
    import torch

    draw = torch.Generator().manual_seed(1)
    return [torch.randint(s.vocab, (length,), generator=draw) for length in lengths(s)]


def ours(s: Settings) -> Work:
    from peers.gpt import documents, our_gpt, our_loss, stepped

    model, batch = our_gpt(s), documents(data(s)).to(s.device)
    return stepped(model, lambda: our_loss(model, batch), s, batch.tokens)


def transformers(s: Settings) -> Work:
    from peers.gpt import stepped, transformers_gpt
    from torch.nn.utils.rnn import pad_sequence

    model, texts = transformers_gpt(s), data(s)
    ids, labels = pad_sequence(texts, True), pad_sequence(texts, True, -100)
    ids, labels = ids.to(s.device), labels.to(s.device)
    there = (labels != -100).long()
    units = float(there.sum())
    return stepped(model, lambda: model(input_ids=ids, attention_mask=there, labels=labels).loss, s, units)


MILD = {"spread": 0.6, "seed": 187, "documents": 20}
STRONG = {"spread": 0.9, "seed": 88, "documents": 40}

SUITE = Suite(
    title="Training on documents of log-normal lengths, about 100 tokens on average, at most 512: ours packs them, "
    "transformers pads. Real tokens count.",
    unit="tokens",
    contenders=[
        Contender("anyformer", ours, ("transformers",)),
        Contender("transformers", transformers, ("transformers",)),
    ],
    cases={
        "fp32, 38 % full": {"precision": "fp32", **MILD},
        "bf16, 38 % full": {"precision": "bf16", **MILD},
        "bf16, 26 % full": {"precision": "bf16", **STRONG},
        "bf16, 38 % full, GPT-2's GELU": {"precision": "bf16", **MILD, "activation": "gelu_new"},
        "bf16, 26 % full, GPT-2's GELU": {"precision": "bf16", **STRONG, "activation": "gelu_new"},
    },
    full={"activation": "gelu", "vocab": 8192, "dim": 384, "depth": 6, "heads": 6, "context": 512},
    toy={"vocab": 64, "dim": 16, "depth": 1, "heads": 2, "context": 512},
    accelerated={},
    tolerance=5e-3,
    bars=[
        Bar("bf16, 38 % full", at_least=3.5, beside="transformers"),
        Bar("bf16, 26 % full", at_least=7.0, beside="transformers"),
        Bar("bf16, 38 % full, GPT-2's GELU", at_least=3.5, beside="transformers"),
        Bar("bf16, 26 % full, GPT-2's GELU", at_least=7.0, beside="transformers"),
    ],
    notes="How full: real tokens among those of the padded batch. bf16 is autocast with float32 weights. "
    "GELU is exact, but where it is that of GPT-2: by tanh, which transformers writes out in Python for GPT-2's files.",
)  # fmt: skip
