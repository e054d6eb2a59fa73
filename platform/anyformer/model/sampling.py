"""How one value of a discrete stream is chosen from its logits, and the dice that are thrown for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from anyformer.errors import ConfigError, NonFiniteError
from anyformer.model.rules import Histories, Logits, Rule

if TYPE_CHECKING:
    from anyformer.model.saying import Answer
    from anyformer.model.session import Session


@dataclass(frozen=True)
class Said:
    """A value, and its log probability (nats) by the model itself, before rules, temperature and cuts."""

    value: int
    log_probability: float


class Dice:
    """A generator for each sequence, keyed by (seed, row): what is drawn for one does not depend on its neighbours."""

    def __init__(self, seed: int, count: int) -> None:
        self.generators = [np.random.default_rng([seed % 2**64, row]) for row in range(count)]

    def roll(self, rows: Sequence[int], device: torch.device) -> Float64[Tensor, " rows"]:
        """A number in [0, 1) for each of these rows.

        Of 24 bits, so that its product with a sum of probabilities is always below the sum.
        """
        rolled = [float(self.generators[row].random(dtype=np.float32)) for row in rows]
        return torch.tensor(rolled, dtype=torch.float64).to(device)

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these rows; one that is named again draws for itself from there on."""
        taken: set[int] = set()
        chosen = []
        for row in rows:
            own = self.generators[row]
            chosen.append(own.spawn(1)[0] if row in taken else own)
            taken.add(row)
        self.generators = chosen


@dataclass(frozen=True)
class Sampling:
    """How a discrete value is chosen from logits.

    In this order, which is transformers': rules, as they are given; temperature, 0 being greedy, without what follows;
    top_k keeps the k likeliest (arXiv:1805.04833), top_p the smallest set that holds that much probability
    (arXiv:1904.09751), min_p those at least that part as likely as the likeliest (arXiv:2407.01082). Equal seeds draw
    equal values.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    min_p: float | None = None
    rules: tuple[Rule, ...] = ()

    def __post_init__(self) -> None:
        if not self.temperature >= 0 or (self.top_k is not None and self.top_k < 1):
            raise ConfigError(
                f"temperature={self.temperature}, top_k={self.top_k}; expected temperature >= 0, top_k >= 1."
            )
        for name, share in (("top_p", self.top_p), ("min_p", self.min_p)):
            if share is not None and not 0 < share <= 1:
                raise ConfigError(f"{name}={share}; expected a probability in (0, 1].")

    def weigh(self, logits: Logits, said: Histories) -> Logits:
        """The logits that a value is chosen by; -inf for what cannot be. said: see `rules`."""
        logits = wide(logits)
        for rule in self.rules:
            logits = rule(logits, said)
        if self.temperature == 0:
            return logits
        logits = logits / self.temperature
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            kth = logits.topk(self.top_k).values[:, -1:]
            logits = logits.masked_fill(logits < kth, -torch.inf)
        if self.top_p is not None:
            ordered, order = logits.sort(descending=True)
            before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
            logits = logits.masked_fill((before >= self.top_p).gather(-1, order.argsort(-1)), -torch.inf)
        if self.min_p is not None:
            shares = logits.softmax(-1)
            logits = logits.masked_fill(shares < self.min_p * shares.amax(-1, keepdim=True), -torch.inf)
        return logits

    def probabilities(self, logits: Logits, said: Histories) -> Float64[Tensor, "rows vocab"]:
        """What each value is chosen with; all on the likeliest if greedy."""
        weighed = self.weigh(logits, said)
        if self.temperature == 0:
            return torch.zeros_like(weighed, dtype=torch.float64).scatter(-1, weighed.argmax(-1, keepdim=True), 1)
        return weighed.double().softmax(-1)

    def choose(self, logits: Logits, said: Histories, dice: Dice) -> Int64[Tensor, " rows"]:
        """A value for each row; -1 where the rules leave none."""
        weighed = self.weigh(logits, said)
        best, values = weighed.max(-1)
        if self.temperature:
            rolled = dice.roll(range(len(weighed)), weighed.device)
            values = drawn(weighed.double().softmax(-1), rolled)
        return values.masked_fill(best == -torch.inf, -1) if self.rules else values

    def speak(self, session: Session, answers: Sequence[Answer]) -> Iterator[list[list[Said]]]:
        """Round by round what is said behind each prompt, until all answers are done."""
        dice, stream = Dice(self.seed, len(answers)), answers[0].stream
        going = list(range(len(answers)))
        while True:
            logits = wide(session.network.read(stream, session.last))
            values = self.choose(logits, [answers[i].history for i in going], dice)
            said = dict(zip(going, checked(stream, values, log_probabilities(logits, values), going), strict=True))
            yield [answer.take([said[i]]) if i in said else [] for i, answer in enumerate(answers)]
            rows = [row for row, i in enumerate(going) if not answers[i].done]
            if not rows:
                return
            if len(rows) < len(going):  # what is done leaves the session
                session.select(rows)
                dice.select(rows)
                going = [going[row] for row in rows]
            left = [answers[i] for i in going]
            session.append_values(stream, [a.history[-1] for a in left], [a.start + len(a.said) - 1 for a in left])


GREEDY = Sampling(temperature=0)


def wide(logits: Logits) -> Logits:
    """In float32 or better, row by row."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32), memory_format=torch.contiguous_format)


def drawn(weights: Float64[Tensor, "rows vocab"], rolled: Float64[Tensor, " rows"]) -> Int64[Tensor, " rows"]:
    """Values as likely as they weigh: the first whose cumulative weight passes the roll, so never one of weight 0."""
    reached = weights.cumsum(-1)
    places = torch.searchsorted(reached, (rolled * reached[:, -1])[:, None], right=True)[:, 0]
    return places.clamp(max=weights.shape[-1] - 1)  # where weights are NaN: the caller finds out


def log_probabilities(logits: Logits, values: Int64[Tensor, " rows"]) -> Float[Tensor, " rows"]:
    """Of these values by these logits; NaN where the logits are no distribution."""
    nats = wide(logits).log_softmax(-1)
    return nats.gather(-1, values.clamp(min=0)[:, None])[:, 0]


def checked(stream: str, values: Tensor, nats: Tensor, numbers: Sequence[int]) -> list[Said]:
    """Values and their log probabilities off the device, in one piece; an error for a sequence that has none. numbers:
    what the sequences are called in it."""
    pairs = torch.stack((values.double(), nats.double()), 1).tolist()
    for number, (value, nat) in zip(numbers, pairs, strict=True):
        if nat != nat:
            raise NonFiniteError(
                f"The logits of stream {stream!r} are NaN or infinite for sequence {number}; nothing can be chosen "
                "from them. Look for damaged weights, or generate in a wider precision."
            )
        if value < 0:
            raise ConfigError(
                f"The rules leave no value of stream {stream!r} for sequence {number}; allow at least one."
            )
    return [Said(int(value), nat) for value, nat in pairs]
