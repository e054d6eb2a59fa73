"""Embed every stream, run the stacks once, read out at the slots that are predicted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache, cached_property
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from anyformer.architecture import Architecture, BackboneConfig, RecurrentConfig, StackConfig
from anyformer.backbone import NO_PROBE, Backbone, encoder_probe
from anyformer.batch import Batch
from anyformer.errors import ConfigError, unknown
from anyformer.model.embedders import default_embedder, read_as, stream_spec
from anyformer.model.heads import Head
from anyformer.model.steps import Steps
from anyformer.recurrent import Recurrent, recurrent_stack
from anyformer.sublayers import Cache, Memory, Probe
from anyformer.tokens import Stream, StreamSpec, spec_table, with_rank


class Network(nn.Module):
    """Everything that is learned: an embedder for each stream that comes in, one or two stacks, a head for each
    stream that is predicted.

    specs: the streams that tokenizers bring; those that the architecture brings itself are added.
    """

    def __init__(self, specs: Iterable[StreamSpec], architecture: Architecture) -> None:
        super().__init__()
        brought = spec_table(specs)
        own = {name: stream_spec(name, config) for name, config in architecture.streams.items()}
        for name in brought.keys() & own.keys():
            if brought[name].width != own[name].width:
                raise ConfigError(
                    f"Stream {name!r} has {brought[name].width} values or features by its tokenizer, but the "
                    f"architecture was made for {own[name].width}."
                )
        self.specs = own | {name: read_as(spec, own[name]) if name in own else spec for name, spec in brought.items()}
        if not self.specs:
            raise ConfigError("A model needs at least one stream; give it at least one tokenizer.")
        self.architecture = architecture
        self.backbone = make_stack(self._ranked(architecture.backbone))
        self.encoder = None if architecture.encoder is None else make_stack(self._ranked(architecture.encoder))
        self.embedders = nn.ModuleDict(
            {module_key(name): self._embedder(spec) for name, spec in self.specs.items() if spec.input}
        )
        self.heads = nn.ModuleDict({module_key(name): self._head(name) for name in architecture.heads})
        self.steps: Steps | None = None

    @property
    def rank(self) -> int:
        """Position axes of the backbone."""
        return self.backbone.config.rank or 1

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def forward(self, batch: Batch, cache: Cache | None = None, probe: Probe = NO_PROBE) -> Float[Tensor, "tokens dim"]:
        """Hidden states of every slot of a packed batch. probe: hooks by site (see Probe)."""
        memory = None if batch.source is None else self.encode(batch.source, probe)
        return self.decode(batch, memory, cache, probe)

    def encode(self, source: Batch, probe: Probe = NO_PROBE) -> Memory:
        """The source axis through the encoder."""
        if self.encoder is None:
            raise ConfigError("The batch has a source, but the model has no encoder to read it.")
        x = self.embed(source, self.encoder.config)
        positions = with_rank(source.positions, self.encoder.config.rank or 1)
        states = self.encoder(x, positions, source.mask, probe=encoder_probe(probe))
        return Memory(states, source.mask.queries)

    def decode(
        self, batch: Batch, memory: Memory | None, cache: Cache | None = None, probe: Probe = NO_PROBE
    ) -> Float[Tensor, "tokens dim"]:
        """The target axis through the backbone."""
        x = self.embed(batch, self.backbone.config)
        positions = with_rank(batch.positions, self.rank)  # a batch without pictures may come with one axis
        return self.backbone(x, positions, batch.mask, memory, cache, probe)

    def compile_blocks(self, backend: str | Callable = "inductor") -> None:
        """Of both stacks: see `Backbone.compile_blocks`. ConfigError for a recurrent one."""
        for stack in (self.backbone, self.encoder):
            if isinstance(stack, Backbone):
                stack.compile_blocks(backend)
            elif stack is not None:
                raise ConfigError("A recurrent stack has no blocks to compile; leave `compile` out.")

    def compile_steps(self, backend: str | Callable = "inductor") -> None:
        """Let torch.compile, with this back end, make one graph of what one more slot of every sequence passes in the
        backbone, which sessions use that begin from now on. ConfigError for a stack that cannot.

        A copy of the model is as it was made. The first step waits for the graph (half a minute or more).
        """
        if not isinstance(self.backbone, Backbone):
            raise ConfigError("A recurrent stack has no steps to compile; leave them as they are.")
        self.steps = Steps(self.backbone, backend)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "steps": None}  # as a module's own compiled call is left out

    def embed(self, batch: Batch, stack: StackConfig) -> Float[Tensor, "tokens width"]:
        """Each stream through its embedder, laid at its slots; overlays are added to what is there."""
        for name in batch.streams:
            if name not in self.specs or not self.specs[name].input:
                raise unknown("stream", name, [spec.name for spec in self.specs.values() if spec.input])
        own = {name: s for name, s in batch.streams.items() if not self.specs[name].overlay}
        x = torch.zeros(batch.tokens, stack.embed_width, device=self.device)
        if own:
            # autocast may leave pieces in several precisions: cat widens them
            embedded = torch.cat([self.embedders[module_key(name)](s.values, s.items) for name, s in own.items()])
            slots = torch.cat([stream.slots for stream in own.values()])
            x = x.to(embedded.dtype).index_copy(0, slots, embedded)
        for name, stream in batch.streams.items():
            if self.specs[name].overlay:
                added = self.embedders[module_key(name)](stream.values, stream.items)
                x = x.index_add(0, stream.slots, added.to(x.dtype))
        return x + self._absent(batch) if _is_distributed() and self.training else x

    def embed_each(self, name: str, values: Tensor) -> Float[Tensor, "values width"]:
        """Values of one stream, each an item of its own that fills one slot: as `embed` of nothing else."""
        items = values.new_ones(len(values), 2, dtype=torch.int64)
        return self.embedders[module_key(name)](values, items)

    def read(self, name: str, hidden: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows width"]:
        """What the stream's head says at these hidden states: logits, or features."""
        return self.head(name)(hidden)

    def head(self, name: str) -> nn.Module:
        """The stream's head."""
        if module_key(name) not in self.heads:
            raise unknown("head", name, [spec for spec in self.specs if module_key(spec) in self.heads])
        return self.heads[module_key(name)]

    def _ranked(self, config: StackConfig) -> StackConfig:
        """As many position axes as the stack's streams have, unless it says itself."""
        stacks = {name: self.architecture.stack_of(name) for name in self.specs}
        ranks = [spec.rank for name, spec in self.specs.items() if stacks[name] is config]
        return replace(config, rank=config.rank or max(ranks, default=1))

    def _embedder(self, spec: StreamSpec) -> nn.Module:
        stack = self.architecture.stack_of(spec.name)
        scale = stack.embed_width**0.5 if self.architecture.scale else 1.0
        return default_embedder(spec, stack.embed_width, scale, stack.init_std)

    def _head(self, name: str) -> nn.Module:
        if name not in self.specs:
            raise unknown("stream", name, self.specs)
        spec, config, stack = self.specs[name], self.architecture.heads[name], self.architecture.backbone
        if spec.head is not None:
            return spec.head(stack.width)
        head = Head(stack.width, spec.width, config, stack.init_std)
        if config.tie:
            other = name if config.tie is True else config.tie
            if module_key(other) not in self.embedders:
                raise unknown("stream to tie to", other, self.specs)
            head.tie(other, self.embedders[module_key(other)])
        return head

    def _absent(self, batch: Batch) -> Tensor:
        """Zero, through every module this batch does not use: all ranks must run the same modules each step,
        or the gradient exchange waits for ever."""
        total = torch.zeros((), device=self.device)
        for name, spec in self.specs.items():
            if spec.input and name not in batch.streams:
                values = _one_item(spec, self.device)
                items = torch.tensor([[len(values), spec.slots(len(values))]], device=self.device)
                total = total + self.embedders[module_key(name)](values, items).sum()
        predicted = {name for targets in batch.targets.values() for name in targets}
        for name in self.specs:
            if name not in predicted and module_key(name) in self.heads:
                row = torch.zeros(1, self.backbone.config.width, device=self.device)
                total = total + self.read(name, row).sum()
        return total * 0


