"""Contrastive search: likely values that do not repeat what the text has been like (arXiv:2202.06417)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from anyformer.errors import ConfigError
from anyformer.model.rules import Rule
from anyformer.model.sampling import Said, checked, log_probabilities
from anyformer.model.saying import Answer, run_of
from anyformer.model.session import Session


@dataclass(frozen=True)
class Contrastive:
    """Of the top_k likeliest values the one with the most (1 - penalty) · probability - penalty · degeneration.

    Degeneration is the largest cosine between the hidden state of the candidate and those of all slots before it, the
    prompt's among them (eq. 5). penalty 0 is greedy.
    """

    top_k: int = 4
    penalty: float = 0.6
    rules: tuple[Rule, ...] = ()

    def __post_init__(self) -> None:
        if self.top_k < 1 or not 0 <= self.penalty <= 1:
            raise ConfigError(f"top_k={self.top_k}, penalty={self.penalty}; expected at least 1, and 0 to 1.")

    def speak(self, session: Session, answers: Sequence[Answer]) -> Iterator[list[list[Said]]]:
        """Round by round what is said behind each prompt; every candidate is read once."""
        going, stream = list(range(len(answers))), answers[0].stream
        seen = [F.normalize(states, dim=-1) for states in session.states.split(session.lengths)]
        while going:
            logits = session.network.read(stream, session.last)
            weighed = logits.to(torch.promote_types(logits.dtype, torch.float32))
            for rule in self.rules:
                weighed = rule(weighed, [answers[one].history for one in going])
            shares, candidates = weighed.softmax(-1).topk(min(self.top_k, weighed.shape[-1]))
            width = shares.shape[-1]
            session.select([row for row in range(len(going)) for _ in range(width)])
            places = [answers[one].start + len(answers[one].said) for one in going for _ in range(width)]
            values = candidates.flatten().tolist()
            session.append([run_of(stream, [value], place) for value, place in zip(values, places, strict=True)])
            states = F.normalize(session.last, dim=-1).unflatten(0, (-1, width))
            best = self._best(shares, states, seen)
            chosen = candidates.gather(1, best[:, None])[:, 0].masked_fill(weighed.amax(-1) == -torch.inf, -1)
            said = checked(stream, chosen, log_probabilities(logits, chosen), range(len(going)))
            found: list[list[Said]] = [[] for _ in answers]
            for one, value in zip(going, said, strict=True):
                found[one] = answers[one].take([value])
            yield found
            winners, left = best.tolist(), [row for row, one in enumerate(going) if not answers[one].done]
            seen = [torch.cat((seen[row], states[row, winners[row]][None])) for row in left]
            going = [going[row] for row in left]
            if going:
                session.select([row * width + winners[row] for row in left])

    def _best(
        self, shares: Float[Tensor, "rows width"], states: Float[Tensor, "rows width dim"], seen: Sequence[Tensor]
    ) -> Tensor:
        """Which candidate each row goes on with. seen: unit vectors, `[slots, dim]` for each row."""
        like = torch.stack([(own @ had.T).amax(-1) for own, had in zip(states, seen, strict=True)])
        scores = (1 - self.penalty) * shares - self.penalty * like
        return scores.masked_fill(shares == 0, -torch.inf).argmax(-1)
