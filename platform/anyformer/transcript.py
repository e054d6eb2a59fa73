"""A raw transcript: what is said in a recording and when. A task tells it, and a tokenizer of transcripts encodes it.

Its marks are spelled as Whisper's are (Radford et al. 2022, arXiv:2212.04356 §2.3 and figure 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

START, SILENCE, UNTIMED, PREVIOUS = "<|startoftranscript|>", "<|nospeech|>", "<|notimestamps|>", "<|startofprev|>"
TRANSCRIBE, TRANSLATE = "transcribe", "translate"
STEP = 0.02
"""Seconds from one moment to the next."""


def mark(name: str) -> str:
    """A language or a task, as it stands before a text.

    >>> mark("en")
    '<|en|>'
    """
    return f"<|{name}|>"


def moment(step: int) -> str:
    """So many steps from the start of what is heard.

    >>> moment(57)
    '<|1.14|>'
    """
    return mark(f"{step * STEP:.2f}")


@dataclass(frozen=True)
class Segment:
    """What is said from `start` to `end`, in seconds; None where that is not told. A text brings the blank that parts
    it from the one before. Of what goes on behind the end of what is heard, only the start is told."""

    text: str
    start: float | None = None
    end: float | None = None


@dataclass(frozen=True)
class Transcript:
    """segments: in the order in which they are said; none is silence. language: of what is heard, by its code. task:
    TRANSCRIBE, in that language, or TRANSLATE, in English."""

    segments: Sequence[Segment] = ()
    language: str = "en"
    task: str = TRANSCRIBE

    @property
    def timed(self) -> bool:
        return any(segment.start is not None or segment.end is not None for segment in self.segments)

    def __str__(self) -> str:
        """The text alone."""
        return "".join(segment.text for segment in self.segments).strip()
