"""Who may attend to whom, as one small object that every attention back end reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int32, Int64
from torch import Tensor

from anyformer.errors import MaskError

T = TypeVar("T")


@dataclass(frozen=True)
class Mask:
    """Visibility inside packed documents.

    Document d has `queries[d]` consecutive queries and `keys[d]` consecutive keys; its queries are the last
    of its keys' slots (fewer queries than keys: the rest is in a cache). Query i of a document sees its key j
    when `j < prefix[d]` or, where `autoregressive`, when `j <= i`; with a window, only when `|i - j| < window`;
    with a chunk `(size, before)`, only when `0 <= i // size - j // size <= before`. So

    * causal is `prefix = 0`,
    * bidirectional is `prefix = keys`,
    * a bidirectional context followed by causal text is anything in between,
    * attention to another sequence (a decoder to its source) is `across`: that sequence's keys, all of them,
    * and `autoregressive = False` with a shorter prefix hides the last keys from everybody (padding that must stay).

    No query ever sees another document. The lengths are Python integers because every back end plans with
    them on the host; a device copy is made once, on first use.
    """

    queries: tuple[int, ...]
    keys: tuple[int, ...]
    prefix: tuple[int, ...]
    window: int | None = None
    autoregressive: bool = True
    chunk: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not len(self.queries) == len(self.keys) == len(self.prefix):
            raise MaskError(
                f"A mask has {len(self.queries)} query lengths, {len(self.keys)} key lengths and "
                f"{len(self.prefix)} prefixes; expected one of each for every document."
            )
        if self.window is not None and self.window < 1:
            raise MaskError(f"A mask has window={self.window}; expected at least 1, or None for no window.")
        if self.chunk is not None and (self.chunk[0] < 1 or self.chunk[1] < 0):
            raise MaskError(
                f"A mask has chunk={self.chunk}; expected (slots, at least 1; chunks before it, at least 0)."
            )

    @classmethod
    def causal(cls, lengths: tuple[int, ...]) -> Mask:
        return cls(lengths, lengths, (0,) * len(lengths))

    @classmethod
    def bidirectional(cls, lengths: tuple[int, ...]) -> Mask:
        return cls(lengths, lengths, lengths)

    @classmethod
    def prefixed(cls, lengths: tuple[int, ...], prefix: tuple[int, ...]) -> Mask:
        return cls(lengths, lengths, prefix)

    def across(self, keys: tuple[int, ...]) -> Mask:
        """The same queries, each seeing all of its document's keys on another axis."""
        return self.kept(("across", keys), lambda: Mask(self.queries, keys, keys, autoregressive=False))

    def windowed(self, window: int | None) -> Mask:
        """The same mask, seen through a sliding window: `window` keys up to and including the query, and as many
        from the query on where later keys are seen at all.

        None adds no window; of two windows the narrower one counts.
        """
        if window is None or (self.window is not None and self.window <= window):
            return self
        return self.kept(("windowed", window), lambda: replace(self, window=window))

    def chunked(self, chunk: tuple[int, int] | None) -> Mask:
        """The same mask in chunks (Zhang et al. 2020, arXiv:2012.05481 §3.2): what is heard can be answered a chunk at
        a time. None adds none; a mask that has some keeps its own."""
        if chunk is None or self.chunk is not None:
            return self
        return self.kept(("chunked", chunk), lambda: replace(self, chunk=chunk))

    def kept(self, key: tuple, make: Callable[[], T]) -> T:
        """Made once, on first use: every layer asks for the same masks, and back ends for their plans."""
        kept = self.__dict__.setdefault("_derived", {})
        if key not in kept:
            kept[key] = make()
        return kept[key]

    def visible(self, document: int) -> Bool[Tensor, "queries keys"]:
        """The document's dense mask, on the CPU: the definition every back end is tested against."""
        return self.visible_together([document])[0]

    def visible_together(self, documents: Sequence[int]) -> Bool[Tensor, "documents queries keys"]:
        """Dense masks of several documents, padded behind to the most queries and keys; nobody sees a padding key."""
        shapes = [(self.queries[d], self.keys[d], self.prefix[d]) for d in documents]
        queries, keys, prefix = torch.tensor(shapes, dtype=torch.int64).view(-1, 3, 1, 1).unbind(1)
        query = torch.arange(max(shape[0] for shape in shapes))[:, None] + (keys - queries)
        key = torch.arange(max(shape[1] for shape in shapes))
        seen = (key < prefix) | (key <= query) if self.autoregressive else (key < prefix).expand(*query.shape[:2], -1)
        seen = seen & (key < keys)
        if self.chunk is not None:
            size, before = self.chunk
            back = query // size - key // size
            seen = seen & (back >= 0) & (back <= before)
        return seen if self.window is None else seen & ((query - key).abs() < self.window)

    def is_causal(self, document: int) -> bool:
        """Plain causal attention over equally many queries and keys (SDPA's `is_causal`)."""
        plain = self.autoregressive and self.window is None and self.chunk is None and self.prefix[document] <= 1
        return plain and self.queries[document] == self.keys[document]

    def is_full(self, document: int) -> bool:
        """Every query sees every key."""
        sees_all = self.prefix[document] >= self.keys[document] or (self.autoregressive and self.queries[document] == 1)
        if self.chunk is not None and self.chunk[0] < self.keys[document]:
            return False
        return sees_all and (self.window is None or self.window >= max(self.queries[document], self.keys[document]))

    def sees_nothing(self, document: int) -> bool:
        """No query sees any key: there is none, or all are hidden."""
        return self.keys[document] == 0 or (not self.autoregressive and self.prefix[document] == 0)

    @cached_property
    def is_even(self) -> bool:
        """All documents have as many queries as each other, and as many keys."""
        return len(set(self.queries)) == len(set(self.keys)) == 1

    @cached_property
    def is_step(self) -> bool:
        """One query for every document, and each sees something."""
        plain = self.autoregressive or (self.window is None and self.chunk is None)
        seen = 0 not in self.keys and (self.autoregressive or 0 not in self.prefix)
        return plain and seen and set(self.queries) == {1}

    @cached_property
    def hides_nothing(self) -> bool:
        """Every query sees every key of its document."""
        shapes = zip(self.queries, self.keys, self.prefix, strict=True)
        one_of_each = {shape: document for document, shape in enumerate(shapes)}
        return all(map(self.is_full, one_of_each.values()))

    def last_sees(self, room: int, device: torch.device) -> Bool[Tensor, "documents 1 1 room"] | None:
        """Of a step: which keys each document's query sees, in room for so many; None where all see all of it."""
        return self.kept(("step", room, device), lambda: self._last_sees(room, device))

    def _last_sees(self, room: int, device: torch.device) -> Bool[Tensor, "documents 1 1 room"] | None:
        if self.is_even and self.hides_nothing and self.keys[0] == room:
            return None
        seen = self.visible_together(range(len(self.queries)))[:, None]
        return F.pad(seen, (0, room - seen.shape[-1])).to(device)

    @property
    def hides_later_keys(self) -> bool:
        """Some query may not see a key because it stands behind it."""
        return self.autoregressive and not self.hides_nothing

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
