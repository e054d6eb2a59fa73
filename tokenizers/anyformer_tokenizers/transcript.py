"""Transcripts in the vocabulary of a text tokenizer, and the marks that Whisper has beside it:

    transcript.encode(Transcript([Segment(" seven", 0.2, 0.7)]))
        →  <|startoftranscript|> <|en|> <|transcribe|> <|0.20|> seven <|0.70|> </s>

Radford et al. 2022, arXiv:2212.04356 §2.3.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import count
from typing import Any, ClassVar

import numpy as np
import torch

from anyformer.contracts import Tokenizer
from anyformer.errors import ConfigError, SampleError, TokenizerError
from anyformer.registry import tokenizers
from anyformer.tokens import StreamSpec, Tokens
from anyformer.transcript import (
    PREVIOUS,
    SILENCE,
    START,
    STEP,
    TRANSCRIBE,
    TRANSLATE,
    UNTIMED,
    Segment,
    Transcript,
    mark,
    moment,
)

TASKS = (TRANSCRIBE, TRANSLATE)


@dataclass
class TranscriptTokenizer(Tokenizer):
    """`Transcript` ⇄ marks, pieces and moments, one discrete stream named after the tokenizer.

    text: the tokenizer of the text, as plain data: any of one discrete stream with an end. A mark that it reads as one
    value of its own (a published vocabulary's, with `special_in_text: true`) is that value; the others stand behind its
    values. What spells a mark in a text is left out of it, so that nobody's text can steer the model.
    languages: codes. longest: seconds that can be told. What is said later is left out, as the audio tokenizer leaves
    out what is heard later where it pads to as many; of what goes on then, the start is told.

    Each mark is the role of its value in the stream's spec; the start's is "start".
    """

    name: str = "transcript"
    text: dict[str, Any] = field(default_factory=lambda: {"type": "text"})
    languages: list[str] = field(default_factory=lambda: ["en"])
    longest: float = 30.0

    fidelity: ClassVar = "approximate"  # moments are rounded, silence has no language
    measures_by_encoding: ClassVar = True

    def __post_init__(self) -> None:
        settings = dict(self.text)
        kind = settings.pop("type", "text")
        self._text: Tokenizer = tokenizers.create(kind, {**settings, "name": self.name})
        if not STEP <= self.longest <= 3600 or not self.languages or len({*self.languages}) < len(self.languages):
            raise ConfigError(
                f"Tokenizer {self.name!r} has longest={self.longest}, languages={self.languages}; expected {STEP} to "
                "3600 seconds and at least one language, each once."
            )

    def config(self) -> dict[str, Any]:
        """The text tokenizer's settings are those that travel: not one machine's directory."""
        own = {name: value for name, value in self._text.config().items() if name != "name"}
        return {**super().config(), "text": {"type": tokenizers.name_of(type(self._text)), **own}}

    @property
    def streams(self) -> tuple[StreamSpec, ...]:
        return (self._spec,)

    def encode(self, raw: Any) -> Tokens:
        """SampleError for what is no transcript, has a language that is not among `languages`, or goes back in time."""
        return Tokens.of(self.name, torch.tensor(self._values(raw), dtype=torch.int64))

    def length(self, raw: Any) -> int:
        return len(self._values(raw))

    def decode(self, tokens: Tokens) -> Transcript:
        """Up to its end. Whatever is said is some transcript: a moment closes a text, and opens one where none is."""
        spec = self._spec
        values = tokens.streams[self.name].values.tolist() if self.name in tokens.streams else None
        if values is None or not all(0 <= value < spec.width for value in values):
            raise TokenizerError(
                f"Tokenizer {self.name!r} decodes a stream {self.name!r} of values from 0 to {spec.width - 1}; got "
                f"{values or sorted(tokens.streams)!r:.60}."
            )
        said = values[: values.index(spec.end)] if spec.end in values else values
        names = [self._spelled.get(value) for value in said]
        language = next((name for name in self.languages if mark(name) in names), "")
        task = next((name for name in TASKS if mark(name) in names), TRANSCRIBE)
        return Transcript(self._segments(said), language, task)

    def example(self, rng: np.random.Generator) -> Transcript:
        times = np.sort(rng.choice(int(min(self.longest, 30) / STEP), 4, replace=False)) * STEP
        first, second = (str(self._text.example(rng)) for _ in range(2))
        told = [Segment(first, float(times[0]), float(times[1])), Segment(second, float(times[2]), float(times[3]))]
        return Transcript(told, str(rng.choice(self.languages)))

    def render(self, raw: Any) -> dict[str, bytes | str]:
        return {"text/plain": "\n".join(f"{_clock(s.start)}-{_clock(s.end)} {s.text}" for s in raw.segments)}

    # From a transcript to values.

    def _values(self, raw: Any) -> list[int]:
        segments = self._checked(raw)
        marks, end = self._marks, self._inner.end
        if not segments:
            return [marks[START], marks[SILENCE], *([] if end is None else [end])]
        if not raw.timed:
            told = [marks[UNTIMED], *(value for segment in segments for value in self._pieces(segment.text))]
        else:
            told = [value for segment in segments for value in self._timed(segment)]
        opening = [marks[START], marks[mark(raw.language)], marks[mark(raw.task)]]
        return [*opening, *told, *([] if end is None else [end])]

    def _timed(self, segment: Segment) -> list[int]:
        """A segment between its moments; of one that goes on, the first of them."""
        if segment.start is None or segment.start > self.longest:
            return []
        start = self._moments[_steps(segment.start)]
        if segment.end is None or segment.end > self.longest:
            return [start]
        return [start, *self._pieces(segment.text), self._moments[_steps(segment.end)]]

    def _pieces(self, text: str) -> list[int]:
        """The text's own values: nothing that stands around it, no mark."""
        if not text:
            return []
        values = self._text.encode(text).streams[self.name].values.tolist()
        reserved = {*self._inner.special.values(), self._inner.end, *self._spelled}
        return [value for value in values if value not in reserved]

    def _checked(self, raw: Any) -> Sequence[Segment]:
        """The segments, in order."""
        segments = raw.segments if isinstance(raw, Transcript) and isinstance(raw.segments, Sequence) else [None]
        if not all(isinstance(segment, Segment) for segment in segments):
            raise SampleError(f"{self.name!r} got {raw!r:.40}; expected a Transcript of segments.")
        if raw.segments and (raw.language not in self.languages or raw.task not in TASKS):
            raise SampleError(
                f"A transcript is in {raw.language!r} to {raw.task!r}; expected one of {', '.join(self.languages)} to "
                f"{' or '.join(TASKS)}. Name the language among the tokenizer's."
            )
        at = 0.0
        for segment in raw.segments if raw.timed else ():
            last = segment is raw.segments[-1]
            times = [time for time in (segment.start, segment.end) if time is not None]
            if segment.start is None or (segment.end is None and not last) or not _rise(at, times):
                raise SampleError(
                    f"A segment {segment.text!r:.40} goes from {segment.start} to {segment.end}, behind one "
                    f"that ends at {at}; expected moments that never decrease, and an end of each but the last."
                )
            at = times[-1]
        return raw.segments

    # From values to a transcript.

    def _segments(self, values: list[int]) -> list[Segment]:
        places = {value: step for step, value in enumerate(self._moments)}
        found: list[Segment] = []
        start, pieces = None, []
        for value in values:
            if value not in places:
                pieces += [] if value in self._spelled else [value]
            elif start is None and not pieces:
                start = round(places[value] * STEP, 2)
            else:
                found.append(Segment(self._written(pieces), start, round(places[value] * STEP, 2)))
                start, pieces = None, []
        if start is not None or pieces:
            found.append(Segment(self._written(pieces), start, None))
        return found

    def _written(self, pieces: list[int]) -> str:
        return str(self._text.decode(Tokens.of(self.name, torch.tensor(pieces)))) if pieces else ""

    # The vocabulary.

    @property
    def _inner(self) -> StreamSpec:
        (spec, *_) = self._text.streams
        if not spec.is_discrete:
            raise ConfigError(f"Tokenizer {self.name!r} has text={self.text}; expected a tokenizer of text.")
        return spec

    @cached_property
    def _spec(self) -> StreamSpec:
        inner, marks = self._inner, self._marks
        roles = {("text_start" if role == "start" else role): value for role, value in inner.special.items()}
        named = {("start" if spelled == START else spelled): value for spelled, value in marks.items()}
        size = max(inner.width, 1 + max(marks.values()))
        return replace(inner, vocab_size=size, special={**roles, **named})

    @cached_property
    def _marks(self) -> dict[str, int]:
        """Values by spelling."""
        inner, behind = self._inner, count(self._inner.width)
        around = {*(value for role, value in inner.special.items() if role in ("start", "class")), inner.end}
        found: dict[str, int] = {}
        for spelled in self._spellings():
            try:
                read = self._text.encode(spelled).streams[self.name].values.tolist()
            except SampleError:  # an alphabet without its letters
                read = []
            own = [value for value in read if value not in around]
            found[spelled] = own[0] if len(own) == 1 else next(behind)
        return found

    def _spellings(self) -> list[str]:
        named = [mark(name) for name in (*self.languages, *TASKS)]
        moments = [moment(step) for step in range(1 + _steps(self.longest))]
        return [START, *named, SILENCE, PREVIOUS, UNTIMED, *moments]

    @cached_property
    def _moments(self) -> list[int]:
        return [self._marks[moment(step)] for step in range(1 + _steps(self.longest))]

    @cached_property
    def _spelled(self) -> dict[int, str]:
        return {value: spelled for spelled, value in self._marks.items()}

    # What is learned is the text tokenizer's.

    @property
    def fitted(self) -> bool:
        return self._text.fitted

    def fit(self, samples: Iterable[Any]) -> None:
        self._text.fit(segment.text for raw in samples for segment in self._checked(raw))
        self._forget()

    def state(self) -> dict[str, bytes]:
        return self._text.state()

    def restore(self, state: Mapping[str, bytes]) -> None:
        self._text.restore(state)
        self._forget()

    def _forget(self) -> None:
        for name in ("_marks", "_moments", "_spec", "_spelled"):
            self.__dict__.pop(name, None)


def _steps(seconds: float) -> int:
    return round(seconds / STEP)


def _rise(at: float, times: Sequence[Any]) -> bool:
    """Whether these are finite seconds, none a step before the one before it."""
    if not all(isinstance(time, int | float) and 0 <= time < 1e9 for time in times):
        return False
    return all(_steps(one) <= _steps(other) for one, other in zip([at, *times], times, strict=False))


def _clock(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.2f}"
