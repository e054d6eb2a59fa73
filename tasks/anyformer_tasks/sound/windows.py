"""Recordings longer than a model hears at once, window by window: each begins where what was understood of the one
before ends (Radford et al. 2022, arXiv:2212.04356 §3.8 and §4.5)."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import torch

from anyformer.batch import Example
from anyformer.errors import ConfigError
from anyformer.model import Said, Sampling
from anyformer.model.transcribing import Transcribing
from anyformer.tokens import Tokens
from anyformer.transcript import PREVIOUS, STEP, Segment, Transcript

if TYPE_CHECKING:
    from anyformer.contracts import Tokenizer
    from anyformer.model import Model

Listen = Callable[[float, float], Transcript]
"""What is said from one second of a recording to another, in seconds from the first of them on."""

OPENING = 3  # the language, the task, the first moment or its absence: what the rules leave no choice in


@dataclass(frozen=True)
class Windows:
    """How a recording is written down.

    seconds: of a window. most: values that are said of one.
    temperatures: tried in turn, until the mean log probability (nats) of what is said is at least `likely`, and the
    text is at most `repetitive` times as long as zlib makes it: a text that goes round in circles is told by that.
    silence: the probability from which on nothing is said of a window.
    previous: how many values of what was said before are given to the model, which must have learned from such; none
    are given behind what a temperature above a half has said.
    """

    seconds: float = 30.0
    most: int = 224
    temperatures: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    likely: float = -1.0
    repetitive: float = 2.4
    silence: float = 0.6
    previous: int = 0

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """ConfigError for a setting that is misspelt or out of range."""
        try:
            found = cls(**settings)
            found = replace(found, temperatures=tuple(found.temperatures))
        except TypeError as error:
            raise ConfigError(f"windows={dict(settings)}; expected the settings of Windows ({error}).") from error
        if not STEP <= found.seconds or not found.temperatures or min(found.temperatures) < 0 or found.most < 1:
            raise ConfigError(f"{found}; expected windows of at least {STEP} s, and temperatures of at least 0.")
        return found


def transcribed(seconds: float, window: float, listen: Listen) -> list[Segment]:
    """The segments of a recording of so many seconds, in its own time.

    A window that ends in the middle of a segment is left at the end of the last one that was told whole, or else where
    that one begins: it is heard again, from its start. Where that is the window's own start, it is longer than a window
    and is told up to its end, as is what a recording breaks off. Where the last segment is closed, silence follows.
    """
    at, found = 0.0, []
    while seconds - at >= STEP:
        end = min(at + window, seconds)
        segments = list(listen(at, end).segments)
        goes_on = segments.pop() if segments and segments[-1].end is None else None
        found += [_shifted(segment, at, end) for segment in segments]
        if goes_on is None:
            at = end
            continue
        back = (segments[-1].end if segments else goes_on.start) or 0.0
        if back >= STEP and (end < seconds or not goes_on.text):
            at = min(at + back, end)
        else:
            found += [_shifted(goes_on, at, end)] if goes_on.text else []
            at = end
    return found


def _shifted(segment: Segment, at: float, end: float) -> Segment:
    """A segment of the window from `at` to `end`, in the recording's time."""
    start = min(at + (segment.start or 0.0), end)
    stop = end if segment.end is None else min(at + segment.end, end)
    return Segment(segment.text, round(start, 2), round(stop, 2))


class Listener:
    """A model that listens to windows of one recording.

    prompted: a prompt from one second to another. rule: what may be said.
    """

    def __init__(
        self, model: Model, tokenizer: Tokenizer, prompted: Callable[[float, float], Example], rule: Transcribing,
        settings: Windows,
    ) -> None:  # fmt: skip
        self.model, self.tokenizer, self.prompted = model, tokenizer, prompted
        self.rule, self.settings = rule, settings
        self.before: list[int] = []

    def __call__(self, start: float, end: float) -> Transcript:
        prompt = self._behind(self.prompted(start, end))
        said: list[int] = []
        for temperature in self.settings.temperatures:
            sampling = Sampling(temperature, seed=round(start / STEP), rules=(self.rule,))
            found = list(self.model.stream(prompt, self.rule.spec.name, self.settings.most, sampling))
            said = [one.value for one in found]
            heard: Transcript = self.tokenizer.decode(Tokens.of(self.rule.spec.name, torch.tensor(said)))
            if self._is_sound(found, str(heard)):
                break
        self.before = [] if temperature > 0.5 else [*self.before, *self._text_of(said)]
        return heard

    def _is_sound(self, said: Sequence[Said], text: str) -> bool:
        nats = [one.log_probability for one in said[OPENING:]]
        likely = not nats or sum(nats) / len(nats) >= self.settings.likely
        spelled = text.encode()
        return likely and (not spelled or len(spelled) / len(zlib.compress(spelled)) <= self.settings.repetitive)

    def _behind(self, prompt: Example) -> Example:
        """The prompt behind what was said before."""
        spec = self.rule.spec
        if not self.settings.previous or not self.before:
            return prompt
        if PREVIOUS not in spec.special:
            raise ConfigError(
                f"The stream {spec.name!r} has no mark {PREVIOUS} of what was said before; set previous: 0."
            )
        given = prompt.tokens.streams[spec.name].values
        told = [spec.special[PREVIOUS], *self.before[-self.settings.previous :]]
        return replace(prompt, tokens=Tokens.of(spec.name, torch.cat((torch.tensor(told), given))))

    def _text_of(self, said: Sequence[int]) -> list[int]:
        reserved = {*self.rule.spec.special.values(), self.rule.spec.end}
        return [value for value in said if value not in reserved]
