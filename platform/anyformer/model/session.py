"""Generation as a conversation: what is observed is appended, what is wanted is sampled."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from anyformer.batch import Example, pack
from anyformer.errors import ConfigError, SampleError
from anyformer.model.network import Network
from anyformer.model.sampling import GREEDY, Dice, Sampling, checked, log_probabilities
from anyformer.model.twin import twin
from anyformer.tokens import Tokens, with_rank

Had = tuple[int, str, int]
"""The slot, the stream and the value of something discrete."""


class Session:
    """`count` parallel sequences with a KV cache, of any and unequal lengths; nothing is padded.

    A sequence whose tokens are None in an `append` simply stays where it is. source: what each sequence attends to,
    encoded once. Passes are those of the network's `twin`, as it is when the session begins.
    """

    @torch.no_grad()
    def __init__(self, network: Network, count: int, seed: int = 0, source: Sequence[Example] | None = None) -> None:
        self.network = twin(network)
        self.cache = network.backbone.new_cache(count)
        self.memory = None if source is None else network.encode(pack(source).to(network.device))
        like = next(network.parameters())
        self.last = like.new_zeros(count, network.backbone.config.width)
        self.dice = Dice(seed, count)
        self.states = self.last[:0]  # hidden states of all that was appended last
        self.had: list[list[Had]] = [[] for _ in range(count)]  # of each sequence

    @property
    def lengths(self) -> list[int]:
        """Slots each sequence has so far."""
        return list(self.cache.lengths)

    @torch.no_grad()
    def append(
        self, tokens: Sequence[Tokens | None], prefix: Sequence[int] | None = None
    ) -> Float[Tensor, "tokens dim"]:
        """Add tokens behind each sequence; the hidden states of all that was added. Positions are taken as they are
        given.

        prefix: how many slots, from each sequence's start, see each other in both directions; such a context
        must be appended whole, or it is a ConfigError.
        """
        if len(tokens) != len(self.lengths):
            raise ConfigError(f"The session has {len(self.lengths)} sequences but got tokens for {len(tokens)}.")
        rank = self.network.rank
        nothing = Tokens({}, 0, torch.zeros(0, rank, dtype=torch.int64))
        batch = pack([Example(nothing if t is None else t, {}) for t in tokens], rank).to(self.network.device)
        queries = batch.mask.queries
        for one, (have, more, both) in enumerate(zip(self.lengths, queries, prefix or [0] * len(tokens), strict=True)):
            if both > have and (have or both > more):
                raise ConfigError(
                    f"Sequence {one} has {have} slots and gets {more}, with a prefix of {both}; "
                    "a prefix must be appended whole, at once and first."
                )
        had = [[] if t is None else self._discrete(t, have) for t, have in zip(tokens, self.lengths, strict=True)]
        hidden = self._read(self.network.embed(batch, self.network.backbone.config), batch.positions, queries, prefix)
        self.had = [[*before, *more] for before, more in zip(self.had, had, strict=True)]
        return hidden

    def append_values(
        self, stream: str, values: Sequence[int], positions: Sequence[int]
    ) -> Float[Tensor, "tokens dim"]:
        """One more value of one stream for every sequence, at these positions: as `append`, but much faster."""
        device = self.last.device
        with torch.no_grad():
            x = self.network.embed_each(stream, torch.tensor(values, device=device))
            where = torch.tensor(positions, device=device)[:, None]
            hidden = self._read(x, where, (1,) * len(values), None)
        for had, value, length in zip(self.had, values, self.lengths, strict=True):
            had.append((length - 1, stream, value))
        return hidden

    def _read(
        self,
        x: Float[Tensor, "tokens width"],
        positions: Int64[Tensor, "tokens rank"],
        queries: tuple[int, ...],
        prefix: Sequence[int] | None,
    ) -> Float[Tensor, "tokens dim"]:
        """New slots, as they are embedded, through the backbone, behind what is cached."""
        self.cache.reserve(queries)
        where, steps = with_rank(positions, self.network.rank), self.network.steps
        is_step = set(queries) == {1}
        if is_step and steps is not None and steps.ready and (self.memory is None or self.cache.source):
            hidden = steps(x, where, self.cache)
        else:
            mask = self.cache.mask(queries, None if prefix is None else tuple(prefix))
            hidden = self.network.backbone(x, where, mask, self.memory, self.cache)
        self.states = hidden
        self.cache.advance(queries)
        if is_step:
            self.last = hidden
        elif len(hidden):
            grown = torch.tensor(queries, device=hidden.device) > 0
            ends = torch.tensor(queries, device=hidden.device).cumsum(0) - 1
            self.last = torch.where(grown[:, None], hidden[ends.clamp(min=0)], self.last)
        return hidden

    def _discrete(self, tokens: Tokens, start: int) -> list[Had]:
        """The discrete values of tokens from this slot on; those without slots of their own stand at the end."""
        found: list[Had] = []
        for name, stream in tokens.streams.items():
            if name in self.network.specs and self.network.specs[name].is_discrete:
                own = len(stream.values) == len(stream.slots)
                slots = stream.slots.tolist() if own else [tokens.length - 1] * len(stream.values)
                found += [(start + s, name, v) for s, v in zip(slots, stream.values.tolist(), strict=True)]
        return found

    def said(self, stream: str) -> list[list[int]]:
        """Each sequence's values of a discrete stream."""
        return [[value for _, name, value in had if name == stream] for had in self.had]

    def cut(self, lengths: Sequence[int]) -> None:
        """Drop what stands behind so many slots of each sequence, exactly: no key that is kept has seen it.

        A sequence that loses tokens has no last one until more are appended. Where a state is all that is kept, as in
        a recurrent stack, nothing can be dropped: a ConfigError.
        """
        pairs = list(zip(lengths, self.lengths, strict=False))
        if len(lengths) != len(self.lengths) or not all(0 <= kept <= have for kept, have in pairs):
            raise ConfigError(f"Sequences of {self.lengths} slots cannot be cut to {list(lengths)}; expected no more.")
        if list(lengths) == self.lengths:
            return
        if not len(self.cache.store):  # no layer of keys
            raise ConfigError("A recurrent stack keeps a state and no tokens, so none can be dropped; start anew.")
        lost = torch.tensor([kept < have for kept, have in pairs], device=self.last.device)
        self.last = self.last.masked_fill(lost[:, None], torch.nan)
        self.cache.cut(lengths)
        self.had = [[one for one in had if one[0] < length] for had, length in zip(self.had, lengths, strict=True)]

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these sequences, in this order, each as often as it is named."""
        self.cache.select(rows)
        if self.memory is not None and not self.cache.source:  # nothing has been read of it yet
            self.memory = self.memory.select(rows)
        self.last = self.last.index_select(0, torch.tensor(rows, device=self.last.device))
        self.had = [list(self.had[row]) for row in rows]
        self.dice.select(rows)

    @torch.no_grad()
    def sample(self, stream: str, sampling: Sampling = GREEDY) -> Tensor:
        """The next value of `stream` for each sequence: int64[count], or float32[count, features].

        Logits that are NaN or infinite are a NonFiniteError.
        """
        said = self.network.read(stream, self.last)
        if not self.network.specs[stream].is_discrete:
            return said
        values = sampling.choose(said, self.said(stream) if sampling.rules else [], self.dice)
        checked(stream, values, log_probabilities(said, values), range(len(values)))
        return values


def begun(network: Network, prompts: Sequence[Example], seed: int = 0) -> Session:
    """A session that has read every prompt, and its source where they have one."""
    sources = [prompt.source for prompt in prompts if prompt.source is not None]
    if sources and len(sources) < len(prompts):
        raise SampleError(f"{len(sources)} of {len(prompts)} prompts have a source; expected all or none.")
    session = Session(network, len(prompts), seed, sources or None)
    session.append([prompt.tokens for prompt in prompts], [prompt.prefix for prompt in prompts])
    return session
