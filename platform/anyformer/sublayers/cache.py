"""Keys, values and positions of earlier tokens, preallocated; always an argument, never a module's state."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from anyformer.mask import Mask, cumulative

Pair = tuple[Tensor, Tensor]

STEPS = 128
"""Steps that a cache that grows makes room for, at the least: each growth copies it."""


class Cache:
    """Room for `capacity` tokens of each of `documents` sequences in every layer.

    A forward pass writes the new tokens' keys and values behind the `lengths` already there and reads all of
    them; `advance` then counts the new ones in. Grows at least by doubling when a sequence outgrows it. What
    cross-attention makes of the source is computed once, on the first pass, and kept in `source`.
    """

    def __init__(
        self, layers: int, documents: int, kv_heads: int, head_dim: int, *, rank: int, capacity: int, like: Tensor
    ) -> None:
        self.lengths = [0] * documents
        self.keep(like.new_zeros(layers, 2, documents, kv_heads, capacity, head_dim))
        self.positions = torch.zeros(documents, capacity, rank, dtype=torch.int64, device=like.device)
        self.alike = torch.zeros(documents, documents, dtype=torch.int64)  # how many first slots two sequences share
        self.source: dict[int, Pair] = {}
        self.source_lengths: tuple[int, ...] = ()
        self.source_of: list[int] = []  # which of the sources that were remembered each sequence reads

    @property
    def capacity(self) -> int:
        return self.store.shape[4]

    def reserve(self, queries: tuple[int, ...]) -> None:
        """Make room for these many more tokens of each sequence."""
        needed = max(have + more for have, more in zip(self.lengths, queries, strict=True))
        if needed > self.capacity:
            capacity = needed + max(needed, STEPS)
            self.keep(_longer(self.store, 4, capacity))
            self.positions = _longer(self.positions, 1, capacity)

    def mask(self, queries: tuple[int, ...], prefix: tuple[int, ...] | None = None) -> Mask:
        """The mask of these many new tokens behind what is cached; `prefix` counts from each sequence's start."""
        keys = tuple(have + more for have, more in zip(self.lengths, queries, strict=True))
        return Mask(queries, keys, prefix or (0,) * len(keys))

    def keep(self, store: Float[Tensor, "layers 2 documents kv_heads capacity head_dim"]) -> None:
        """Have this as room."""
        self.store = store
        self.opened: Mask | None = None  # whose pass it is that `fresh` and `seen` are for
        self.fresh: list[Pair] = []
        self.seen: list[Pair] = []

    def advance(self, queries: tuple[int, ...]) -> None:
        self.lengths = [have + more for have, more in zip(self.lengths, queries, strict=True)]

    def cut(self, lengths: Sequence[int]) -> None:
        """Forget what stands behind so many tokens of each sequence."""
        self.lengths, shortest = list(lengths), torch.tensor(lengths)
        self.alike = self.alike.minimum(shortest).minimum(shortest[:, None])

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these sequences, in this order, each as often as it is named: a beam search's next beams.

        Beams that change places had the same tokens until not long ago: no more is copied than what differs.
        """
        have = list(range(len(self.lengths)))
        if list(rows) == have:
            return
        index = torch.tensor(rows, dtype=torch.int64)
        self.alike.diagonal().copy_(torch.tensor(self.lengths))
        first = int(self.alike[have, index].min()) if len(rows) == len(have) else 0
        self.alike = self.alike[index][:, index]
        self.move(index.to(self.store.device), first)
        self.lengths = [self.lengths[row] for row in rows]
        read = [self.source_of[row] for row in rows] if self.source else []
        if read != self.source_of:  # beams of one prompt change places and read the same
            self.source_lengths = tuple(self.source_lengths[row] for row in rows)
            where, longest = index.to(self.store.device), max(self.source_lengths)
            for layer, pair in self.source.items():
                k, v = (each.index_select(0, where).narrow(1, 0, longest) for each in pair)
                self.source[layer] = k, v
            self.source_of = read

    def extend(
        self,
        layer: int,
        keys: Float[Tensor, "tokens kv_heads head_dim"],
        values: Float[Tensor, "tokens kv_heads head_dim"],
        mask: Mask,
    ) -> Pair:
        """Write new keys and values; returns all of them: as they came where nothing was there before, else as they
        are kept, `[documents, kv_heads, longest, head_dim]`, each document's `mask.keys` first."""
        if self.opened is not mask:
            self._open(mask)
        k, v = self.fresh[layer]
        if mask.is_step and mask.is_even:
            k.copy_(keys)
            v.copy_(values)
            return self.seen[layer]
        _write(k, keys, mask)
        _write(v, values, mask)
        return (keys, values) if mask.queries == mask.keys else self.seen[layer]

    def _open(self, mask: Mask) -> None:
        """Once a pass: where each layer's new keys and values go, and all of them."""
        self.opened, self.seen = mask, _pairs(self.store.narrow(4, 0, max(mask.keys)))
        even = mask.is_step and mask.is_even  # then they stand side by side
        self.fresh = _pairs(self.store.select(4, mask.keys[0] - 1) if even else self.store)

    def place(self, positions: Int64[Tensor, "tokens rank"], mask: Mask) -> Int64[Tensor, "keys rank"]:
        """Write the new tokens' positions; returns every key's."""
        _write(self.positions[:, None], positions[:, None], mask)
        return torch.cat([each[:count] for each, count in zip(self.positions, mask.keys, strict=True)])

    def remember(self, layer: int, lengths: tuple[int, ...], make: Callable[[], Pair]) -> Pair:
        """Keys and values of the source for one layer, which are made on the first pass, packed, and kept as
        `[documents, longest, …]`, with zeros behind each document's own."""
        if layer not in self.source:
            k, v = (nn.utils.rnn.pad_sequence(list(each.split(lengths)), batch_first=True) for each in make())
            self.source[layer], self.source_lengths = (k, v), lengths
            self.source_of = list(range(len(lengths)))
        return self.source[layer]

    def move(self, rows: Int64[Tensor, " rows"], first: int) -> None:
        """What these sequences have from slot `first` on takes the place of what is there."""
        count = max(self.lengths, default=0) - first
        places = self.positions.narrow(1, first, count).index_select(0, rows)
        stored = self.store.narrow(4, first, count).index_select(2, rows)
        if len(rows) != len(self.lengths):
            layers, two, _, *sizes = self.store.shape
            self.keep(self.store.new_zeros(layers, two, len(rows), *sizes))
            self.positions = self.positions.new_zeros(len(rows), *self.positions.shape[1:])
        self.positions.narrow(1, first, count).copy_(places)
        self.store.narrow(4, first, count).copy_(stored)


