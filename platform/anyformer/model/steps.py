"""Steps of generation as one compiled graph."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from anyformer.backbone import Backbone
from anyformer.errors import ConfigError
from anyformer.sublayers import Cache, Experts, Memory, is_backend_set
from anyformer.sublayers.step import StepCache, StepMask

ROOM = 128
"""A CUDA graph is recorded for each number of keys, so there they grow by so many at once."""

INDUCTOR: dict[str, dict[str, Any]] = {"cpu": {"cpp_wrapper": True}, "cuda": {"triton.cudagraphs": True}}
"""What torch.compile's own back end is asked for: on a processor, where the calls between operators are dear, C++ for
them too; on a GPU a CUDA graph that is replayed."""


class Steps:
    """One more slot for every sequence through a backbone, by one graph for any number of sequences and keys.

    backend: of torch.compile.
    """

    def __init__(self, backbone: Backbone, backend: str | Callable) -> None:
        _check(backbone)
        self.backbone, self.backend = backbone, backend
        self.graphs: dict[str, Callable] = {}  # by kind of device

    def graph(self, device: torch.device) -> Callable:
        """Of `_step`, for this kind of device."""
        if device.type not in self.graphs:
            options = INDUCTOR.get(device.type) if self.backend == "inductor" else None
            self.graphs[device.type] = torch.compile(
                _anew(_step), fullgraph=True, backend=self.backend, options=options
            )
        return self.graphs[device.type]

    @property
    def ready(self) -> bool:
        """Whether the graph says what the backbone would: it knows no dropout and no other attention."""
        return not self.backbone.training and not is_backend_set()

    def __call__(
        self, x: Float[Tensor, "documents width"], positions: Int64[Tensor, "documents rank"], cache: Cache
    ) -> Float[Tensor, "documents dim"]:
        """As the backbone's forward with this cache, which has room for one more and has read the source before."""
        self.backbone.positions.check(positions)
        counted = torch.tensor((cache.lengths, cache.source_lengths or cache.lengths), device=x.device)
        where = torch.cat((counted.T, positions), 1)
        read = x.new_empty(self._read(cache, x.is_cuda), 0)  # its length is a symbol; a number would be a constant
        torch._dynamo.maybe_mark_dynamic(x, 0)
        torch._dynamo.maybe_mark_dynamic(where, 0)
        torch._dynamo.maybe_mark_dynamic(read, 0)
        torch._dynamo.maybe_mark_dynamic(cache.store, (2, 4))
        for pair in cache.source.values():
            for each in pair:
                torch._dynamo.maybe_mark_dynamic(each, (0, 1))
        if x.is_cuda:
            torch._dynamo.mark_static_address(cache.store, guard=False)
        torch.compiler.cudagraph_mark_step_begin()
        found = self.graph(x.device)(self.backbone, x, where, cache.store, read, cache.source)
        return found.clone()  # the next replay of a CUDA graph writes to the same place

    def _read(self, cache: Cache, on_gpu: bool) -> int:
        longest = max(2, max(cache.lengths) + 1)  # a graph for one would serve no other
        return min(-(-longest // ROOM) * ROOM, cache.capacity) if on_gpu else longest


def _step(backbone, x, where, store, read, source):
    slots, lengths, positions = where[:, 0], where[:, 1], where[:, 2:]
    memory = Memory(x[:0], ()) if source else None  # what it was is in the cache
    return backbone(x, positions, StepMask(slots), memory, StepCache(store, len(read), source, lengths))


def _anew(function: FunctionType) -> FunctionType:
    """The same function. torch.compile counts the graphs of its code, and makes no more than a few: other networks'
    shall not be among them."""
    return FunctionType(function.__code__.replace(), function.__globals__, function.__name__)


def _check(backbone: Backbone) -> None:
    """ConfigError where no one graph serves all lengths."""
    why = None
    if backbone.positions.compares:
        why = "its positions are compared with those of all keys"
    elif any(isinstance(part, Experts) for part in backbone.modules()):
        why = "its experts get as many tokens as the data say"
    if why is not None:
        raise ConfigError(f"No one graph serves all steps of this stack, for {why}; leave its steps as they are.")
