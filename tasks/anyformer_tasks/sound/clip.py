"""One recording of a set: where it is, and what is said of it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float32

from anyformer.errors import SampleError, unknown

Wave = tuple[Float32[np.ndarray, "channels time"], int]
"""Samples at full scale ±1, and how many there are a second."""


@dataclass(frozen=True)
class Clip:
    """name: unique in its set. place: a file's path, or a file's bytes. raw: its fields as they were found; fields: as
    a person reads them. span: of a part of what is there, its samples, from the first to behind the last."""

    name: str
    place: str | bytes
    raw: Mapping[str, str]
    fields: Mapping[str, Any] = field(default_factory=dict)
    span: tuple[int, int] | None = None

    @property
    def sound(self) -> str | Wave:
        """A raw value for a tokenizer: the path of a whole file, so that nothing is read before it is needed."""
        return self.place if isinstance(self.place, str) and self.span is None else self.wave()

    @property
    def speaker(self) -> str:
        """Whose clips are not independent, where that is known."""
        return str(self.fields.get("speaker", ""))

    def wave(self) -> Wave:
        """Its samples; SampleError for a file that cannot be read."""
        import soundfile

        file = io.BytesIO(self.place) if isinstance(self.place, bytes) else self.place
        try:
            samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
        except (OSError, RuntimeError) as error:
            raise SampleError(f"{self.name} cannot be read as audio ({error}). Convert it to WAV or FLAC.") from error
        return np.ascontiguousarray(samples[slice(*self.span or (None,))].T), rate

    def told(self, name: str) -> str:
        """A field in words: a list's parts with blanks between them."""
        if name not in self.fields:
            raise unknown(f"field of the clip {self.name!r}:", name, self.fields)
        value = self.fields[name]
        return " ".join(value) if isinstance(value, list) else str(value)
