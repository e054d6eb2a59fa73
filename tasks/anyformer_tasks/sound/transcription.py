"""What is said and when: speech of any length goes in, a transcript comes out, in its language or in English."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile

from anyformer.contracts import Sample, Split, prepare
from anyformer.errors import ConfigError, SampleError
from anyformer.model.transcribing import Transcribing
from anyformer.objectives import SequenceToSequence
from anyformer.transcript import STEP, TRANSCRIBE, TRANSLATE, Segment, Transcript
from anyformer_tasks.samples import MadeSamples
from anyformer_tasks.sound.clip import Clip, Wave
from anyformer_tasks.sound.recognition import SpeechRecognition
from anyformer_tasks.sound.strings import Recordings, Span
from anyformer_tasks.sound.windows import Listener, Windows, transcribed

if TYPE_CHECKING:
    from anyformer.batch import Example
    from anyformer.contracts import Objective
    from anyformer.model import Model

NAME = "transcription"


@dataclass
class Transcription(SpeechRecognition):
    """Speech recognition in Whisper's manner (Radford et al. 2022, arXiv:2212.04356): the text is a `Transcript`.

    transcript: the tokenizer of transcripts. timed: whether their moments are learned and told; of joined recordings
    each clip is a segment, any other is one.
    language: of what is heard. translate: the clips' text is its translation into English.
    windows: how a recording is written down, see Windows. A recording longer than a window is learned from as far as
    the tokenizers hear and tell it (`pad`, `longest`): from its start on, or from behind any of its segments, where
    windows begin, so that what is left may also be silence.

    A sample is {"audio": …, "text": Transcript}, judged by its text as speech recognition is.
    """

    transcript: str = "transcript"
    timed: bool = True
    language: str = "en"
    translate: bool = False
    windows: dict[str, Any] = field(default_factory=dict)

    @property
    def fields(self) -> Mapping[str, str]:  # ty: ignore[incompatible-property-override]
        return {"audio": "audio", "text": self.transcript}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decoding:
            raise ConfigError(f"{NAME} has decoding={self.decoding}; expected its settings under windows.")
        self._windows = Windows.of(self.windows)

    def default_objective(self) -> Objective:
        return SequenceToSequence(target="text")

    def examples(self, split: Split) -> Sequence[Sample]:
        return Transcribed(super().examples(split), self, self._windows.seconds if split == "train" else math.inf)

    def corpus(self, field: str) -> Iterable[Any]:
        if field != "text":
            return super().corpus(field)
        plain = super().examples("train")
        texts = plain.texts() if isinstance(plain, Recordings) else (sample.values["text"] for sample in plain)
        return (self.told([(text, None, None)]) for text in texts)

    def told(self, spans: Sequence[tuple[str, float | None, float | None]]) -> Transcript:
        """What is said from when to when, as it is to be learned."""
        told = [Segment(f" {text}", start, end) for text, start, end in spans if text]
        return Transcript(told, self.language, self._asked)

    @property
    def _asked(self) -> str:
        return TRANSLATE if self.translate else TRANSCRIBE

    def written(self, model: Model, samples: Sequence[Sample]) -> list[str]:
        return [str(self.transcribed(model, sample)) for sample in samples]

    def transcribed(self, model: Model, sample: Sample) -> Transcript:
        """What the model makes of a sample's sound, however long it is."""
        samples, rate = _wave(sample.values["audio"])
        tokenizer = model.tokenizers[self.fields["text"]]
        rule = Transcribing(tokenizer.streams[0], self.language, self._asked, self.timed, silence=self._windows.silence)

        def prompted(start: float, end: float) -> Example:
            heard = samples[:, round(start * rate) : round(end * rate)], rate
            asked = replace(sample, values={"audio": heard})
            return prepare(NAME, self, model.tokenizers, asked, np.random.default_rng(0))

        listener = Listener(model, tokenizer, prompted, rule, self._windows)
        segments = transcribed(samples.shape[1] / rate, self._windows.seconds, listener)
        return Transcript(segments, self.language, self._asked)


class Transcribed(MadeSamples):
    """Samples of speech recognition whose texts are transcripts. Recordings of more than `window` seconds begin at any
    place where a window may."""

    def __init__(self, plain: Sequence[Sample], task: Transcription, window: float) -> None:
        self.plain, self.task, self.window = plain, task, window

    def __len__(self) -> int:
        return len(self.plain)

    def sample(self, index: int) -> Sample:
        if isinstance(self.plain, Recordings):
            sample, spans = self._begun(*self.plain.timed(index), index)
        else:
            sample = self.plain[index]
            spans = [(sample.values["text"], 0.0, _seconds(sample.values["audio"]) if self.task.timed else 0.0)]
        told = spans if self.task.timed else [(text, None, None) for text, *_ in spans]
        return replace(sample, values={**sample.values, "text": self.task.told(told)})

    def _begun(self, sample: Sample, spans: list[Span], index: int) -> tuple[Sample, list[Span]]:
        """The recording from its start, or from behind one of its segments, on."""
        wave, rate = sample.values["audio"]
        seconds = wave.shape[1] / rate
        if seconds <= self.window:
            return sample, spans
        ends = [0.0, *(end for _, _, end in spans if seconds - end >= STEP)]
        number = int(np.random.default_rng(index).integers(len(ends)))
        begin = ends[number]
        left = [(text, start - begin, end - begin) for text, start, end in spans[number:]]
        return replace(sample, values={**sample.values, "audio": (wave[:, round(begin * rate) :], rate)}), left


def _seconds(sound: str | Wave) -> float:
    """How long a recording is; of a file, as its header tells."""
    if not isinstance(sound, str):
        return sound[0].shape[1] / sound[1]
    try:
        told = soundfile.info(sound)
    except (OSError, RuntimeError) as error:
        raise SampleError(f"{sound} cannot be read as audio ({error}). Convert it to WAV or FLAC.") from error
    return told.frames / told.samplerate


def _wave(sound: str | Wave) -> Wave:
    return Clip(sound, sound, {}).wave() if isinstance(sound, str) else sound
