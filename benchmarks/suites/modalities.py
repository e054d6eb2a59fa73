"""Training on four modalities at once."""

from __future__ import annotations

from anyformer.bench import PEERS, Bar, Contender, Settings, Suite, Work

KINDS = ("text", "picture", "sound", "trajectory")


def anyformer(s: Settings) -> Work:
    from peers.gpt import stepped
    from peers.modalities import Drawn, our_batch, our_loss, our_reader

    model, batch = our_reader(s), our_batch(Drawn(s).samples(KINDS, s.tokens)).to(s.device)
    return stepped(model, lambda: our_loss(model, batch), s, batch.tokens)


def together(s: Settings) -> Work:
    """All in one padded batch."""
    from peers.modalities import Drawn

    return padded([Drawn(s).samples(KINDS, s.tokens)], s)


def apart(s: Settings) -> Work:
    """A padded batch for each kind of sample, and one update for all of them."""
    from peers.modalities import Drawn

    samples = Drawn(s).samples(KINDS, s.tokens)
    return padded([[one for one in samples if one.kind == kind] for kind in KINDS], s)


def padded(groups: list, s: Settings) -> Work:
    from peers.gpt import stepped
    from peers.modalities import Padded, PaddedReader

    model, batches = PaddedReader(s), [Padded.of(group, s.device) for group in groups]
    tokens = sum(int(batch.there.sum()) for batch in batches)
    return stepped(model, lambda: sum(model(batch) for batch in batches), s, tokens)


SUITE = Suite(
    title="A training step on texts, pictures with captions, sounds with transcripts and trajectories, a quarter of "
    "the tokens each: ours packs them into one batch; GPT-2 of transformers pads them, all together or kind by kind.",
    unit="tokens",
    contenders=[
        Contender("anyformer", anyformer, ("transformers",)),
        Contender("transformers, one batch", together, ("transformers",)),
        Contender("transformers, a batch a kind", apart, ("transformers",)),
    ],
    cases={"fp32": {"precision": "fp32"}, "bf16": {"precision": "bf16"}},
    full={"vocab": 8192, "dim": 384, "depth": 6, "heads": 6, "context": 512, "tokens": 2400, "patches": 196},
    toy={"vocab": 64, "dim": 16, "depth": 1, "heads": 2, "context": 512, "tokens": 400, "patches": 4},
    accelerated={"tokens": 32_768},
    tolerance=5e-3,
    bars=[Bar("fp32", at_least=1.0, beside=PEERS), Bar("bf16", at_least=1.25, beside=PEERS)],
    notes="Texts of 100 tokens on average, pictures of 196 patches, sounds of 40 to 160 slots, 20 steps of a "
    "trajectory. The losses and their gradients are the same, and the peers' are as a careful user writes them: each "
    "stream is embedded in one call, and only what is predicted is read. Real tokens count. bf16 is autocast with "
    "float32 weights.",
)
