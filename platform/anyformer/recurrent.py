"""RNNsearch (Bahdanau, Cho, Bengio, arXiv:1409.0473, appendix A): recurrent stacks in the transformer's place.

Without biases, as in the paper's equations. Time is the order of the tokens; positions are not read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from anyformer.architecture import RecurrentConfig
from anyformer.backbone import NO_PROBE
from anyformer.errors import ConfigError, MaskError, unknown
from anyformer.mask import Mask, cumulative
from anyformer.sublayers import Cache, Context, Memory, Placement, Probe

Linear = partial(nn.Linear, bias=False)


class RecurrentEncoder(nn.Module):
    """Annotations `[forward; backward]`: the states of one unit that reads each document from its start, and of one
    that reads it from its end (A.2.1)."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__()
        _expect_positive(config, "dim", "hidden")
        self.config = config
        self.forward_unit = GatedUnit(config.dim, config.hidden)
        self.backward_unit = GatedUnit(config.dim, config.hidden)
        self.dropout = nn.Dropout(config.dropout)
        _initialise(self)

    def forward(
        self,
        x: Float[Tensor, "tokens dim"],
        positions: Int64[Tensor, "tokens rank"],
        mask: Mask,
        memory: Memory | None = None,
        cache: Cache | None = None,
        probe: Probe = NO_PROBE,
    ) -> Float[Tensor, "tokens 2*hidden"]:
        if not all(map(mask.is_full, range(len(mask.queries)))):
            raise MaskError(
                "A recurrent encoder reads documents whole and in both directions, but the mask hides some tokens; "
                "give each example that it reads prefix=tokens.length."
            )
        context = Context(Placement(), mask, memory, cache, probe)
        x = context.see("entry", 0, self.dropout(x))
        grid = Grid.of(mask.queries, x.device)
        read = self._read(self.forward_unit, x, grid), self._read(self.backward_unit, x, grid.backwards())
        return context.see("hidden", 0, self.dropout(context.see("block", 0, torch.cat(read, -1))))

    def _read(self, unit: GatedUnit, x: Tensor, grid: Grid) -> Float[Tensor, "tokens hidden"]:
        states = [x.new_zeros(len(grid.lengths), self.config.hidden)]
        for driven in grid.spread(unit.input(x)).unbind(1):
            states.append(unit(driven, states[-1]))
        return grid.collect(torch.stack(states, 1)[:, 1:])

    def new_cache(self, documents: int, capacity: int = 0) -> Cache:
        raise ConfigError("A recurrent encoder reads documents whole and cannot go on with them; use a decoder.")


