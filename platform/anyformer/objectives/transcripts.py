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
from anyformer.objectives.joint import told_by_encoder

Values = tuple[int, ...]

Language = Callable[[Sequence[Values]], Float[np.ndarray, "prefixes vocab"]]
"""What a language model says behind prefixes: the log-probability of each value of the vocabulary to be next. It is
asked of all that compete at once, and they grow value by value, so that a model may go on from where it was."""

Decoding = Callable[[Float[Tensor, "slots vocab"], int], Values]
"""(log-probabilities at each slot, the blank) → the values that were said."""

NEVER = -math.inf


@torch.no_grad()
def log_probabilities(model: Model, examples: Sequence[Example], stream: str, budget: int = 8192) -> list[Tensor]:
    """float32[slots, vocab] for each example: what the stream's head says at every slot of what is heard, which is the
    sequence itself or its source. budget: slots that go through the model at once."""
    found: list[Tensor] = []
    for part in within(examples, budget, lambda example: example.size):
        forward = ForwardPass(model, pack(part, model.rank).to(model.device))
        if forward.memory is None:
            said, lengths = model.read(stream, forward.hidden), forward.batch.mask.queries
        else:
            said, lengths = told_by_encoder(model, forward.memory, stream), forward.memory.lengths
        found += said.float().log_softmax(-1).cpu().split(list(lengths))
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

    beams: the prefixes that are kept at each slot. language: a model of the text, if there is one; its weight and the
    bonus are the α and β of the paper.

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
        prior: dict[Values, float] = {(): 0.0}  # weight · ln p_language + bonus · values
        for row in chances.double().numpy():
            adding = self._adding(list(paths))
            paths = self._longer(paths, row, blank)
            for prefix in paths:
                if prefix not in prior:
                    prior[prefix] = prior[prefix[:-1]] + adding(prefix)
            scored = {prefix: np.logaddexp(*both) + prior[prefix] for prefix, both in paths.items()}
            possible = (prefix for prefix, score in scored.items() if score > NEVER)
            kept = sorted(possible, key=lambda prefix: (-scored[prefix], prefix))[: self.beams]
            paths, prior = {p: paths[p] for p in kept}, {p: prior[p] for p in kept}
        return [(prefix, float(np.logaddexp(*both)) + prior[prefix]) for prefix, both in paths.items()]

    def _adding(self, prefixes: Sequence[Values]) -> Callable[[Values], float]:
        """What the last value of one that is a value longer than one of these adds to its prior."""
        if self.language is None or not self.weight:
            return lambda longer: self.bonus
        said = dict(zip(prefixes, self.language(prefixes), strict=True))
        return lambda longer: self.weight * float(said[longer[:-1]][longer[-1]]) + self.bonus

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