def rows_of(lengths: tuple[int, ...], documents: Sequence[int]) -> Int64[Tensor, " rows"]:
    """Where these documents stand on a packed axis, in this order."""
    starts = cumulative(lengths).tolist()
    return torch.cat([torch.arange(starts[d], starts[d + 1]) for d in documents] or [torch.zeros(0, dtype=torch.int64)])


def packed(kept: Float[Tensor, "documents kv_heads longest head_dim"], mask: Mask) -> Tensor:
    """What a cache keeps, end to end: `[keys, kv_heads, head_dim]`."""
    return torch.cat([each[:, :count].transpose(0, 1) for each, count in zip(kept, mask.keys, strict=True)])


def _pairs(store: Float[Tensor, "layers 2 *room"]) -> list[Pair]:
    """Keys and values, layer by layer."""
    rooms = store.flatten(0, 1).unbind(0)
    return list(zip(rooms[::2], rooms[1::2], strict=True))


def _write(room: Tensor, new: Tensor, mask: Mask) -> None:
    """New rows `[tokens, heads, …]` into `room [documents, heads, capacity, …]`, behind what each document has."""
    places = mask.kept(("places", room.device), lambda: _places(mask, room.device))
    room.transpose(1, 2).index_put_(places, new.to(room.dtype))


def _places(mask: Mask, device: torch.device) -> Pair:
    """The document and the slot of each new token."""
    counts = torch.tensor(mask.queries)
    document = torch.arange(len(counts)).repeat_interleave(counts)
    behind = torch.tensor(mask.keys) - mask.cu_queries[1:]
    return document.to(device), (torch.arange(len(document)) + behind[document]).to(device)


def _longer(tensor: Tensor, axis: int, size: int) -> Tensor:
    shape = list(tensor.shape)
    shape[axis] = size
    grown = tensor.new_zeros(shape)
    grown.narrow(axis, 0, tensor.shape[axis]).copy_(tensor)
    return grown
