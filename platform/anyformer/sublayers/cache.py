"""Keys and values of earlier tokens, preallocated; always an argument, never a module's state."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from anyformer.mask import Mask


class Cache:
    """Room for `capacity` tokens of each of `documents` sequences in every layer.

    A forward pass writes the new tokens' keys and values behind the `lengths` already there and reads all of
    them; `advance` then counts the new ones in. Grows by doubling when a sequence outgrows it.
    """

    def __init__(
        self, layers: int, documents: int, kv_heads: int, head_dim: int, *, capacity: int, like: Tensor
    ) -> None:
        shape = (layers, 2, documents, capacity, kv_heads, head_dim)
        self.lengths = [0] * documents
        self.store = torch.zeros(shape, dtype=like.dtype, device=like.device)

    def reserve(self, queries: tuple[int, ...]) -> None:
        """Make room for these many more tokens of each sequence."""
        needed = max(have + more for have, more in zip(self.lengths, queries, strict=True))
        capacity = self.store.shape[3]
        if needed > capacity:
            layers, two, documents, _, heads, dim = self.store.shape
            grown = self.store.new_zeros(layers, two, documents, max(needed, 2 * capacity), heads, dim)
            grown[:, :, :, :capacity] = self.store
            self.store = grown

    def mask(self, queries: tuple[int, ...], prefix: tuple[int, ...] | None = None) -> Mask:
        """The mask of these many new tokens behind what is cached; `prefix` counts from each sequence's start."""
        keys = tuple(have + more for have, more in zip(self.lengths, queries, strict=True))
        return Mask(queries, keys, prefix or (0,) * len(keys))

    def advance(self, queries: tuple[int, ...]) -> None:
        self.lengths = [have + more for have, more in zip(self.lengths, queries, strict=True)]

    def extend(
        self,
        layer: int,
        keys: Float[Tensor, "tokens kv_heads head_dim"],
        values: Float[Tensor, "tokens kv_heads head_dim"],
        mask: Mask,
    ) -> tuple[Tensor, Tensor]:
        """Write new keys and values; returns all of them, packed: `[sum of mask.keys, kv_heads, head_dim]`."""
        store = self.store[layer]
        new = torch.stack((keys, values))
        if len(set(mask.keys)) == 1 and len(set(mask.queries)) == 1:  # every sequence at the same length
            total, more = mask.keys[0], mask.queries[0]
            store[:, :, total - more : total] = new.unflatten(1, (len(mask.keys), more))
            packed = store[:, :, :total].flatten(1, 2)
            return packed[0], packed[1]
        for document, piece in enumerate(new.split(mask.queries, dim=1)):
            total = mask.keys[document]
            store[:, document, total - mask.queries[document] : total] = piece
        packed = torch.cat([store[:, document, :total] for document, total in enumerate(mask.keys)], dim=1)
        return packed[0], packed[1]