class ForwardPass:
    """One batch on its way through one model. The hidden states are computed when first asked for."""

    def __init__(self, model: Network, batch: Batch) -> None:
        self.model = model
        self.batch = batch
        self.balance: list[Tensor] = []  # what mixtures of experts add to the loss of the batch

    @cached_property
    def hidden(self) -> Float[Tensor, "tokens dim"]:
        return self.model.decode(self.batch, self.memory, probe=self._probe)

    @cached_property
    def memory(self) -> Memory | None:
        """What the encoder makes of the source, where the batch has one."""
        return None if self.batch.source is None else self.model.encode(self.batch.source, self._probe)

    @property
    def _probe(self) -> Probe:
        sites = ("feed_forward.balance", "encoder.feed_forward.balance")
        return dict.fromkeys(sites, lambda layer, loss: self.balance.append(loss))

    def read(self, name: str, target: Stream) -> Float[Tensor, "rows width"]:
        """The head's answer at the target's slots only."""
        return self.model.read(name, self.hidden[target.slots])

    def read_pooled(self, name: str, target: Stream) -> Float[Tensor, "items width"]:
        """The head's one answer for each item of the target, from the mean of the hidden states at its slots: global
        average pooling (Lin et al., arXiv:1312.4400 §3.2) where an item covers its sequence."""
        return self.model.read(name, pooled(self.hidden, target))

    def read_each(self, name: str, target: Stream) -> Float[Tensor, "values width"]:
        """A row for each value of the target, by what it is: at its own slot; where one value stands for an item of
        several slots, from their mean; and where it is the place of one of them, a number for each.

        ConfigError where values have no rows of their own, as in CTC.
        """
        if not self.model.specs[name].is_discrete and not target.values.is_floating_point():
            return by_item(self.read(name, target)[:, 0], target.items[:, 1])
        if len(target.values) == len(target.slots):
            return self.read(name, target)
        if len(target.values) == len(target.items):
            return self.read_pooled(name, target)
        raise ConfigError(
            f"A target in stream {name!r} has {len(target.values)} values in {len(target.items)} items of "
            f"{len(target.slots)} slots; expected one value a slot, or one an item."
        )


