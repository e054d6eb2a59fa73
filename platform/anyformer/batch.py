"""From examples to one packed batch: no padding, one flat token axis, every sequence's edges known."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from jaxtyping import Int64
from torch import Tensor

from anyformer.errors import ConfigError
from anyformer.mask import Mask
from anyformer.tokens import Stream, Tokens, with_rank

T = TypeVar("T")

Counts = dict[str, dict[str, float]]
"""How many predicted values: by task, by stream."""

SLOTS = ""
"""Beside the streams of a task's counts, which all have names: the slots of its sequences."""


@dataclass(frozen=True)
class Example:
    """One prepared sequence: what goes in, what is to be predicted, and who sees whom.

    `targets` are streams too, by the name of the stream whose head predicts them: their slots are the rows of
    the hidden states the head reads, their values what it should say there. An aligned target has one value a
    slot; a sequence target (CTC) and a pooled one (classification) differ in number and say so in `items`.
    `prefix` leading slots see each other in both directions; 0 is causal, `tokens.length` bidirectional.
    `source` is the sequence on the other axis, which an encoder reads and this one attends to.
    `apart` are further sequences of the same sample, which neither see this one nor are seen by it (a picture's
    caption, where the two are to be compared); in a batch they stand behind all that they belong to. The slots of its
    targets count on through them, so that one target may be read from several sequences.
    """

    tokens: Tokens
    targets: dict[str, Stream]
    prefix: int = 0
    task: str = ""
    key: str = ""
    source: Example | None = None
    apart: tuple[Example, ...] = ()

    @property
    def size(self) -> int:
        """Slots on both axes, of all its sequences."""
        return self.tokens.length + sum(other.size for other in self._others)

    @property
    def bytes(self) -> int:
        """Of its values and targets."""
        targets = sum(stream.values.nbytes for stream in self.targets.values())
        return self.tokens.bytes + targets + sum(other.bytes for other in self._others)

    @property
    def _others(self) -> list[Example]:
        return [*self.apart, *([] if self.source is None else [self.source])]


