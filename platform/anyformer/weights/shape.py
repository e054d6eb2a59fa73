"""How a published tensor is laid out beside ours: each layout is a pair of functions that undo each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from anyformer.errors import WeightsError

Config = dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """ours(theirs, argument, config) and theirs(ours, argument, config), for one tensor."""

    ours: Callable[[Tensor, Any, Config], Tensor]
    theirs: Callable[[Tensor, Any, Config], Tensor]


def _transposed(x: Tensor, argument: Any, config: Config) -> Tensor:
    return x.T if x.ndim == 2 else x


def _without_leading(x: Tensor, count: int, config: Config) -> Tensor:
    return x.reshape(x.shape[count:]) if set(x.shape[:count]) <= {1} else x


def _without_trailing(x: Tensor, argument: Any, config: Config) -> Tensor:
    return x[..., 0] if x.ndim == 3 and x.shape[-1] == 1 else x


def _with_trailing(x: Tensor, argument: Any, config: Config) -> Tensor:
    return x[..., None] if x.ndim == 2 else x


def _patches(x: Tensor, argument: Any, config: Config) -> Tensor:
    return x.flatten(1) if x.ndim == 4 else x


def _kernels(x: Tensor, channels: Any, config: Config) -> Tensor:
    """A patch's features run over channel, row, column; patches are square."""
    if x.ndim != 2:
        return x
    count = config.get(channels, 3) if isinstance(channels, str) else channels
    side = round((x.shape[1] // count) ** 0.5)
    return x.unflatten(1, (count, side, side))


def _by_part(x: Tensor, heads: list[str], config: Config) -> Tensor:
    """Rows of q, k and v head by head, as all of q, then all of k, then all of v. heads: keys that say how many."""
    return x.unflatten(0, (_first(config, heads), 3, -1)).transpose(0, 1).flatten(0, 2)


def _by_head(x: Tensor, heads: list[str], config: Config) -> Tensor:
    return x.unflatten(0, (3, _first(config, heads), -1)).transpose(0, 1).flatten(0, 2)


def _first(config: Config, keys: list[str]) -> int:
    return next(config[key] for key in keys if key in config)


LAYOUTS: dict[str, Layout] = {
    "transpose": Layout(_transposed, _transposed),  # a Conv1D keeps [in, out]
    "leading": Layout(_without_leading, lambda x, count, config: x.reshape((1,) * count + tuple(x.shape))),
    "pointwise": Layout(_without_trailing, _with_trailing),  # a convolution of kernel 1 is a linear map
    "heads": Layout(_by_part, _by_head),
    "patches": Layout(_patches, _kernels),  # a convolution with stride = kernel is a linear map of patches
}
"""Each applies to weights of the rank that it is about; biases beside them pass unchanged."""


@dataclass(frozen=True)
class Entry:
    """Where one of our tensors comes from.

    sources: names of theirs; several are laid one below the other, by our projection's own sizes where `parts` names
    its parts (q, k, v; gate, value; those that it does not have are left out), else in equal shares.
    layouts: applied to each on the way in. row: one row of a larger table, with the config's key of its size.
    share: (first, last, of), equal shares of a larger matrix. optional: their file may lack it, and ours then keeps
    what it was made with. computed: the same, and their library does not write it either.
    """

    sources: tuple[str, ...]
    parts: tuple[str, ...] = ()
    layouts: dict[str, Any] = field(default_factory=dict)
    row: tuple[int, str] | None = None
    share: tuple[int, int, int] | None = None
    optional: bool = False
    computed: bool = False

    @classmethod
    def of(cls, data: Any) -> Entry:
        if isinstance(data, str):
            return cls((data,))
        if isinstance(data, list):
            return cls(tuple(data))
        settings = dict(data)
        if "from" not in settings:
            return cls(tuple(settings.values()), tuple(settings))
        sources = cls.of(settings.pop("from"))
        computed = settings.pop("computed", False)
        optional = settings.pop("optional", computed)
        row, share = (tuple(settings.pop(key, ())) or None for key in ("row", "share"))
        unknown = set(settings) - set(LAYOUTS)
        if unknown:
            raise WeightsError(f"A weights table has no layout {sorted(unknown)[0]!r}; expected {sorted(LAYOUTS)}.")
        return cls(sources.sources, sources.parts, settings, row, share, optional, computed)

    def gather(self, tensors: list[Tensor], config: Config) -> Tensor:
        """Ours from theirs."""
        for name, argument in self.layouts.items():
            tensors = [LAYOUTS[name].ours(x, argument, config) for x in tensors]
        if self.row is not None:
            return tensors[0][self.row[0]]
        if self.share is not None:
            first, last, of = self.share
            return torch.cat(tensors[0].chunk(of)[first:last])
        return tensors[0] if len(tensors) == 1 else torch.cat(tensors)

    def scatter(self, ours: Tensor, sizes: list[int] | None, config: Config) -> list[Tensor]:
        """Theirs from ours. `sizes`: rows of each part; equal shares by default."""
        if self.row is not None:
            table = ours.new_zeros(config[self.row[1]], *ours.shape)
            table[self.row[0]] = ours
            return [table]
        if self.share is not None:
            first, last, of = self.share
            size = len(ours) // (last - first)
            whole = ours.new_zeros(size * of, *ours.shape[1:])
            whole[first * size : last * size] = ours
            return [whole]
        count = len(self.sources)
        if count == 1:
            pieces = [ours]
        else:
            pieces = list(ours.split(sizes) if sizes else ours.chunk(count))
        for name, argument in reversed(self.layouts.items()):
            pieces = [LAYOUTS[name].theirs(x, argument, config) for x in pieces]
        return pieces

    def shapes(self, ours: Tensor, sizes: list[int] | None, config: Config) -> list[torch.Size]:
        """Those that theirs must have, to become a tensor shaped as ours."""
        return [piece.shape for piece in self.scatter(ours.new_zeros(()).expand(ours.shape), sizes, config)]

    def laid_into(self, kept: Tensor | None, piece: Tensor) -> Tensor:
        """A part of a larger tensor, in its place among what is there already."""
        if kept is None or (self.row is None and self.share is None):
            return piece
        kept = kept.clone()
        if self.row is not None:
            kept[self.row[0]] = piece[self.row[0]]
        else:
            first, last, of = self.share or (0, 1, 1)
            size = len(kept) // of
            kept[first * size : last * size] = piece[first * size : last * size]
        return kept