class RecurrentDecoder(nn.Module):
    """A unit that attends to the annotations before each step, and a deep output (A.2.2).

    Row i of what leaves is t_i, from the token y there, the state s that the tokens before it have left, and the
    context c that this state attends to. The probe's site "block" is that s: what it is changed to, t_i is made of.
    """

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__()
        _expect_positive(config, "dim", "hidden", "align", "maxout", "memory_dim")
        width = config.memory_dim or 0
        if width % 2:
            raise ConfigError(f"memory_dim={width}; expected an even number, a forward and a backward half.")
        self.config = config
        self.initial = Linear(width // 2, config.hidden)  # W_s
        self.attention = AdditiveAttention(config.hidden, width, config.align)
        self.unit = GatedUnit(config.dim, config.hidden)
        self.context = Linear(width, 3 * config.hidden)  # C, C_z and C_r, row by row as in the unit
        self.output = DeepOutput(config.dim, config.hidden, width, config.maxout)
        self.dropout = nn.Dropout(config.dropout)
        _initialise(self)

    def forward(
        self,
        x: Float[Tensor, "tokens dim"],
        positions: Int64[Tensor, "tokens rank"],
        mask: Mask,
        memory: Memory | None = None,
        cache: RecurrentCache | None = None,
        probe: Probe = NO_PROBE,
    ) -> Float[Tensor, "tokens maxout"]:
        if memory is None:
            raise ConfigError("A recurrent decoder has no source to read; give each example a `source`.")
        source = self._source(memory, cache)
        _check_order(mask, source.lengths)
        context = Context(Placement(), mask, memory, cache, probe)
        x = context.see("entry", 0, self.dropout(x))
        if not len(x):  # nobody speaks
            return x.new_zeros(0, self.config.width)
        grid = Grid.of(mask.queries, x.device)
        start = self._start(source) if cache is None or cache.state is None else cache.state
        states, contexts, weights = self._walk(grid.spread(self.unit.input(x)), start, source)
        if cache is not None:
            cache.state = states[range(len(mask.queries)), mask.queries]
        if "cross_attention.weights" in probe:
            cut = zip(weights, mask.queries, source.lengths, strict=True)
            context.see("cross_attention.weights", 0, [w[None, :queries, :keys] for w, queries, keys in cut])
        before = context.see("block", 0, grid.collect(states))
        return context.see("hidden", 0, self.dropout(self.output(x, before, grid.collect(contexts))))

    def new_cache(self, documents: int, capacity: int = 0) -> RecurrentCache:
        """No state yet, for so many sequences. A state needs no capacity."""
        return RecurrentCache(documents, self.initial.weight)

    def _source(self, memory: Memory, cache: RecurrentCache | None) -> Source:
        def make() -> tuple[Tensor, Tensor]:
            return memory.states, self.attention.annotation(memory.states)

        kept = None if cache is None else cache.remember(0, memory.lengths, make)
        lengths = memory.lengths if cache is None else cache.source_lengths
        grid = Grid.of(lengths, memory.states.device)
        annotations, projected = map(grid.spread, make()) if kept is None else kept
        return Source(annotations, projected, grid.empty(), lengths)

    def _start(self, source: Source) -> Float[Tensor, "documents hidden"]:
        """s_0 = tanh(W_s h_1), h_1 being the backward half of the first annotation."""
        first = source.annotations[:, :1].sum(1)  # zero where there is none
        return torch.tanh(self.initial(first.chunk(2, -1)[1]))

    def _walk(
        self,
        words: Float[Tensor, "documents steps 3*hidden"],
        start: Float[Tensor, "documents hidden"],
        source: Source,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """States before each step and behind the last, what each step reads of the source, and its weights there."""
        states, contexts, weights = [start], [], []
        for word in words.unbind(1):
            weights.append(self.attention(states[-1], source))
            contexts.append((weights[-1][:, None] @ source.annotations)[:, 0])  # c_i, eq. 5
            states.append(self.unit(word + self.context(contexts[-1]), states[-1]))
        return torch.stack(states, 1), torch.stack(contexts, 1), torch.stack(weights, 1)


class GatedUnit(nn.Module):
    """The gated hidden unit (A.1.1). The reset gate acts before U does, unlike torch.nn.GRU's.

    input: W, W_z and W_r above each other (candidate, update, reset). candidate: U. gates: U_z above U_r.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.input = Linear(inputs, 3 * hidden)
        self.candidate = Linear(hidden, hidden)
        self.gates = Linear(hidden, 2 * hidden)

    def forward(
        self, driven: Float[Tensor, "documents 3*hidden"], state: Float[Tensor, "documents hidden"]
    ) -> Float[Tensor, "documents hidden"]:
        """The next state. driven: what comes from outside, `input` of a word and whatever is added to it."""
        width = state.shape[-1]
        proposed, opened = driven.split((width, 2 * width), -1)
        update, reset = torch.sigmoid(opened + self.gates(state)).chunk(2, -1)
        return (1 - update) * state + update * torch.tanh(proposed + self.candidate(reset * state))


class AdditiveAttention(nn.Module):
    """Weights α_j of the annotations h_j for a state s: the softmax of v_a · tanh(W_a s + U_a h_j) (A.1.2)."""

    def __init__(self, hidden: int, memory_dim: int, align: int) -> None:
        super().__init__()
        self.state = Linear(hidden, align)  # W_a
        self.annotation = Linear(memory_dim, align)  # U_a
        self.score = nn.Parameter(torch.zeros(align))  # v_a

    def forward(self, state: Float[Tensor, "documents hidden"], source: Source) -> Float[Tensor, "documents steps"]:
        energies = torch.tanh(self.state(state)[:, None] + source.projected) @ self.score
        # Finite, so that the weights of a document without a source are no NaN: it reads zeros.
        return energies.masked_fill(source.empty, torch.finfo(energies.dtype).min).softmax(-1)


class DeepOutput(nn.Module):
    """The larger of each two neighbours in U_o s + V_o y + C_o c (A.2.2; maxout, arXiv:1302.4389)."""

    def __init__(self, dim: int, hidden: int, memory_dim: int, maxout: int) -> None:
        super().__init__()
        self.state = Linear(hidden, 2 * maxout)  # U_o
        self.word = Linear(dim, 2 * maxout)  # V_o
        self.context = Linear(memory_dim, 2 * maxout)  # C_o

    def forward(
        self,
        word: Float[Tensor, "tokens dim"],
        state: Float[Tensor, "tokens hidden"],
        context: Float[Tensor, "tokens memory_dim"],
    ) -> Float[Tensor, "tokens maxout"]:
        both = self.state(state) + self.word(word) + self.context(context)
        return both.unflatten(-1, (-1, 2)).amax(-1)


@dataclass(frozen=True)
class Grid:
    """Packed tokens on a dense grid `[documents, steps]`, so that a step is one product for all documents.

    What stands behind a document's end is computed with and never read.
    """

    document: Int64[Tensor, " tokens"]
    step: Int64[Tensor, " tokens"]
    lengths: tuple[int, ...]

    @classmethod
    def of(cls, lengths: tuple[int, ...], device: torch.device) -> Grid:
        sizes = torch.tensor(lengths, dtype=torch.int64)
        document = torch.repeat_interleave(torch.arange(len(lengths)), sizes)
        step = torch.arange(len(document)) - cumulative(lengths)[document]
        return cls(document.to(device), step.to(device), lengths)

    def backwards(self) -> Grid:
        """Each document from its end."""
        last = torch.tensor(self.lengths, device=self.step.device)[self.document] - 1
        return Grid(self.document, last - self.step, self.lengths)

    def spread(self, packed: Float[Tensor, "tokens width"]) -> Float[Tensor, "documents steps width"]:
        """Zeros behind each document's end."""
        dense = packed.new_zeros(len(self.lengths), max(self.lengths, default=0), packed.shape[-1])
        return dense.index_put((self.document, self.step), packed)

    def collect(self, dense: Float[Tensor, "documents steps width"]) -> Float[Tensor, "tokens width"]:
        return dense[self.document, self.step]

    def empty(self) -> Bool[Tensor, "documents steps"]:
        """Where no token stands."""
        ends = torch.tensor(self.lengths, device=self.step.device)[:, None]
        return torch.arange(max(self.lengths, default=0), device=ends.device) >= ends


@dataclass(frozen=True)
class Source:
    """What a decoder reads: annotations h_j, U_a h_j, where there are none, and each document's length."""

    annotations: Float[Tensor, "documents steps memory_dim"]
    projected: Float[Tensor, "documents steps align"]
    empty: Bool[Tensor, "documents steps"]
    lengths: tuple[int, ...]


class RecurrentCache(Cache):
    """The state behind each sequence's last token, and the source's annotations; no keys, so it never grows."""

    def __init__(self, documents: int, like: Tensor) -> None:
        super().__init__(0, documents, 0, 0, rank=1, capacity=0, like=like)
        self.state: Float[Tensor, "documents hidden"] | None = None

    def reserve(self, queries: tuple[int, ...]) -> None:
        """There is always room."""

    def move(self, rows: Int64[Tensor, " rows"], first: int) -> None:
        if self.state is not None:
            self.state = self.state.index_select(0, rows)


Recurrent = RecurrentEncoder | RecurrentDecoder

KINDS: dict[str, Callable[[RecurrentConfig], Recurrent]] = {
    "recurrent_encoder": RecurrentEncoder,
    "recurrent_decoder": RecurrentDecoder,
}


def recurrent_stack(config: RecurrentConfig) -> Recurrent:
    """The stack that the config's `type` names."""
    if config.type not in KINDS:
        raise unknown("stack", config.type, KINDS)
    return KINDS[config.type](config)


def _check_order(mask: Mask, sources: tuple[int, ...]) -> None:
    """Whoever has a source is read strictly from its start; a document without one is padding."""
    for number, (prefix, source) in enumerate(zip(mask.prefix, sources, strict=True)):
        if source and (prefix > 1 or mask.window is not None):
            raise MaskError(
                f"A recurrent decoder reads all tokens in their order, but document {number} has prefix={prefix} and "
                f"window={mask.window}; give it neither."
            )


def _expect_positive(config: RecurrentConfig, *names: str) -> None:
    for name in names:
        if (getattr(config, name) or 0) < 1:
            raise ConfigError(f"{name}={getattr(config, name)}; a {config.type} needs a width of at least 1.")


def _initialise(stack: Recurrent) -> None:
    """Appendix B.1: recurrent matrices orthogonal, those of the alignment model at 0.001 with v_a zero, all others
    at `init_std`, or such that they keep the variance of what passes through."""
    std = stack.config.init_std
    for module in stack.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=std or module.in_features**-0.5)
    for module in stack.modules():
        if isinstance(module, GatedUnit):
            for square in (module.candidate.weight.data, *module.gates.weight.data.chunk(2)):
                nn.init.orthogonal_(square)
        if isinstance(module, AdditiveAttention):
            nn.init.normal_(module.state.weight, std=0.001)
            nn.init.normal_(module.annotation.weight, std=0.001)