@dataclass(frozen=True)
class Batch:
    """Sequences packed end to end.

    streams, by name, are concatenated over the batch; their slots point into one flat axis of `tokens` slots.
    positions: int64[tokens, rank]. targets[task][stream] are packed in the same way. `counts[task][stream]` is how
    many predicted values the whole optimiser step has, and `counts[task][SLOTS]` how many slots; it is filled by the
    data module and equals this batch's own counts when nothing is accumulated. `unreadable`: training samples in whose
    place others stand here, as (task, index, what is wrong).
    """

    streams: dict[str, Stream]
    positions: Int64[Tensor, "tokens rank"]
    mask: Mask
    targets: dict[str, dict[str, Stream]] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    counts: Counts = field(default_factory=dict)
    source: Batch | None = None
    unreadable: tuple[tuple[str, int, str], ...] = ()

    def __len__(self) -> int:
        """Sequences in the batch."""
        return len(self.keys)

    @property
    def tokens(self) -> int:
        """Slots on the packed axis."""
        return len(self.positions)

    @property
    def starts(self) -> list[int]:
        """The first slot of each sequence."""
        return self.mask.cu_queries[: len(self)].tolist()

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with `change` applied to each tensor."""
        return replace(
            self,
            streams={name: stream.map(change) for name, stream in self.streams.items()},
            positions=change(self.positions),
            targets={
                task: {name: stream.map(change) for name, stream in targets.items()}
                for task, targets in self.targets.items()
            },
            source=None if self.source is None else self.source.map(change),
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        return self.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        return self.map(Tensor.pin_memory)


def pack(examples: Sequence[Example], rank: int | None = None, pad_to: int | None = None) -> Batch:
    """Lay examples end to end as one batch.

    rank: position axes of the result; by default the most that an example has.
    pad_to: fill the packed axis up to this many slots with one inert document that nobody sees, for kernels
    that want one shape at every step.
    """
    if not examples:
        raise ConfigError("Cannot pack an empty list of examples; expected at least one.")
    firsts = len(examples)
    examples = [*examples, *(replace(each, task=e.task, key=e.key) for e in examples for each in e.apart)]
    lengths = tuple(example.tokens.length for example in examples)
    rank = rank or max(example.tokens.positions.shape[1] for example in examples)
    padding = _padding(sum(lengths), pad_to)
    streams: dict[str, list[Stream]] = {}
    targets: dict[str, dict[str, list[Stream]]] = {}
    starts = (0, *itertools.accumulate(lengths))
    apart = zip(starts[firsts:], lengths[firsts:], strict=False)
    for example, start in zip(examples, starts, strict=False):
        others = list(itertools.islice(apart, len(example.apart)))
        for name, stream in example.tokens.streams.items():
            streams.setdefault(name, []).append(stream.shifted(start))
        for name, target in example.targets.items():
            laid = _across(target, [(start, example.tokens.length), *others]) if others else target.shifted(start)
            targets.setdefault(example.task, {}).setdefault(name, []).append(laid)
    packed_targets = {
        task: {name: Stream.joined(pieces) for name, pieces in named.items()} for task, named in targets.items()
    }
    return Batch(
        streams={name: Stream.joined(pieces) for name, pieces in streams.items()},
        positions=torch.cat(
            [with_rank(example.tokens.positions, rank) for example in examples]
            + [torch.zeros(size, rank, dtype=torch.int64) for size in padding]
        ),
        mask=Mask.prefixed(lengths + padding, tuple(example.prefix for example in examples) + padding),
        targets=packed_targets,
        tasks=tuple(example.task for example in examples),
        keys=tuple(example.key for example in examples),
        counts=_counts(examples, packed_targets),
        source=_pack_sources(examples, len(padding)),
    )


def within(items: Iterable[T], budget: int, size: Callable[[T], int]) -> Iterator[list[T]]:
    """Consecutive runs of items of at most `budget` together; one larger than that stands alone.

    >>> list(within([3, 2, 4, 9, 1], 5, lambda item: item))
    [[3, 2], [4], [9], [1]]
    """
    run: list[T] = []
    held = 0
    for item in items:
        if run and held + size(item) > budget:
            yield run
            run, held = [], 0
        run.append(item)
        held += size(item)
    if run:
        yield run


def _across(target: Stream, sequences: Iterable[tuple[int, int]]) -> Stream:
    """A target whose slots count on through several sequences, (start, length) of each."""
    return replace(target, slots=torch.cat([torch.arange(at, at + length) for at, length in sequences])[target.slots])


def _pack_sources(examples: Sequence[Example], padding: int) -> Batch | None:
    """The source axis; an example without a source has an empty one beside those that have."""
    if all(example.source is None for example in examples):
        return None
    rank = max(e.source.tokens.positions.shape[1] for e in examples if e.source is not None)
    nothing = Example(Tokens({}, 0, torch.zeros(0, rank, dtype=torch.int64)), {})
    return pack([example.source or nothing for example in examples] + [nothing] * padding, rank)


def _padding(length: int, pad_to: int | None) -> tuple[int, ...]:
    if pad_to is None or pad_to == length:
        return ()
    if pad_to < length:
        raise ConfigError(f"A batch of {length} slots does not fit pad_to={pad_to}; raise it or pack fewer.")
    return (pad_to - length,)


def _counts(examples: Sequence[Example], targets: dict[str, dict[str, Stream]]) -> Counts:
    """Of each task that has something to predict."""
    counts = {task: {name: float(len(t.values)) for name, t in named.items()} for task, named in targets.items()}
    for task in counts:
        counts[task][SLOTS] = float(sum(example.tokens.length for example in examples if example.task == task))
    return counts


def counts_together(batches: Iterable[Batch]) -> Counts:
    """The sums of several batches' counts."""
    together: Counts = {}
    for batch in batches:
        for task, counts in batch.counts.items():
            of = together.setdefault(task, {})
            for name, count in counts.items():
                of[name] = of.get(name, 0.0) + count
    return together


def counted(counts: Mapping[str, float], over: str | None = None) -> float:
    """A task's predicted values in the stream of this name, or its SLOTS; None: in all streams."""
    return sum(count for name, count in counts.items() if name != SLOTS) if over is None else counts[over]
