"""Who may attend to whom, as one small object that every attention back end reads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Int32, Int64
from torch import Tensor

from anyformer.errors import MaskError


@dataclass(frozen=True)
class Mask:
    """Visibility inside packed documents.

    Document d has `queries[d]` consecutive queries and `keys[d]` consecutive keys; its queries are the last
    of its keys' slots (fewer queries than keys: the rest is in a cache). Query i of a document sees its key j
    when `j <= i` or `j < prefix[d]`, and, with a window, when `i - j < window`. So

    * causal is `prefix = 0`,
    * bidirectional is `prefix = keys`,
    * a bidirectional context followed by causal text is anything in between,
    * attention to another sequence (a decoder to its source) is `prefix = keys` with that sequence's keys.

    No query ever sees another document. The lengths are Python integers because every back end plans with
    them on the host; a device copy is made once, on first use.
    """

    queries: tuple[int, ...]
    keys: tuple[int, ...]
    prefix: tuple[int, ...]
    window: int | None = None

    def __post_init__(self) -> None:
        if not len(self.queries) == len(self.keys) == len(self.prefix):
            raise MaskError(
                f"A mask has {len(self.queries)} query lengths, {len(self.keys)} key lengths and "
                f"{len(self.prefix)} prefixes; expected one of each for every document."
            )
        if self.window is not None and self.window < 1:
            raise MaskError(f"A mask has window={self.window}; expected at least 1, or None for no window.")

    @classmethod
    def causal(cls, lengths: tuple[int, ...]) -> Mask:
        return cls(lengths, lengths, (0,) * len(lengths))

    @classmethod
    def bidirectional(cls, lengths: tuple[int, ...]) -> Mask:
        return cls(lengths, lengths, lengths)

    @classmethod
    def prefixed(cls, lengths: tuple[int, ...], prefix: tuple[int, ...]) -> Mask:
        return cls(lengths, lengths, prefix)

    def windowed(self, window: int | None) -> Mask:
        """The same mask, seen through a sliding window of `window` keys up to and including the query.

        None adds no window; of two windows the narrower one counts.
        """
        if window is None or (self.window is not None and self.window <= window):
            return self
        kept = self.__dict__.setdefault("_windowed", {})  # every layer asks, and back ends keep plans on the mask
        if window not in kept:
            kept[window] = replace(self, window=window)
        return kept[window]

    def visible(self, document: int) -> Bool[Tensor, "queries keys"]:
        """The document's dense mask, on the CPU: the definition every back end is tested against."""
        queries, keys, prefix = self.queries[document], self.keys[document], self.prefix[document]
        query = torch.arange(keys - queries, keys)[:, None]
        key = torch.arange(keys)[None, :]
        seen = (key <= query) | (key < prefix)
        return seen if self.window is None else seen & (query - key < self.window)

    def is_causal(self, document: int) -> bool:
        """Plain causal attention over equally many queries and keys (SDPA's `is_causal`)."""
        return self.window is None and self.prefix[document] <= 1 and self.queries[document] == self.keys[document]

    def is_full(self, document: int) -> bool:
        """Every query sees every key."""
        sees_all = self.prefix[document] >= self.keys[document] or self.queries[document] == 1
        return sees_all and (self.window is None or self.window >= self.keys[document])

    @cached_property
    def cu_queries(self) -> Int32[Tensor, " documents_plus_1"]:
        return cumulative(self.queries)

    @cached_property
    def cu_keys(self) -> Int32[Tensor, " documents_plus_1"]:
        return cumulative(self.keys)

    def document_of(self, lengths: tuple[int, ...]) -> Int64[Tensor, " tokens"]:
        """For each slot of a packed axis with these lengths, the document it belongs to."""
        return torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths, dtype=torch.int64))


def cumulative(lengths: tuple[int, ...]) -> Int32[Tensor, " documents_plus_1"]:
    """Where each document starts on the packed axis, and where the last one ends (`cu_seqlens`).

    >>> cumulative((2, 3)).tolist()
    [0, 2, 5]
    """
    ends = torch.tensor((0, *lengths), dtype=torch.int32)
    return ends.cumsum(0, dtype=torch.int32)
