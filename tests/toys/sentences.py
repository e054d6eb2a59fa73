"""A vocabulary of whole words, made-up sentences in it, and a few steps of training on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from anyformer.architecture import HeadConfig, preset, reduced, without
from anyformer.batch import Example, counted, pack
from anyformer.contracts import Objective
from anyformer.model import ForwardPass, Network
from anyformer.tokens import Stream, StreamSpec, Tokens

ROLES = ("pad", "start", "end", "mask", "class", "separator", "delimiter", *(f"sentinel_{i}" for i in range(8)))
WORDS = "Thank you for inviting me to your party last week . apple".split()
SIZE = 64
NAMES = [*ROLES, *WORDS, *(f"w{i}" for i in range(SIZE - len(ROLES) - len(WORDS)))]
IDS = {name: i for i, name in enumerate(NAMES)}
ORDINARY = range(len(ROLES), SIZE)

SPEC = StreamSpec.discrete(
    "text", SIZE, end=IDS["end"], special={role: IDS[role] for role in ROLES if role != "end"}
)  # fmt: skip
SEGMENT = StreamSpec.discrete("text.segment", 2, overlay=True)


def ids(text: str | Iterable[str]) -> list[int]:
    return [IDS[name] for name in (text.split() if isinstance(text, str) else text)]


def names(values: torch.Tensor) -> str:
    return " ".join(NAMES[i] for i in values.tolist())


def tokens(text: str | Iterable[int], items: Sequence[int] | None = None) -> Tokens:
    """Names, or ids, as a sequence; items: the sizes of its items."""
    values = torch.tensor(ids(text) if isinstance(text, str) else list(text), dtype=torch.int64)
    whole = Tokens.of("text", values)
    if items is None:
        return whole
    sizes = torch.tensor(items)
    divided = Stream(values, torch.arange(len(values)), torch.stack((sizes, sizes), 1))
    return Tokens({"text": divided}, whole.length, whole.positions)


def ready(objective: Objective, *fields: str, spec: StreamSpec = SPEC, **more: Sequence[StreamSpec]) -> Objective:
    """The objective for text fields of this vocabulary, and others as they are given."""
    return objective.ready({**{field: [spec] for field in fields or ("text",)}, **more})


def counting(rng: np.random.Generator, length: int = 10) -> list[int]:
    """A run of ordinary values that rises by one: the gap in it can be told from either side."""
    first = int(rng.integers(len(ORDINARY)))
    return [ORDINARY[(first + i) % len(ORDINARY)] for i in range(length)]


def learned(
    model: str, objective: Objective, samples: Sequence[Mapping[str, Tokens]], specs: Sequence[StreamSpec],
    heads: Sequence[str], steps: int = 40,
) -> tuple[float, float]:  # fmt: skip
    """Mean losses of a small twin of a published architecture before and after a few steps on these samples."""
    torch.manual_seed(0)
    small = reduced(preset(model))
    described = {name: small.heads.get(name) or HeadConfig(bias=True) for name in heads}
    network = Network(specs, without(replace(small, heads=described), [*small.streams])).eval()
    optimiser = torch.optim.AdamW(network.parameters(), lr=6e-3, fused=True)

    def loss(seed: int) -> torch.Tensor:
        rng = np.random.default_rng(seed)
        examples = [replace(objective.prepare(sample, rng), task="it") for sample in samples]
        examples.sort(key=lambda example: example.tokens.length)  # equal shapes side by side, as in training
        batch = pack(examples)
        found = objective.loss(ForwardPass(network, batch), batch.targets["it"])
        assert sum(term.count for term in found.terms) == counted(batch.counts["it"])
        return found.mean()

    before = float(loss(10**6))
    for step in range(steps):
        optimiser.zero_grad()
        loss(step).backward()
        optimiser.step()
    return before, float(loss(10**6))


def same(one: Example, other: Example) -> bool:
    """Equal in everything that a batch is made of."""

    def told(example: Example | None) -> list:
        if example is None:
            return []
        streams = {**example.tokens.streams, **{f"→{name}": target for name, target in example.targets.items()}}
        return [
            *sorted((n, s.values.tolist(), s.slots.tolist(), s.items.tolist()) for n, s in streams.items()),
            *(example.tokens.positions.tolist(), example.prefix, told(example.source)),
        ]

    return told(one) == told(other)
