"""Memory of a training step with a large vocabulary."""

from __future__ import annotations

from collections.abc import Callable

from anyformer.bench import Bar, Contender, Settings, Suite, Work

STATUS, CLEAR = "/proc/self/status", "/proc/self/clear_refs"


def resident(peak: bool) -> float:
    """MB that the process holds, or has held at most since it was last asked to forget that. Linux only."""
    with open(STATUS) as file:
        lines = dict(line.split(":", 1) for line in file)
    return float(lines["VmHWM" if peak else "VmRSS"].split()[0]) / 1024


def above_what_stays(model, loss: Callable, short: Callable) -> Work:
    """short: a loss of a few tokens, whose step allocates weights, gradients and the optimiser's state."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    model.train()

    def step(of: Callable) -> None:
        of().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)

    def run() -> float:
        step(short)
        with open(CLEAR, "w") as file:
            file.write("5")
        before = resident(peak=False)
        step(loss)
        return resident(peak=True) - before

    with torch.no_grad():
        return Work(run, [float(loss())])


def data(s: Settings):
    import torch

    return torch.randint(s.vocab, (s.batch, s.time), generator=torch.Generator().manual_seed(1))


def ours(s: Settings) -> Work:
    from peers.gpt import documents, our_gpt, our_loss

    model, ids = our_gpt(s), data(s)
    batch, few = documents(ids), documents(ids[:1, :8])
    return above_what_stays(model, lambda: our_loss(model, batch), lambda: our_loss(model, few))


def transformers(s: Settings) -> Work:
    from peers.gpt import transformers_gpt

    model, ids = transformers_gpt(s), data(s)

    def loss(some):
        return model(input_ids=some, labels=some).loss

    return above_what_stays(model, lambda: loss(ids), lambda: loss(ids[:1, :8]))


SUITE = Suite(
    title="Memory of a training step above weights, gradients and the optimiser's state: vocabulary 50,304, "
    "4,096 tokens.",
    unit="MB",
    contenders=[
        Contender("anyformer", ours, ("transformers",)),
        Contender("transformers", transformers, ("transformers",)),
    ],
    cases={"2 layers, 384 wide": {"depth": 2}, "6 layers, 384 wide": {"depth": 6}},
    full={"vocab": 50304, "dim": 384, "heads": 6, "batch": 16, "time": 256, "context": 256},
    toy={"vocab": 64, "dim": 16, "depth": 1, "heads": 2, "batch": 2, "time": 16, "context": 16},
    amount=True,
    seconds=0.0,
    rounds=3,
    tolerance=1e-4,
    bars=[
        Bar("2 layers, 384 wide", at_most=0.25, beside="transformers"),
        Bar("6 layers, 384 wide", at_most=0.25, beside="transformers"),
    ],
    notes="The most memory resident during a step in float32, less what was before it.",
)
