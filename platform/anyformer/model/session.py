"""Generation as a conversation: what is observed is appended, what is wanted is sampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from anyformer.batch import Example, pack
from anyformer.errors import ConfigError, SampleError
from anyformer.model.network import Network
from anyformer.tokens import Tokens


@dataclass(frozen=True)
class Sampling:
    """How a discrete value is chosen from logits.

    temperature 0 is greedy. top_k keeps the k likeliest (arXiv:1805.04833), top_p the smallest set that holds
    that much probability (arXiv:1904.09751). Equal seeds draw equal values.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0 or (self.top_k is not None and self.top_k < 1):
            raise ConfigError(
                f"temperature={self.temperature}, top_k={self.top_k}; expected temperature >= 0, top_k >= 1."
            )
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p={self.top_p}; expected a probability in (0, 1].")

    def choose(self, logits: Float[Tensor, "rows vocab"], generator: torch.Generator) -> Int64[Tensor, " rows"]:
        if self.temperature == 0:
            return logits.argmax(-1)
        logits = logits.float() / self.temperature
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            kth = logits.topk(self.top_k).values[:, -1:]
            logits = logits.masked_fill(logits < kth, -torch.inf)
        if self.top_p is not None:
            ordered, order = logits.sort(descending=True)
            before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
            logits = logits.masked_fill((before >= self.top_p).gather(-1, order.argsort(-1)), -torch.inf)
        return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]


GREEDY = Sampling(temperature=0)


class Session:
    """`count` parallel sequences with a KV cache, of any and unequal lengths; nothing is padded.

    A sequence whose tokens are None in an `append` simply stays where it is. source: what each sequence attends to,
    encoded once.
    """

    @torch.no_grad()
    def __init__(self, network: Network, count: int, seed: int = 0, source: Sequence[Example] | None = None) -> None:
        self.network = network
        self.cache = network.backbone.new_cache(count)
        self.memory = None if source is None else network.encode(pack(source).to(network.device))
        like = next(network.parameters())
        self.last = like.new_zeros(count, network.backbone.config.width)
        self.generator = torch.Generator(device=network.device).manual_seed(seed)

    @property
    def lengths(self) -> list[int]:
        """Slots each sequence has so far."""
        return list(self.cache.lengths)

    @torch.no_grad()
    def append(self, tokens: Sequence[Tokens | None], prefix: Sequence[int] | None = None) -> None:
        """Add tokens behind each sequence. Positions are taken as they are given.

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
        self.cache.reserve(queries)
        mask = self.cache.mask(queries, None if prefix is None else tuple(prefix))
        hidden = self.network.decode(replace(batch, mask=mask), self.memory, self.cache)
        self.cache.advance(queries)
        grown = torch.tensor(queries, device=hidden.device) > 0
        ends = mask.cu_queries[1:].to(hidden.device).long() - 1
        self.last = torch.where(grown[:, None], hidden[ends.clamp(min=0)], self.last) if len(hidden) else self.last

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these sequences, in this order, each as often as it is named."""
        self.cache.select(rows)
        if self.memory is not None and not self.cache.source:  # nothing has been read of it yet
            self.memory = self.memory.select(rows)
        self.last = self.last[torch.tensor(rows, device=self.last.device)]

    @torch.no_grad()
    def sample(self, stream: str, sampling: Sampling = GREEDY) -> Tensor:
        """The next value of `stream` for each sequence: int64[count], or float32[count, features]."""
        said = self.network.read(stream, self.last)
        if not self.network.specs[stream].is_discrete:
            return said
        return sampling.choose(said, self.generator)


def begun(network: Network, prompts: Sequence[Example], seed: int = 0) -> Session:
    """A session that has read every prompt, and its source where they have one."""
    sources = [prompt.source for prompt in prompts if prompt.source is not None]
    if sources and len(sources) < len(prompts):
        raise SampleError(f"{len(sources)} of {len(prompts)} prompts have a source; expected all or none.")
    session = Session(network, len(prompts), seed, sources or None)
    session.append([prompt.tokens for prompt in prompts], [prompt.prefix for prompt in prompts])
    return session
