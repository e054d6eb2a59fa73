"""A conformer."""

from __future__ import annotations

from anyformer.bench import PEERS, Bar, Contender, Settings, Suite, Work


def theirs(s: Settings):
    import torch
    from torchaudio.models import Conformer

    torch.manual_seed(0)
    config = {
        "input_dim": s.dim, "num_heads": s.heads, "ffn_dim": 4 * s.dim, "num_layers": s.depth,
        "depthwise_conv_kernel_size": 31, "dropout": 0.0,
    }  # fmt: skip
    frames = torch.randn(s.batch, s.time, s.dim, generator=torch.Generator().manual_seed(1))
    return Conformer(**config), config, frames, torch.full((s.batch,), s.time)


def anyformer(s: Settings) -> Work:
    from peers.published import ours, passes

    model, config, frames, lengths = theirs(s)
    given = {"input": frames, "lengths": lengths}
    mine, batch = ours(model, {"cls": "torchaudio.models.Conformer", **config}, given)
    batch = batch.to(s.device)
    return passes(mine, lambda: mine(batch), s, s.batch * s.time)


def torchaudio(s: Settings) -> Work:
    from peers.published import passes

    model, _, *given = theirs(s)
    frames, lengths = (one.to(s.device) for one in given)
    return passes(model, lambda: model(frames, lengths)[0], s, s.batch * s.time)


SUITE = Suite(
    title="A conformer: 6 layers, 256 wide, kernels of 31, 2 clips of 400 frames.",
    unit="frames",
    contenders=[
        Contender("anyformer", anyformer, ("torchaudio",)),
        Contender("torchaudio", torchaudio, ("torchaudio",)),
    ],
    cases={
        f"{what} {precision}": {"train": what == "train", "precision": precision}
        for what in ("train", "infer")
        for precision in ("fp32", "bf16")
    },
    full={"dim": 256, "heads": 4, "depth": 6, "batch": 2, "time": 400},
    toy={"dim": 16, "heads": 2, "depth": 1, "batch": 2, "time": 40},
    accelerated={"batch": 32},
    bars=[Bar("train bf16", at_least=1.1, beside=PEERS), Bar("infer bf16", at_least=1.1, beside=PEERS)],
    notes="A step trains on the mean square of the outputs, batch norms with their running statistics. bf16 is "
    "autocast with float32 weights.",
)
