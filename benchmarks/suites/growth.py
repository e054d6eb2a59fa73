"""How a pass grows: with the length of its sequences, with their number, and with the kinds of them."""

from __future__ import annotations

from functools import partial

from anyformer.bench import OURS, Contender, Settings, Suite, Work


def ours(part: str, s: Settings) -> Work:
    """Microseconds for a token of a whole block, or of one of its sublayers with norm and projections."""
    import torch

    from anyformer.architecture import BackboneConfig
    from anyformer.backbone import Backbone
    from anyformer.mask import Mask
    from anyformer.sublayers import Context

    torch.manual_seed(0)
    stack = Backbone(BackboneConfig(dim=s.dim, depth=1, heads=s.heads, activation="gelu", causal=True)).eval()
    lengths = (s.time,) * s.batch
    x, mask = torch.randn(sum(lengths), s.dim), Mask.causal(lengths)
    positions = torch.arange(s.time).repeat(s.batch)[:, None]
    context = Context(stack.positions.place(positions, positions, mask), mask)
    block = getattr(stack.blocks[0], part) if part else stack.blocks[0]
    return timed(lambda: block(x, context), len(x))


def model(s: Settings) -> Work:
    """Of embedding so many kinds of samples and one block over all of them."""
    from peers.modalities import Drawn, our_batch, our_reader

    batch, reader = our_batch(Drawn(s).samples(s.kinds, s.tokens)), our_reader(s).eval()
    return timed(lambda: reader(batch), batch.tokens)


def timed(work, tokens: int) -> Work:
    import time

    import torch

    def run() -> float:
        start = time.process_time()
        with torch.inference_mode():
            work()
        return 1e6 / tokens * (time.process_time() - start)

    return Work(run)


LENGTHS = {f"{n // 1024}k tokens": {"time": n} for n in (1024, 2048, 4096, 8192, 16384, 32768, 65536)}
LONGEST = ("32k tokens", "64k tokens")  # a turn of which takes long enough
BATCHES = {f"{n} of 256 tokens": {"batch": n, "time": 256} for n in (1, 4, 16, 64)}
KINDS = ("text", "picture", "sound", "trajectory")
MIXTURES = {f"{n} kind{'s' * (n > 1)} of sample": {"kinds": KINDS[:n]} for n in range(1, 5)}

SUITE = Suite(
    title="A pass without gradients of one block, 384 wide. Over one causal sequence attention's part grows with the "
    "square of the length, the feed-forward's with the length: O(n d² + n² d). Over more sequences, or more kinds of "
    "samples in as many tokens, a token should cost the same.",
    unit="us a token",
    contenders=[
        Contender(f"{OURS}, the whole block", partial(ours, ""), (), (*LENGTHS, *BATCHES)),
        Contender(f"{OURS}, its attention", partial(ours, "attention"), (), tuple(LENGTHS)),
        Contender(f"{OURS}, its feed-forward", partial(ours, "feed_forward"), (), tuple(LENGTHS)),
        Contender(f"{OURS}, embedding and a block", model, ("transformers",), tuple(MIXTURES)),
    ],
    cases={**LENGTHS, **{name: {**LENGTHS[name], "rounds": 1} for name in LONGEST}, **BATCHES, **MIXTURES},
    full={
        "dim": 384, "heads": 6, "batch": 1, "depth": 1, "vocab": 8192, "context": 512, "patches": 196, "tokens": 2400,
    },
    toy={"dim": 16, "heads": 2, "time": 64, "vocab": 64, "patches": 4, "tokens": 400},
    amount=True,
    seconds=0.5,
    rounds=3,
    notes="Attention with its norm and projections, of which n d² is most up to a few times the width.",
)  # fmt: skip
