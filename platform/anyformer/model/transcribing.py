"""What may be said of a recording, given what has been: a transcript as Whisper writes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from anyformer.errors import ConfigError, unknown
from anyformer.model.rules import Histories, Logits
from anyformer.tokens import StreamSpec
from anyformer.transcript import SILENCE, STEP, TRANSCRIBE, UNTIMED, mark, moment


@dataclass(frozen=True)
class Transcribing:
    """Behind the start a language, a task, and then a text with its moments (`timed`) or without: Radford et al. 2022,
    arXiv:2212.04356 §2.3, and the rules of its published decoder. Moments come in pairs, around a text or behind one
    and before the next, and never decrease; one is said as soon as all together are likelier than anything else.

    spec: of the stream of a tokenizer of transcripts. language: None leaves it to the model. first: seconds before
    which the first moment lies, None for any. silence: the probability from which on nothing is said at all.
    """

    spec: StreamSpec
    language: str | None = None
    task: str = TRANSCRIBE
    timed: bool = True
    first: float | None = 1.0
    silence: float = 0.6

    def __post_init__(self) -> None:
        for name in (self.task, *([] if self.language is None else [self.language])):
            self._value(mark(name))

    def __call__(self, logits: Logits, said: Histories) -> Logits:
        rows = [self._row(row, list(values)) for row, values in zip(logits, said, strict=True)]
        return torch.stack(rows)

    def _row(self, logits: Float[Tensor, " vocab"], values: list[int]) -> Float[Tensor, " vocab"]:
        """The logits of what may be said behind these values of one transcript."""
        start = self._value("start")
        behind = values[len(values) - values[::-1].index(start) :] if start in values else values
        if not behind:
            return logits.masked_fill(~self._opening(logits).to(logits.device), -torch.inf)
        if behind[0] == self.spec.special.get(SILENCE):
            return self._only(logits, [self._end])
        if len(behind) == 1:
            return self._only(logits, [self._value(mark(self.task))])
        if not self.timed:
            return self._only(logits, [self._value(UNTIMED)]) if len(behind) == 2 else self._only(logits, self._text)
        return self._timed(logits, behind[2:])

    def _opening(self, logits: Float[Tensor, " vocab"]) -> Bool[Tensor, " vocab"]:
        """A language, or silence where that is likely."""
        silence = self.spec.special.get(SILENCE)
        if silence is not None and float(logits.float().softmax(-1)[silence]) > self.silence:
            return self._mask([silence])
        return self._mask(self._languages if self.language is None else [self._value(mark(self.language))])

    def _timed(self, logits: Float[Tensor, " vocab"], behind: list[int]) -> Float[Tensor, " vocab"]:
        places = [self._places[value] for value in behind if value in self._places]
        moment_last = bool(behind) and behind[-1] in self._places
        text_before = len(behind) > 1 and behind[-2] not in self._places
        if not behind:
            last = len(self._moments) if self.first is None else 1 + round(self.first / STEP)
            return self._only(logits, self._moments[:last])
        if moment_last and not text_before:
            return self._only(logits, self._text)
        later = self._moments[places[-1] + (0 if moment_last else 1) :] if places else self._moments
        before = [self._end] if moment_last else self._text
        left = self._only(logits, [*before, *later])
        nats = left.float().log_softmax(-1)
        if later and nats[later].logsumexp(-1) > nats[before].max():
            return self._only(left, later)
        return left

    def _only(self, logits: Float[Tensor, " vocab"], allowed: Sequence[int]) -> Float[Tensor, " vocab"]:
        return logits.masked_fill(~self._mask(allowed).to(logits.device), -torch.inf)

    def _mask(self, allowed: Sequence[int]) -> Bool[Tensor, " vocab"]:
        return torch.zeros(self.spec.width, dtype=torch.bool).index_fill(0, torch.tensor(allowed), True)

    def _value(self, role: str) -> int:
        if role not in self.spec.special:
            known = [name for name in self.spec.special if not name[2:3].isdigit()]
            raise unknown(f"mark of the stream {self.spec.name!r}:", role, known)
        return self.spec.special[role]

    @cached_property
    def _end(self) -> int:
        if self.spec.end is None:
            raise ConfigError(f"The stream {self.spec.name!r} has no end, so no transcript in it ends; give it one.")
        return self.spec.end

    @cached_property
    def _moments(self) -> list[int]:
        spelled = (moment(step) for step in count())
        found = []
        while (value := self.spec.special.get(next(spelled))) is not None:
            found.append(value)
        return found

    @cached_property
    def _places(self) -> dict[int, int]:
        return {value: step for step, value in enumerate(self._moments)}

    @cached_property
    def _text(self) -> list[int]:
        """Every value without a role, and the end."""
        reserved = {*self.spec.special.values()} - {self._end}
        return [value for value in range(self.spec.width) if value not in reserved]

    @cached_property
    def _languages(self) -> list[int]:
        """Marks of two or three letters."""
        named = {role[2:-2]: value for role, value in self.spec.special.items() if role.startswith("<|")}
        return [value for name, value in named.items() if name.isalpha() and len(name) <= 3]
