"""From what a model says at each slot to a text, for models trained by connectionist temporal classification."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from anyformer.batch import Example, pack, within
from anyformer.errors import ConfigError
from anyformer.model import ForwardPass, Model

Values = tuple[int, ...]

Language = Callable[[Values], Sequence[float]]
"""What a language model says behind a prefix: the log-probability of each value of the vocabulary to be next."""

Decoding = Callable[[Float[Tensor, "slots vocab"], int], Values]
"""(log-probabilities at each slot, the blank) → the values that were said."""

NEVER = -math.inf


@torch.no_grad()
def log_probabilities(model: Model, examples: Sequence[Example], stream: str, budget: int = 8192) -> list[Tensor]:
    """float32[slots, vocab] for each example: what the stream's head says at every slot. budget: slots that go through
    the model at once."""
    found: list[Tensor] = []
    for part in within(examples, budget, lambda example: example.tokens.length):
        forward = ForwardPass(model, pack(part, model.rank).to(model.device))
        rows = model.read(stream, forward.hidden).float().log_softmax(-1).cpu()
        found += rows.split([example.tokens.length for example in part])
    return found


def greedy(chances: Float[Tensor, "slots vocab"], blank: int) -> Values:
    """What the likeliest path spells (Graves et al. 2006 §3.2, "best path").

    >>> greedy(torch.eye(3)[[1, 1, 0, 1, 2]], blank=0)
    (1, 1, 2)
    """
    return tuple(value for value in chances.argmax(-1).unique_consecutive().tolist() if value != blank)


@dataclass(frozen=True)
class PrefixBeams:
    """Texts rather than paths compete (Hannun et al. 2014, arXiv:1408.2873, algorithm 1): the score of a prefix is
    ln p(prefix) + weight · ln p_language(prefix) + bonus · values, where p sums over all paths that spell it.

    beams: the prefixes that are kept at each slot. language: a model of the text, if there is one.

    (The paper asks its language model at the ends of words, and raises the number of words to β; this one is asked of
    each value, whatever a value is.)
    """

    beams: int = 16
    language: Language | None = None
    weight: float = 1.0
    bonus: float = 0.0

    def __post_init__(self) -> None:
        if self.beams < 1:
            raise ConfigError(f"PrefixBeams has beams={self.beams}; expected at least 1.")

    def __call__(self, chances: Float[Tensor, "slots vocab"], blank: int) -> Values:
        return self.best(chances, blank)[0][0]

    def best(self, chances: Float[Tensor, "slots vocab"], blank: int) -> list[tuple[Values, float]]:
        """The prefixes that are left at the end and their scores, the best first."""
        paths: dict[Values, tuple[float, float]] = {(): (0.0, NEVER)}  # ln p of those that end in the blank, and not
        prior: dict[Values, float] = {(): 0.0}
        for row in chances.double().numpy():
            paths = self._longer(paths, row, blank)
            scored = {prefix: np.logaddexp(*both) + self._prior(prefix, prior) for prefix, both in paths.items()}
            kept = sorted(scored, key=lambda prefix: (-scored[prefix], prefix))[: self.beams]
            paths = {prefix: paths[prefix] for prefix in kept}
        return [(prefix, float(np.logaddexp(*both)) + prior[prefix]) for prefix, both in paths.items()]

    @staticmethod
    def _longer(
        paths: dict[Values, tuple[float, float]], row: Float[np.ndarray, " vocab"], blank: int
    ) -> dict[Values, tuple[float, float]]:
        """Every prefix after one more slot: as it was, by a blank or its last value again, or a value longer."""
        blanks: dict[Values, float] = defaultdict(lambda: NEVER)
        others: dict[Values, float] = defaultdict(lambda: NEVER)
        for prefix, (ends_blank, ends_value) in paths.items():
            either = np.logaddexp(ends_blank, ends_value)
            blanks[prefix] = np.logaddexp(blanks[prefix], either + row[blank])
            if prefix:
                others[prefix] = np.logaddexp(others[prefix], ends_value + row[prefix[-1]])
            for value in (row > NEVER).nonzero()[0].tolist():
                if value != blank:
                    before = ends_blank if prefix[-1:] == (value,) else either  # a repeat needs a blank between
                    longer = (*prefix, value)
                    others[longer] = np.logaddexp(others[longer], before + row[value])
        both = {prefix: (blanks[prefix], others[prefix]) for prefix in {**blanks, **others}}
        return {prefix: chances for prefix, chances in both.items() if max(chances) > NEVER}

    def _prior(self, prefix: Values, known: dict[Values, float]) -> float:
        """weight · ln p_language + bonus · values, from what is known of the prefix without its last value."""
        if prefix not in known:
            said = 0.0 if self.language is None else self.weight * float(self.language(prefix[:-1])[prefix[-1]])
            known[prefix] = self._prior(prefix[:-1], known) + said + self.bonus
        return known[prefix]
