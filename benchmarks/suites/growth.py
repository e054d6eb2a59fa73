"""How a pass grows with the length of its sequence."""

from __future__ import annotations

from functools import partial

from anyformer.bench import Contender, Settings, Suite, Work


def ours(part: str, s: Settings) -> Work:
    """Microseconds for a token, of a whole pass or of one kind of sublayer, forward and without gradients."""
    import time

    import torch

    from anyformer.architecture import BackboneConfig
    from anyformer.backbone import Backbone
    from anyformer.mask import Mask

    torch.manual_seed(0)
    config = BackboneConfig(dim=s.dim, depth=1, heads=s.heads, activation="gelu", causal=True)
    stack = Backbone(config).eval()
    x, positions = torch.randn(s.time, s.dim), torch.arange(s.time)[:, None]
    mask, spent = Mask.causal((s.time,)), []
    for name, block in stack.blocks[0].named_children() if part else []:
        if name == part:
            block.register_forward_pre_hook(lambda *_: spent.append(-time.process_time()))
            block.register_forward_hook(lambda *_: spent.append(time.process_time()))

    def run() -> float:
        spent.clear()
        start = time.process_time()
        with torch.inference_mode():
            stack(x, positions, mask)
        return 1e6 / s.time * (sum(spent) if part else time.process_time() - start)

    return Work(run)


SUITE = Suite(
    title="One block, 384 wide, over one causal sequence: attention's part grows with the square of the length, the "
    "feed-forward's with the length.",
    unit="us a token",
    contenders=[
        Contender("anyformer, a whole block", partial(ours, "")),
        Contender("anyformer, its attention", partial(ours, "attention")),
        Contender("anyformer, its feed-forward", partial(ours, "feed_forward")),
    ],
    cases={f"{n // 1024}k tokens": {"time": n} for n in (1024, 2048, 4096, 8192, 16384, 32768, 65536)},
    full={"dim": 384, "heads": 6},
    toy={"dim": 16, "heads": 2, "time": 64},
    amount=True,
    seconds=0.5,
    rounds=2,
    notes="Attention with its norm and projections. The length n at which n d² and n² d meet is a few times the width.",
)
