"""Speculative sampling: a small model drafts, the large one reads the draft at once and keeps what it would have said.

What is said is distributed exactly as if the large model had drawn it (arXiv:2211.17192, arXiv:2302.01318).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from anyformer.errors import ConfigError
from anyformer.model.network import Network
from anyformer.model.sampling import GREEDY, Dice, Said, Sampling, checked, drawn, log_probabilities
from anyformer.model.saying import Answer
from anyformer.model.session import Session, begun
from anyformer.tokens import Tokens


@dataclass(frozen=True, eq=False)
class Speculative:
    """draft: a model over the same stream that is given the same prompts. ahead: how many values it drafts at a time.
    sampling: how either model's values are chosen."""

    draft: Network
    ahead: int = 4
    sampling: Sampling = GREEDY

    def __post_init__(self) -> None:
        if self.ahead < 1:
            raise ConfigError(f"ahead={self.ahead}; expected at least one drafted value.")

    def speak(self, session: Session, answers: Sequence[Answer]) -> Iterator[list[list[Said]]]:
        """Round by round what is said behind each prompt: what is kept of the draft, and one value more."""
        stream, network = answers[0].stream, session.network
        known = self.draft.specs.get(stream)
        if known is None or known.width != network.specs[stream].width:
            raise ConfigError(f"The draft model has no stream {stream!r} of {network.specs[stream].width} values.")
        dice = Dice(self.sampling.seed, len(answers))
        drafting, reading = Reader(begun(self.draft, [answer.prompt for answer in answers])), Reader(session)
        first = self.sampling.choose(network.read(stream, session.last), [a.history for a in answers], dice)
        nats = log_probabilities(network.read(stream, session.last), first)
        said = checked(stream, first, nats, range(len(answers)))
        yield [answer.take([one]) for answer, one in zip(answers, said, strict=True)]
        while not all(answer.done for answer in answers):
            rounds = [0 if answer.done else min(self.ahead, answer.room - 1) for answer in answers]
            drafted, guessed = self._draft(drafting, answers, rounds, dice)
            found = self._judge(reading, answers, drafted, guessed, dice)
            agreed = [len(answer.said) + len(one) - 1 for answer, one in zip(answers, found, strict=True)]
            taken = [answer.take(one) for answer, one in zip(answers, found, strict=True)]
            yield taken
            for reader in (drafting, reading):
                reader.keep([None if a.done else n for a, n in zip(answers, agreed, strict=True)])

    def _draft(
        self, reader: Reader, answers: Sequence[Answer], rounds: Sequence[int], dice: Dice
    ) -> tuple[list[list[int]], list[list[Tensor]]]:
        """So many values for each answer, and the distributions they were drawn from."""
        drafted: list[list[int]] = [[] for _ in answers]
        guessed: list[list[Tensor]] = [[] for _ in answers]
        for turn in range(max(rounds)):
            rows = [row for row, count in enumerate(rounds) if turn < count]
            reader.read(answers, drafted, rows)
            logits = self.draft.read(answers[0].stream, reader.session.last[rows])
            shares = self.sampling.probabilities(logits, [[*answers[row].history, *drafted[row]] for row in rows])
            values = drawn(shares, dice.roll(rows, shares.device)).tolist()
            for row, value, share in zip(rows, values, shares, strict=True):
                drafted[row].append(value)
                guessed[row].append(share)
        return drafted, guessed

    def _judge(
        self,
        reader: Reader,
        answers: Sequence[Answer],
        drafted: Sequence[list[int]],
        guessed: Sequence[list[Tensor]],
        dice: Dice,
    ) -> list[list[Said]]:
        """What each answer goes on with: the part of its draft that is kept, then a value of the large model's own."""
        rows = [row for row, answer in enumerate(answers) if not answer.done]
        hidden = reader.read(answers, drafted, rows)
        logits = reader.session.network.read(answers[0].stream, hidden)
        histories = [[*answers[r].history, *drafted[r][:n]] for r in rows for n in range(len(drafted[r]) + 1)]
        sizes = [len(drafted[row]) + 1 for row in rows]
        wanted = self.sampling.probabilities(logits, histories).split(sizes)
        kept, own = [], []
        for row, target in zip(rows, wanted, strict=True):
            guess = torch.stack([*guessed[row], torch.zeros_like(target[0])])  # behind its end a draft says nothing
            rolled = dice.roll([row] * len(target), target.device)
            count, value = _keep(target, guess, drafted[row], rolled)
            kept.append(count)
            own.append(value)
        return self._said(answers, rows, drafted, logits.split(sizes), kept, own)

    def _said(
        self,
        answers: Sequence[Answer],
        rows: Sequence[int],
        drafted: Sequence[list[int]],
        logits: Sequence[Tensor],
        kept: Sequence[Tensor],
        own: Sequence[Tensor],
    ) -> list[list[Said]]:
        """Kept values and one more, off the device in one piece."""
        said: list[list[Said]] = [[] for _ in answers]
        counts = torch.stack(list(kept)).tolist()
        values = [
            torch.cat((torch.tensor(drafted[row][:count], dtype=torch.int64, device=value.device), value[None]))
            for row, count, value in zip(rows, counts, own, strict=True)
        ]
        flat = torch.cat(values)
        read = torch.cat([each[: count + 1] for each, count in zip(logits, counts, strict=True)])
        found = iter(checked(answers[0].stream, flat, log_probabilities(read, flat), range(len(flat))))
        for row, count in zip(rows, counts, strict=True):
            said[row] = [next(found) for _ in range(count + 1)]
        return said


class Reader:
    """A session and how many of each answer's values it has read."""

    def __init__(self, session: Session) -> None:
        self.session, self.prompts = session, session.lengths
        self.have = [0] * len(self.prompts)

    def read(self, answers: Sequence[Answer], drafted: Sequence[list[int]], rows: Sequence[int]) -> Tensor:
        """Read what is new in these rows, said or drafted; the hidden states of all that is new."""
        fresh: list[Tokens | None] = [None] * len(answers)
        for row in rows:
            answer = answers[row]
            values = [*answer.said, *drafted[row]]
            fresh[row] = answer.following(values, self.have[row])
            self.have[row] = len(values)
        return self.session.append(fresh)

    def keep(self, counts: Sequence[int | None]) -> None:
        """Forget what stands behind so many values of each answer; None leaves it as it is."""
        self.have = [have if n is None else min(have, n) for have, n in zip(self.have, counts, strict=True)]
        self.session.cut([given + have for given, have in zip(self.prompts, self.have, strict=True)])


def _keep(
    target: Float64[Tensor, "turns vocab"],
    guess: Float64[Tensor, "turns vocab"],
    drafted: list[int],
    rolled: Float64[Tensor, " turns"],
) -> tuple[Tensor, Tensor]:
    """How many drafted values are kept, and the value that follows them (arXiv:2211.17192, algorithm 1).

    A value x stays with probability min(1, p(x) / q(x)); behind the last that stays, one is drawn from what p has more
    than q, which behind a draft that stays whole is p.
    """
    values = torch.tensor(drafted, dtype=torch.int64, device=target.device)[:, None]
    likely, drawn_from = target[:-1].gather(1, values)[:, 0], guess[:-1].gather(1, values)[:, 0]
    count = (rolled[:-1] * drawn_from < likely).long().cumprod(0).sum()
    more = (target - guess).clamp(min=0).index_select(0, count[None])
    return count, drawn(more, rolled[-1:])[0]