def pooled(hidden: Float[Tensor, "tokens dim"], target: Stream) -> Float[Tensor, "items dim"]:
    """The mean of the hidden states at each item's slots, in float32 or wider; an item of one slot is its row."""
    rows, sizes = hidden[target.slots], target.items[:, 1]
    if len(rows) == len(sizes):
        return rows
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    item = torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes, output_size=len(rows))
    return rows.new_zeros(len(sizes), rows.shape[1]).index_add(0, item, rows) / sizes[:, None]


def by_item(numbers: Float[Tensor, " slots"], sizes: Int64[Tensor, " items"]) -> Float[Tensor, "items widest"]:
    """The logits of a choice among each item's slots; an item of fewer slots than the widest has no chance there.

    >>> by_item(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1, 2])).tolist()
    [[1.0, -inf], [2.0, 3.0]]
    """
    return nn.utils.rnn.pad_sequence(list(numbers.split(sizes.tolist())), True, float("-inf"))


@cache
def module_key(name: str) -> str:
    """A stream's name as a module's, which may hold no dot (stream names hold no slash) and must not be an
    attribute that a ModuleDict has already, such as `values`."""
    key = name.replace(".", "/")
    return f"{key}/" if key in _TAKEN else key


_TAKEN = frozenset(dir(nn.ModuleDict()))


STACKS: dict[type, Callable[..., Backbone | Recurrent]] = {BackboneConfig: Backbone, RecurrentConfig: recurrent_stack}
"""The kinds of stack, by the type of their settings."""


def make_stack(config: StackConfig) -> Backbone | Recurrent:
    return STACKS[type(config)](config)


def _one_item(spec: StreamSpec, device: torch.device) -> Tensor:
    if spec.is_discrete:
        return torch.zeros(1, dtype=torch.int64, device=device)
    return torch.zeros(1, spec.width, device=device)


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
