"""Keys, values and positions of earlier tokens, preallocated; always an argument, never a module's state."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from anyformer.mask import Mask, cumulative

Pair = tuple[Tensor, Tensor]


class Cache:
    """Room for `capacity` tokens of each of `documents` sequences in every layer.

    A forward pass writes the new tokens' keys and values behind the `lengths` already there and reads all of
    them; `advance` then counts the new ones in. Grows by doubling when a sequence outgrows it. What cross-attention
    makes of the source is computed once, on the first pass, and kept in `source`.
    """

    def __init__(
        self, layers: int, documents: int, kv_heads: int, head_dim: int, *, rank: int, capacity: int, like: Tensor
    ) -> None:
        self.lengths = [0] * documents
        self.store = like.new_zeros(layers, 2, documents, capacity, kv_heads, head_dim)
        self.positions = torch.zeros(documents, capacity, rank, dtype=torch.int64, device=like.device)
        self.source: dict[int, Pair] = {}
        self.source_lengths: tuple[int, ...] = ()
        self.source_of: list[int] = []  # which of the sources that were remembered each sequence reads

    def reserve(self, queries: tuple[int, ...]) -> None:
        """Make room for these many more tokens of each sequence."""
        needed = max(have + more for have, more in zip(self.lengths, queries, strict=True))
        if needed > self.store.shape[3]:
            capacity = max(needed, 2 * self.store.shape[3])
            self.store = _longer(self.store, 3, capacity)
            self.positions = _longer(self.positions, 1, capacity)

    def mask(self, queries: tuple[int, ...], prefix: tuple[int, ...] | None = None) -> Mask:
        """The mask of these many new tokens behind what is cached; `prefix` counts from each sequence's start."""
        keys = tuple(have + more for have, more in zip(self.lengths, queries, strict=True))
        return Mask(queries, keys, prefix or (0,) * len(keys))

    def advance(self, queries: tuple[int, ...]) -> None:
        self.lengths = [have + more for have, more in zip(self.lengths, queries, strict=True)]

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these sequences, in this order, each as often as it is named: a beam search's next beams."""
        index = torch.tensor(rows, dtype=torch.int64, device=self.store.device)
        self.store, self.positions = self.store.index_select(2, index), self.positions.index_select(0, index)
        self.lengths = [self.lengths[row] for row in rows]
        read = [self.source_of[row] for row in rows] if self.source else []
        if read != self.source_of:  # beams of one prompt change places and read the same
            where = rows_of(self.source_lengths, rows).to(self.store.device)
            self.source = {layer: (k[where], v[where]) for layer, (k, v) in self.source.items()}
            self.source_lengths = tuple(self.source_lengths[row] for row in rows)
            self.source_of = read

    def extend(
        self,
        layer: int,
        keys: Float[Tensor, "tokens kv_heads head_dim"],
        values: Float[Tensor, "tokens kv_heads head_dim"],
        mask: Mask,
    ) -> Pair:
        """Write new keys and values; returns all of them, packed: `[sum of mask.keys, kv_heads, head_dim]`."""
        packed = _write(self.store[layer], torch.stack((keys, values)), mask)
        return packed[0], packed[1]

    def place(self, positions: Int64[Tensor, "tokens rank"], mask: Mask) -> Int64[Tensor, "keys rank"]:
        """Write the new tokens' positions; returns every key's."""
        return _write(self.positions[None], positions[None], mask)[0]

    def remember(self, layer: int, lengths: tuple[int, ...], make: Callable[[], Pair]) -> Pair:
        """Keys and values of the source for one layer, made on the first pass."""
        if layer not in self.source:
            self.source[layer], self.source_lengths = make(), lengths
            self.source_of = list(range(len(lengths)))
        return self.source[layer]


def rows_of(lengths: tuple[int, ...], documents: Sequence[int]) -> Int64[Tensor, " rows"]:
    """Where these documents stand on a packed axis, in this order."""
    starts = cumulative(lengths).tolist()
    return torch.cat([torch.arange(starts[d], starts[d + 1]) for d in documents] or [torch.zeros(0, dtype=torch.int64)])


def _write(store: Tensor, new: Tensor, mask: Mask) -> Tensor:
    """Into `store [n, documents, capacity, …]` behind what is there; returns all of it, packed: `[n, keys, …]`."""
    if len(set(mask.keys)) == 1 and len(set(mask.queries)) == 1:  # every sequence at the same length
        total, more = mask.keys[0], mask.queries[0]
        store[:, :, total - more : total] = new.unflatten(1, (len(mask.keys), more))
        return store[:, :, :total].flatten(1, 2)
    for document, piece in enumerate(new.split(mask.queries, dim=1)):
        total = mask.keys[document]
        store[:, document, total - mask.queries[document] : total] = piece
    return torch.cat([store[:, document, :total] for document, total in enumerate(mask.keys)], dim=1)


def _longer(tensor: Tensor, axis: int, size: int) -> Tensor:
    shape = list(tensor.shape)
    shape[axis] = size
    grown = tensor.new_zeros(shape)
    grown.narrow(axis, 0, tensor.shape[axis]).copy_(tensor)
    return grown
