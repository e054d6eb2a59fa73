"""Two architectures side by side, switch by switch, in words.

Everything of an architecture is said; what differs between two is what is said of one and not of the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from anyformer.architecture import cost
from anyformer.architecture.settings import Architecture, BackboneConfig, RecurrentConfig, StackConfig, StreamConfig
from anyformer.architecture.words import (
    BACKBONE,
    EMBEDDERS,
    HEAD,
    MODEL,
    POSITIONS,
    RECURRENT,
    STREAM,
    Phrase,
    Said,
    Switch,
    made,
    number,
)

GROUPS = (
    *("block", "attention", "feed-forward", "convolution", "positions"),
    *("embeddings", "heads", "training", "size", "cost"),
)
"""In the order in which they are told."""

Description = dict[tuple[str, str], Said]
"""What is said, by group and label."""

USUAL = {(s.group, s.label): s.usual for table in (BACKBONE, RECURRENT, MODEL) for s in table.values()}
"""What it is where nothing is said; none, of other things."""


@dataclass(frozen=True)
class Difference:
    """One switch: how it stood, and how it stands."""

    group: str
    label: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.label}: {self.before} -> {self.after}"


def differences(before: Architecture, after: Architecture) -> list[Difference]:
    """What is said differently of two architectures, in the order of GROUPS; costs last."""
    encoders = before.encoder is not None and after.encoder is not None
    found = _between(_model(before, encoders), _model(after, encoders))
    found += _of_stacks(before, after) if encoders else _between(_stack(before.backbone), _stack(after.backbone))
    return sorted([*found, *_costs(before, after)], key=lambda difference: GROUPS.index(difference.group))


def _of_stacks(before: Architecture, after: Architecture) -> list[Difference]:
    """What encoder and decoder have in common is said once."""
    decoder = _between(_stack(before.backbone), _stack(after.backbone))
    encoder = _between(_stack(before.encoder), _stack(after.encoder))
    found = [difference for difference in decoder if difference in encoder]
    for role, own in (("encoder", encoder), ("decoder", decoder)):
        found += [Difference(d.group, f"in the {role}, {d.label}", d.before, d.after) for d in own if d not in found]
    return found


def _between(before: Description, after: Description) -> list[Difference]:
    """What both say of a thing is left out."""
    found = []
    for key in sorted({**before, **after}, key=_place):
        first, second = before.get(key, ()), after.get(key, ())
        parts = [part for part in first if part not in second], [part for part in second if part not in first]
        if any(parts):
            found.append(Difference(*key, *(", ".join(part) or USUAL.get(key, "none") for part in parts)))
    return found


def _place(key: tuple[str, str]) -> int:
    """In the order of the tables, what is told of them last."""
    return list(USUAL).index(key) if key in USUAL else len(USUAL)


def _model(architecture: Architecture, encoders: bool) -> Description:
    """What belongs to no stack: streams, heads, context, and that there is an encoder. encoders: the other model has
    one too, whose size is said elsewhere."""
    encoder, told = architecture.encoder, _switches(MODEL, architecture)
    if encoder is not None:
        blocks = "" if encoders or isinstance(encoder, RecurrentConfig) else f" of {encoder.depth} blocks"
        reads = ", ".join(architecture.source) or "nothing"
        told["block", "encoder"] = (f"a second stack{blocks}", f"which reads {reads}")
    for name, stream in architecture.streams.items():
        if stream.input:
            told["embeddings", name] = _stream(stream)
    for name, head in architecture.heads.items():
        stream = architecture.streams.get(name)
        told["heads", name] = (*_parts(HEAD, head), *_outputs(stream))
    return told


def _stream(stream: StreamConfig) -> Said:
    kind = stream.embedder or (None if stream.features is None else {"type": "linear"})
    return (*_parts(STREAM, stream), *(made(kind, EMBEDDERS) if kind else ()))


def _outputs(stream: StreamConfig | None) -> Said:
    """How many numbers are predicted; those of a stream that comes in are told there."""
    if stream is None or stream.input:
        return ()
    count = stream.vocab_size or stream.features or 0
    return (f"{number(count)} output{'s' * (count > 1)}",)


def _stack(config: StackConfig | None) -> Description:
    """Every switch of a stack."""
    if isinstance(config, BackboneConfig):
        switch = BACKBONE["positions"]
        return _switches(BACKBONE, config) | {(switch.group, switch.label): made(config.positions, POSITIONS)}
    return _switches(RECURRENT, config)


def _switches(table: Mapping[str, Switch], config: Any) -> Description:
    phrases = {(s.group, s.label): s.say(getattr(config, field), config) for field, s in table.items()}
    return {key: (phrase,) for key, phrase in phrases.items() if phrase}


def _parts(table: Mapping[str, Phrase], config: Any) -> Said:
    phrases = (say(getattr(config, field), config) for field, say in table.items())
    return tuple(phrase for phrase in phrases if phrase)


def _costs(before: Architecture, after: Architecture) -> Iterable[Difference]:
    """As short numbers, unless these are the same."""
    for label, price, unit in (
        ("parameters", cost.parameters, ""),
        ("training FLOPs per token", cost.train_flops_per_token, ""),
        ("keys and values per token", cost.kv_bytes_per_token, "B"),
    ):
        prices = price(before), price(after)
        told = [cost.short(amount) for amount in prices]
        if told[0] == told[1]:
            told = [number(amount) for amount in prices]
        if prices[0] != prices[1]:
            yield Difference(
                "cost", label, *(t + unit if amount else "none" for t, amount in zip(told, prices, strict=True))
            )
