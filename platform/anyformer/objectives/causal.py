"""What comes next: each value from the slot before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from anyformer.batch import Example
from anyformer.errors import ConfigError, SampleError, unknown
from anyformer.objectives.loss import FromHidden
from anyformer.tokens import Stream, StreamSpec, Tokens, counting


@dataclass
class NextToken(FromHidden):
    """Every discrete value of the sequence from the slot before it; causal (a language model's loss)."""

    def predicts(self, specs: Mapping[str, Sequence[StreamSpec]]) -> list[str]:
        discrete = [spec.name for field in specs.values() for spec in field if spec.is_discrete]
        if not discrete:
            raise ConfigError(f"next_token needs a discrete stream; the fields {sorted(specs)} have none.")
        return list(dict.fromkeys(discrete))

    def prepare(self, tokens: Mapping[str, Tokens], rng: np.random.Generator) -> Example:
        together = Tokens.laid_end_to_end(list(tokens.values()))
        return Example(together, from_slot_before(together.streams, first=1))


@dataclass
class Prefix(FromHidden):
    """One field from all the others: the context is seen in both directions, the target is causal
    (prefix language modelling, arXiv:1910.10683 §3.2.1).

    target: the field that is predicted, its first value from the context's last slot.
    """

    target: str = "answer"

    def predicts(self, specs: Mapping[str, Sequence[StreamSpec]]) -> list[str]:
        if self.target not in specs:
            raise unknown("field", self.target, specs)
        streams = [spec.name for spec in specs[self.target] if spec.is_discrete]
        if not streams:
            raise ConfigError(f"prefix needs a discrete target; the field {self.target!r} has no such stream.")
        return streams

    def prepare(self, tokens: Mapping[str, Tokens], rng: np.random.Generator) -> Example:
        given = [part for name, part in tokens.items() if name != self.target]
        prefix = sum(part.length for part in given)
        if not prefix:
            raise SampleError(f"prefix needs a context before {self.target!r}, but the sample has no other field.")
        if self.target not in tokens:
            return Example(Tokens.laid_end_to_end(given), {}, prefix)
        together = Tokens.laid_end_to_end([*given, tokens[self.target]])
        return Example(together, from_slot_before(together.streams, first=prefix), prefix)


@dataclass
class ReturnConditioned(FromHidden):
    """Actions from the returns wanted and the states seen so far (Decision Transformer, arXiv:2106.01345 §3):
    each action from the slot before it, its state. Cross-entropy or regression, as the actions are.

    field: the trajectory's field. action: its action stream.
    """

    field: str = "episode"
    action: str = "rl.action"

    def predicts(self, specs: Mapping[str, Sequence[StreamSpec]]) -> list[str]:
        if self.field not in specs:
            raise unknown("field", self.field, specs)
        if self.action not in [spec.name for spec in specs[self.field]]:
            raise unknown("stream", self.action, [spec.name for spec in specs[self.field]])
        return [self.action]

    def prepare(self, tokens: Mapping[str, Tokens], rng: np.random.Generator) -> Example:
        if self.field not in tokens:
            raise SampleError(f"return_conditioned needs the field {self.field!r}; the sample has {sorted(tokens)}.")
        trajectory = tokens[self.field]
        actions = {name: s for name, s in trajectory.streams.items() if name == self.action}
        return Example(trajectory, from_slot_before(actions, first=1, continuous=True))


def from_slot_before(streams: Mapping[str, Stream], first: int, continuous: bool = False) -> dict[str, Stream]:
    """Targets: each value that stands at slot `first` or later, read from the slot before it."""
    targets = {}
    for name, stream in streams.items():
        if stream.values.is_floating_point() and not continuous:
            continue
        slots = stream.slots
        # a text's slots count 0, 1, 2, …: no value need be looked for, or copied
        kept = slice(first, None) if slots is counting(slots.shape[0]) else np.flatnonzero(slots.numpy() >= first)
        read_from = slots[kept] - 1
        if not read_from.shape[0]:
            continue
        if len(stream.values) != len(stream.slots):
            raise ConfigError(f"Stream {name!r} has fewer slots than values; it cannot be predicted slot by slot.")
        targets[name] = Stream.whole(stream.values[kept], read_from)
    return targets
