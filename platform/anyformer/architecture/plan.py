"""What a long run of an architecture needs, by arithmetic: memory, time, money, checkpoints, data. No tensor is made.

Everything follows from the architecture and from Assumptions; what is assumed is printed beside what follows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from anyformer.architecture.cost import UNSTATED, block, parameters, short, train_flops_per_token
from anyformer.architecture.settings import Architecture, BackboneConfig
from anyformer.errors import ConfigError

FULL, MOMENTS = 4, 8  # bytes of a number in float32, and of AdamW's two moments of a weight
KEPT = 34  # bytes a token and column of a layer keeps for the backward pass (arXiv:2205.05198 §4.1, scores left out)
DAY = 24 * 3600

WHOLE = "weights, gradients, what is exchanged of them, moments"
PARTS = "and what is gathered: weights and gradients outside blocks, and of three blocks"


@dataclass(frozen=True)
class Assumptions:
    """tokens: of the whole run. micro: tokens of a micro-batch on a GPU. batch: tokens of an optimiser step, at least a
    micro-batch on each. peak: FLOP/s of a GPU in bfloat16. mfu: the part of them that a run makes use of. price: of a
    GPU for an hour. link: bytes/s between GPUs, each way. disk: bytes/s at which a checkpoint is written. samples: of
    a shard, each as long as the context. token: bytes of a token in a shard. encoded: tokens/s of a core."""

    tokens: float = 1e12
    micro: int = 16_384
    batch: int = 4_194_304
    peak: float = 989e12
    mfu: float = 0.4
    price: float = 2.5
    link: float = 50e9
    disk: float = 1e9
    samples: int = 8192
    token: float = 2.0
    encoded: float = 5e5

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 < value < float("inf") or (name == "mfu" and value > 1):
                raise ConfigError(
                    f"A plan has {name}={value}; expected a number above 0{', at most 1' * (name == 'mfu')}."
                )


@dataclass(frozen=True)
class Figure:
    """A line of the plan: a value for each number of GPUs, and how it follows."""

    name: str
    values: tuple[str, ...]
    how: str


def plan(architecture: Architecture, gpus: Sequence[int], given: Assumptions) -> list[Figure]:
    """Figures for each of these numbers of GPUs. ConfigError for what is no transformer, or no GPU at all."""
    config = architecture.backbone
    if not isinstance(config, BackboneConfig):
        raise ConfigError("A plan is made for transformers; this architecture's stack is recurrent.")
    if not gpus or min(gpus) < 1:
        raise ConfigError(f"A plan for {list(gpus)} GPUs: expected at least 1.")
    count, each = parameters(architecture), block(config).count
    outside = count - config.depth * each
    flops = train_flops_per_token(architecture)
    seconds = given.tokens * flops / (given.peak * given.mfu)
    activations = given.micro * config.depth * config.dim * KEPT
    context, state = (architecture.context or (UNSTATED,))[-1], count * (FULL + MOMENTS)
    samples = given.tokens / context

    def micro_batches(number: int) -> int:
        return max(1, round(given.batch / (given.micro * number)))

    def in_parts(number: int) -> float:
        return count * (2 * FULL + MOMENTS) / number + (2 * outside + 3 * each) * FULL + activations

    def stepped(number: int) -> int:
        return micro_batches(number) * given.micro * number

    link = f"assumed: {gb(given.link)} GB/s"

    def moved(number: int, each_way: float) -> str:
        return f"{each_way * count * FULL * (number - 1) / number / given.link:.2f} s"

    def line(name: str, value: Callable[[int], str], how: str) -> Figure:
        return Figure(name, tuple(value(number) for number in gpus), how)

    return [
        line("parameters", lambda n: short(count), "N, of the settings"),
        line("FLOPs a token", lambda n: short(flops), "6 · matrices + 12 · heads · width · context · layers"),
        line("FLOPs in all", lambda n: f"{given.tokens * flops:.2e}", f"· {short(given.tokens)} tokens"),
        line("GPU hours", lambda n: f"{seconds / 3600:,.0f}", f"assumed: {given.mfu:.0%} of {short(given.peak)}FLOP/s"),
        line("days", lambda n: f"{seconds / n / DAY:.1f}", "assumed: as fast on many as on one"),
        line("cost", lambda n: f"${seconds / 3600 * given.price:,.0f}", f"assumed: ${given.price:g} a GPU hour"),
        line("tokens a step", lambda n: short(stepped(n)), f"about {short(given.batch)}"),
        line("micro-batches a step", lambda n: f"{micro_batches(n)}", f"of {given.micro} tokens on each GPU"),
        line("steps", lambda n: f"{given.tokens / stepped(n):,.0f}", "tokens / tokens a step"),
        line("seconds a step", lambda n: f"{seconds / n * stepped(n) / given.tokens:.2f}", "computing alone"),
        line("activations, GB a GPU", lambda n: gb(activations), f"assumed: {KEPT} bytes a token, layer and column"),
        line("ddp, GB a GPU", lambda n: gb(count * (3 * FULL + MOMENTS) + activations), f"20 N + activations; {WHOLE}"),
        line("ddp, exchange a step", lambda n: moved(n, 2), f"8 N (n-1)/n bytes once, {link}"),
        line("sharded, GB a GPU", lambda n: gb(in_parts(n)), f"16 N / n + activations; {PARTS}"),
        line("sharded, exchange a step", lambda n: moved(n, 3 * micro_batches(n)),
             f"12 N (n-1)/n bytes a micro-batch, {link}"),
        line("checkpoint, GB", lambda n: gb(state), "12 N: weights and moments in float32"),
        line("its writing", lambda n: f"{state / given.disk:.0f} s", f"by one process, {given.disk / 1e6:,.0f} MB/s"),
        line("samples", lambda n: short(samples), f"of {context} tokens"),
        line("data, TB", lambda n: f"{given.tokens * given.token / 1e12:.2f}", f"{given.token:g} bytes a token"),
        line("shards", lambda n: f"{-(-samples // given.samples):,.0f}",
             f"of {given.samples} samples, {given.samples * context * given.token / 1e6:.0f} MB each"),
        line("core hours to prepare", lambda n: f"{given.tokens / given.encoded / 3600:,.0f}",
             f"at {short(given.encoded)} tokens/s a core"),
        line("lengths, GB", lambda n: gb(4 * samples), "4 bytes a sample, mapped by each process"),
    ]  # fmt: skip


def gb(size: float) -> str:
    return f"{size / 1e9:.1f}"


def table(figures: Sequence[Figure], gpus: Sequence[int]) -> str:
    """As Markdown."""
    head = ["", *(f"{number} GPUs" if number > 1 else "1 GPU" for number in gpus), "how it follows"]
    rows = [head, ["---", *["---:"] * len(gpus), "---"], *([f.name, *f.values, f.how] for f in figures)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
