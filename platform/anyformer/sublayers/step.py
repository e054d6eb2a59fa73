"""One more slot of every document, with all that differs from step to step in tensors: a graph of it has no length
written into it and serves them all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from anyformer.sublayers.cache import Pair


@dataclass(frozen=True)
class StepMask:
    """A `Mask` of one query for each document: where it stands among its document's keys, all of which up to itself
    it sees."""

    slots: Int64[Tensor, " documents"]
    window: int | None = None
    chunk: tuple[int, int] | None = None
    is_step = True

    def across(self, lengths: Int64[Tensor, " documents"]) -> StepMask:
        """See `Mask.across`."""
        return StepMask(lengths - 1)

    def windowed(self, window: int | None) -> StepMask:
        """See `Mask.windowed`."""
        return self if window is None else replace(self, window=window)

    def chunked(self, chunk: tuple[int, int] | None) -> StepMask:
        """See `Mask.chunked`."""
        return self if chunk is None else replace(self, chunk=chunk)

    def last_sees(self, room: int, device: torch.device) -> Bool[Tensor, "documents 1 1 room"]:
        """See `Mask.last_sees`."""
        slots, key = self.slots[:, None], torch.arange(room, device=device)
        seen = key <= slots
        if self.window is not None:
            seen = seen & (slots - key < self.window)
        if self.chunk is not None:
            size, before = self.chunk
            seen = seen & (slots // size - key // size <= before)
        return seen[:, None, None]


@dataclass(frozen=True)
class StepCache:
    """What a `Cache` keeps, as a step sees it: it fills a slot of each document and reads the first `read`.

    source, source_lengths: what cross-attention made of the source, and each document's length of it.
    """

    store: Float[Tensor, "layers 2 documents kv_heads capacity head_dim"]
    read: int
    source: Mapping[int, Pair]
    source_lengths: Int64[Tensor, " documents"]

    def extend(
        self,
        layer: int,
        keys: Float[Tensor, "documents kv_heads head_dim"],
        values: Float[Tensor, "documents kv_heads head_dim"],
        mask: StepMask,
    ) -> Pair:
        """See `Cache.extend`."""
        documents, heads = (torch.arange(size, device=keys.device) for size in keys.shape[:2])
        for which, new in enumerate((keys, values)):
            at, kind = (torch.full((), index, device=keys.device) for index in (layer, which))  # made on the device
            place = at, kind, documents[:, None], heads, mask.slots[:, None]
            self.store.index_put_(place, new.to(self.store.dtype))  # in a view of it, a graph would copy all of it
        k, v = (self.store[layer, which, :, :, : self.read] for which in (0, 1))
        return k, v

    def remember(self, layer: int, lengths: tuple[int, ...], make: Callable[[], Pair]) -> Pair:
        """See `Cache.remember`; what made it was an earlier pass."""
        return self.source[layer]
