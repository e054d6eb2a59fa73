"""Embed every stream, run the backbone once, read out at the slots that are predicted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor, nn

from anyformer.backbone import Backbone, BackboneConfig
from anyformer.batch import Batch
from anyformer.errors import ConfigError, unknown
from anyformer.sublayers import Cache, LinearEmbedding, LinearHead, TableEmbedding, TableHead
from anyformer.tokens import Stream, StreamSpec, spec_table, with_rank


class Network(nn.Module):
    """Everything that is learned.

    specs: the streams that may come in. heads: names of the streams that are predicted. tie: a discrete
    stream's default head shares the table of its default embedder. scale: multiply tables by √dim on the way in.
    """

    def __init__(
        self,
        specs: Iterable[StreamSpec],
        backbone: BackboneConfig,
        heads: Sequence[str],
        tie: bool = True,
        scale: bool = True,
    ) -> None:
        super().__init__()
        self.specs = spec_table(specs)
        if not self.specs:
            raise ConfigError("A model needs at least one stream; give it at least one tokenizer.")
        rank = backbone.rank or max(spec.rank for spec in self.specs.values())
        self.backbone = Backbone(replace(backbone, rank=rank))
        factor = backbone.dim**0.5 if scale else 1.0
        self.embedders = nn.ModuleDict(
            {_key(name): _embedder(spec, backbone.dim, factor) for name, spec in self.specs.items()}
        )
        self.heads = nn.ModuleDict({_key(name): self._head(name, backbone.dim, tie) for name in heads})

    @property
    def rank(self) -> int:
        """Position axes of the backbone."""
        return self.backbone.config.rank or 1

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def forward(self, batch: Batch, cache: Cache | None = None) -> Float[Tensor, "tokens dim"]:
        """Hidden states of every slot of a packed batch."""
        x = self.embed(batch)
        positions = with_rank(batch.positions, self.rank)  # a batch without pictures may come with one axis
        return self.backbone(x, positions, batch.mask, cache)

    def embed(self, batch: Batch) -> Float[Tensor, "tokens dim"]:
        """Each stream through its embedder, scattered to its slots."""
        for name in batch.streams:
            if name not in self.specs:
                raise unknown("stream", name, self.specs)
        pieces = [self.embedders[_key(name)](s.values, s.items) for name, s in batch.streams.items()]
        x = torch.zeros(batch.tokens, self.backbone.config.dim, device=self.device)
        if pieces:
            embedded = torch.cat(pieces)  # autocast may leave pieces in several precisions: cat widens them
            slots = torch.cat([stream.slots for stream in batch.streams.values()])
            x = x.to(embedded.dtype).index_copy(0, slots, embedded)
        return x + self._absent(batch) if _is_distributed() and self.training else x

    def read(self, name: str, hidden: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows width"]:
        """What the stream's head says at these hidden states: logits, or features."""
        if _key(name) not in self.heads:
            raise unknown("head", name, [spec for spec in self.specs if _key(spec) in self.heads])
        return self.heads[_key(name)](hidden)

    def _head(self, name: str, dim: int, tie: bool) -> nn.Module:
        if name not in self.specs:
            raise unknown("stream", name, self.specs)
        spec = self.specs[name]
        if spec.head is not None:
            return spec.head(dim)
        if not spec.is_discrete:
            return LinearHead(dim, spec.width)
        head, embedder = TableHead(dim, spec.width), self.embedders[_key(name)]
        if tie and isinstance(embedder, TableEmbedding):
            head.tie(embedder)
        return head

    def _absent(self, batch: Batch) -> Tensor:
        """Zero, through every module this batch does not use: all ranks must run the same modules each step,
        or the gradient exchange waits for ever."""
        total = torch.zeros((), device=self.device)
        for name, spec in self.specs.items():
            if name not in batch.streams:
                values = _one_item(spec, self.device)
                items = torch.tensor([[len(values), spec.slots(len(values))]], device=self.device)
                total = total + self.embedders[_key(name)](values, items).sum()
        predicted = {name for targets in batch.targets.values() for name in targets}
        for name in self.specs:
            if name not in predicted and _key(name) in self.heads:
                row = torch.zeros(1, self.backbone.config.dim, device=self.device)
                total = total + self.read(name, row).sum()
        return total * 0


class ForwardPass:
    """One batch on its way through one model. The hidden states are computed when first asked for."""

    def __init__(self, model: Network, batch: Batch) -> None:
        self.model = model
        self.batch = batch

    @cached_property
    def hidden(self) -> Float[Tensor, "tokens dim"]:
        return self.model(self.batch)

    def read(self, name: str, target: Stream) -> Float[Tensor, "rows width"]:
        """The head's answer at the target's slots only."""
        return self.model.read(name, self.hidden[target.slots])


def _key(name: str) -> str:
    """A stream's name as a module's, which may hold no dot (stream names hold no slash) and must not be an
    attribute that a ModuleDict has already, such as `values`."""
    key = name.replace(".", "/")
    return f"{key}/" if key in _TAKEN else key


_TAKEN = frozenset(dir(nn.ModuleDict()))


def _embedder(spec: StreamSpec, dim: int, scale: float) -> nn.Module:
    if spec.embedder is not None:
        return spec.embedder(dim)
    return TableEmbedding(spec.width, dim, scale) if spec.is_discrete else LinearEmbedding(spec.width, dim)


def _one_item(spec: StreamSpec, device: torch.device) -> Tensor:
    if spec.is_discrete:
        return torch.zeros(1, dtype=torch.int64, device=device)
    return torch.zeros(1, spec.width, device=device)


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
