"""The currency every room hands on: streams of values and the slots they occupy in one sequence.

Axis names, the same in every file: `tokens` (slots of a flat, packed axis), `values` (a stream's own rows),
`items` (clips, pictures or runs inside a stream), `rank` (position axes), `dim`, `heads`, `head_dim`,
`features`, `vocab`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from anyformer.errors import ConfigError


def one_to_one(values: int) -> int:
    """The slot rule of a stream whose every value has its own slot."""
    return values


SHORT = 1024


@dataclass(frozen=True)
class StreamSpec:
    """What a model must know of a stream before it sees one.

    Exactly one of `vocab_size` (discrete values) and `features` (continuous rows) is set.
    `slots(m)` is the number of slots that an item of m values fills. `end` is the value that closes a
    generated run. `overlay`: it shares the slots of another stream, and its embeddings are added there.
    `input`: False for a stream that is only predicted (a label). `special`: values with a role of their own, by role:
    "mask", "start", "separator", "class", "pad", "sentinel_0", "sentinel_1", …
    `embedder` and `head` are `dim -> nn.Module` factories for anything richer than a table or a linear map: an
    embedder is called as `embedder(values, items) -> [slots, dim]`, a head as
    `head(hidden) -> [rows, vocab or features]`. Factories must pickle (a class, or `functools.partial`).
    """

    name: str
    vocab_size: int | None = None
    features: int | None = None
    rank: int = 1
    end: int | None = None
    overlay: bool = False
    input: bool = True
    special: Mapping[str, int] = field(default_factory=dict)
    slots: Callable[[int], int] = one_to_one
    embedder: Callable[[int], nn.Module] | None = None
    head: Callable[[int], nn.Module] | None = None

    def __post_init__(self) -> None:
        size = self.vocab_size if self.vocab_size is not None else self.features
        if (self.vocab_size is None) == (self.features is None) or size is None or size < 1:
            raise ConfigError(
                f"Stream {self.name!r} has vocab_size={self.vocab_size} and features={self.features}; "
                "expected exactly one of them, at least 1. Use StreamSpec.discrete or StreamSpec.continuous."
            )

    @classmethod
    def discrete(cls, name: str, vocab_size: int, **more) -> StreamSpec:
        return cls(name, vocab_size=vocab_size, **more)

    @classmethod
    def continuous(cls, name: str, features: int, **more) -> StreamSpec:
        return cls(name, features=features, **more)

    @property
    def is_discrete(self) -> bool:
        return self.vocab_size is not None

    @property
    def width(self) -> int:
        """Columns a head for this stream must produce."""
        return self.vocab_size or self.features or 0


@dataclass(frozen=True)
class Stream:
    """A homogeneous run of values and the slots it occupies.

    values: int64[values] or float32[values, features, ...]; slots: int64[tokens];
    items: int64[items, 2], the (values, slots) of each clip, picture or text run, in order.
    """

    values: Tensor
    slots: Int64[Tensor, " tokens"]
    items: Int64[Tensor, "items 2"]

    @classmethod
    def whole(cls, values: Tensor, slots: Tensor | None = None) -> Stream:
        """One item: by default each value at its own slot, from slot 0."""
        slots = counting(values.shape[0]) if slots is None else slots
        return cls(values, slots, _one_item(values.shape[0], slots.shape[0]))

    def shifted(self, offset: int) -> Stream:
        """The same values `offset` slots further on."""
        return Stream(self.values, self.slots + offset, self.items)

    def map(self, change: Callable[[Tensor], Tensor]) -> Stream:
        """The stream with `change` applied to each tensor (moving, pinning)."""
        return Stream(change(self.values), change(self.slots), change(self.items))

    def only(self, kept: Bool[Tensor, " tokens"]) -> Stream:
        """The values at the slots that are kept, which stay where they were. ConfigError where some are left out and
        values have no slots of their own; an item of which nothing is left is none."""
        if self.values.shape[0] != self.slots.shape[0]:
            if bool(kept.all()):
                return self
            raise ConfigError("A stream of fewer slots than values can be kept whole, or not at all.")
        where = kept.nonzero()[:, 0]
        return Stream(self.values[where], self.slots[where], self._items_of(where))

    def _items_of(self, where: Int64[Tensor, " kept"]) -> Int64[Tensor, "items 2"]:
        """What is left of each item, where values have slots of their own."""
        if self.items.shape[0] == 1 and where.shape[0]:
            return _one_item(where.shape[0], where.shape[0])
        item = torch.arange(len(self.items)).repeat_interleave(self.items[:, 1])
        left = torch.bincount(item[where], minlength=len(self.items))
        return left[left > 0][:, None].expand(-1, 2)

    @staticmethod
    def joined(streams: Sequence[Stream]) -> Stream:
        """Streams of one name laid one behind the other; slots are taken as they are."""
        if len(streams) == 1:
            return streams[0]
        return Stream(
            torch.cat([stream.values for stream in streams]),
            torch.cat([stream.slots for stream in streams]),
            torch.cat([stream.items for stream in streams]),
        )


@dataclass(frozen=True)
class Tokens:
    """One sequence: streams by name, its length in slots, and a position for every slot.

    positions: int64[length, rank]. They are never derived from slots: the three tokens of one
    environment step share a timestep, and a patch has a row and a column.
    """

    streams: dict[str, Stream]
    length: int
    positions: Int64[Tensor, "length rank"]

    @property
    def bytes(self) -> int:
        """Of its values; slots and positions are of the same order."""
        return sum(stream.values.nbytes for stream in self.streams.values())

    @classmethod
    def of(cls, name: str, values: Tensor) -> Tokens:
        """One stream, one slot a value, positions 0, 1, 2, …

        >>> Tokens.of("text", torch.tensor([5, 6, 7])).length
        3
        """
        slots = counting(values.shape[0])
        return cls({name: Stream.whole(values, slots)}, values.shape[0], slots[:, None])

    def only(self, kept: Bool[Tensor, " length"]) -> Tokens:
        """A sequence of these slots alone, side by side. Positions stay what they were: what is left still knows where
        it stands.

        >>> letters = Tokens.of("text", torch.tensor([5, 6, 7])).only(torch.tensor([True, False, True]))
        >>> letters.streams["text"].values.tolist(), letters.positions.tolist()
        ([5, 7], [[0], [2]])
        """
        place, where = kept.cumsum(0) - 1, kept.nonzero()[:, 0]
        found = {name: stream.only(kept[stream.slots]) for name, stream in self.streams.items()}
        moved = {name: Stream(s.values, place[s.slots], s.items) for name, s in found.items() if s.slots.shape[0]}
        return Tokens(moved, where.shape[0], self.positions[where])

    @staticmethod
    def laid_end_to_end(parts: Sequence[Tokens]) -> Tokens:
        """The parts as one sequence.

        Each part's positions continue after the largest one before it, on every axis, so a caption behind a
        picture starts past the picture's far corner (the rule of M-RoPE, arXiv:2409.12191 §2.1).
        """
        if len(parts) == 1:
            return parts[0]
        rank = max((part.positions.shape[1] for part in parts), default=1)
        streams: dict[str, list[Stream]] = {}
        positions, slot, start = [], 0, 0
        for part in parts:
            for name, stream in part.streams.items():
                streams.setdefault(name, []).append(stream.shifted(slot))
            positions.append(with_rank(part.positions, rank) + start)
            slot += part.length
            start = int(positions[-1].max()) + 1 if part.length else start
        joined = {name: Stream.joined(pieces) for name, pieces in streams.items()}
        together = torch.cat(positions) if positions else torch.zeros(0, rank, dtype=torch.int64)
        return Tokens(joined, slot, together)


def counting(length: int) -> Int64[Tensor, " length"]:
    """0, 1, 2, … as slots and positions count; like `_one_item` made once where it is short, and not to be written
    into. Samples that are kept then take the memory of their values alone."""
    return _counting(length) if length < SHORT else torch.arange(length)


@lru_cache(maxsize=SHORT)
@torch.inference_mode(False)
def _counting(length: int) -> Int64[Tensor, " length"]:
    return torch.arange(length, device="cpu")


@lru_cache(maxsize=4096)
def _one_item(values: int, slots: int) -> Int64[Tensor, "1 2"]:
    """The items of a stream that has one. Nobody may write into it, because it is made once: samples are many and
    small, and making it is a third of making such a stream."""
    return torch.tensor([[values, slots]], device="cpu")


def with_rank(positions: Int64[Tensor, "tokens _"], rank: int) -> Int64[Tensor, "tokens rank"]:
    """Positions on `rank` axes: a rank-1 index is repeated on every axis, others keep the axes they have.

    >>> with_rank(torch.tensor([[3]]), 2).tolist()
    [[3, 3]]
    """
    have = positions.shape[1]
    if have == rank:
        return positions
    if have == 1:
        return positions.expand(-1, rank)
    raise ConfigError(f"Positions have {have} axes; expected 1 or {rank}. Give the backbone rank={have}.")


def spec_table(specs: Iterable[StreamSpec]) -> dict[str, StreamSpec]:
    """Specs by stream name; two different specs for one name are refused."""
    table: dict[str, StreamSpec] = {}
    for spec in specs:
        if table.setdefault(spec.name, spec) != spec:
            raise ConfigError(f"Two different streams are named {spec.name!r}; give one tokenizer another name.")
    return table


Rows = Float[Tensor, "rows features"]
