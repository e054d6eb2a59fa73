"""What is said: speech goes in, its text comes out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from anyformer.contracts import Metric, Sample, Score, Split, Task
from anyformer.errors import ConfigError, nearest
from anyformer.objectives import CTC
from anyformer.objectives.ctc import blank_of
from anyformer.objectives.transcripts import Decoding, PrefixBeams, greedy, log_probabilities
from anyformer.tokens import Tokens
from anyformer_tasks.language.judgement import prepared
from anyformer_tasks.packages import require
from anyformer_tasks.sound.clip import Clip
from anyformer_tasks.sound.dataset import SoundSet
from anyformer_tasks.sound.spelling import Counted
from anyformer_tasks.sound.strings import Joined, Recordings

if TYPE_CHECKING:
    from anyformer.contracts import Objective
    from anyformer.model import Model

NAME = "speech_recognition"
WORDS, CHARACTERS = "word_error_rate", "character_error_rate"
DECODING = ("beams", "order", "weight", "bonus")


@dataclass
class SpeechRecognition(Task):
    """dataset, data_dir: a page of configs/datasets/sound, and where its files are.

    text: the clips' field that says what is spoken; lowercase: all of it. alphabet: the characters of it that are kept;
    without one, all. joined: what a Joined says, for recordings of several clips of one speaker in a row.
    decoding: how a text is found. {} is the likeliest path; beams: the texts that compete; order, weight: of an n-gram
    model of the training texts which has a say in it, and how much; bonus: for each value, against the shortness that
    it prefers (see PrefixBeams).

    A sample is {"audio": …, "text": …}. Errors are insertions, deletions and substitutions over what should have been
    said, of the whole split: texts weigh by their lengths.
    """

    dataset: str = "librispeech"
    data_dir: str = ""
    text: str = "text"
    lowercase: bool = False
    alphabet: str = ""
    joined: dict[str, Any] | None = None
    decoding: dict[str, Any] = field(default_factory=dict)

    fields: ClassVar[Mapping[str, str]] = {"audio": "audio", "text": "text"}
    modality: ClassVar[str] = "audio"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(WORDS, higher_is_better=False),
        Metric(CHARACTERS, higher_is_better=False),
    )

    def __post_init__(self) -> None:
        for name in self.decoding:
            if name not in DECODING:
                raise ConfigError(
                    f"{NAME} has no setting {name!r} of its decoding; expected some of: {', '.join(DECODING)}."
                    f"{nearest(name, DECODING)}"
                )
        if self.joined is not None:
            try:
                self._joined = Joined(**self.joined)
            except TypeError as error:
                raise ConfigError(
                    f"{NAME} has joined={self.joined}; expected the settings of Joined ({error})."
                ) from error

    def default_objective(self) -> Objective:
        return CTC(target="text")

    @cached_property
    def source(self) -> SoundSet:
        return SoundSet.named(self.dataset, self.data_dir)

    def examples(self, split: Split) -> Sequence[Sample]:
        clips = self.source.clips(split)
        if self.joined is not None:
            return Recordings(clips, self._told, split, self._joined)
        return [
            Sample(clip.name, {"audio": clip.sound, "text": self._told(clip)}, cluster=clip.speaker) for clip in clips
        ]

    def corpus(self, field: str) -> Iterable[Any]:
        samples = self.examples("train")
        return samples.texts() if field == "text" and isinstance(samples, Recordings) else super().corpus(field)

    def _told(self, clip: Clip) -> str:
        return self.spelled(clip.told(self.text))

    def spelled(self, text: str) -> str:
        """A text as it is to be written: blanks are single, and none stands at an end.

        >>> SpeechRecognition(lowercase=True, alphabet="abcdefghijklmnopqrstuvwxyz' ").spelled("It's  late; go!")
        "it's late go"
        """
        text = text.lower() if self.lowercase else text
        kept = "".join(letter for letter in text if letter in self.alphabet) if self.alphabet else text
        return " ".join(kept.split())

    def score(self, model: Model, samples: Sequence[Sample]) -> Iterator[Score]:
        """The edits between each sample's text and what the model makes of its sound."""
        jiwer = _jiwer()
        for sample, said in zip(samples, self.written(model, samples), strict=True):
            wanted = sample.values["text"]
            shown = {**sample.values, "said": said}
            for name, judge in ((WORDS, jiwer.process_words), (CHARACTERS, jiwer.process_characters)):
                found = judge(wanted, said)
                errors = found.substitutions + found.deletions + found.insertions
                size = found.substitutions + found.deletions + found.hits
                yield Score(sample.id, name, errors / size, float(size), sample.cluster, shown)

    def written(self, model: Model, samples: Sequence[Sample]) -> list[str]:
        """The model's own text for each sample's sound."""
        asked = [replace(s, values={"audio": s.values["audio"]}) for s in samples]
        tokenizer = model.tokenizers[self.fields["text"]]
        spec = tokenizer.streams[0]
        blank, decode = blank_of(spec), self._decoding(model)
        chances = log_probabilities(model, prepared(NAME, self, model, asked), spec.name)
        values = [torch.tensor(decode(rows, blank), dtype=torch.int64) for rows in chances]
        return [tokenizer.decode(Tokens.of(spec.name, said)) if len(said) else "" for said in values]

    def _decoding(self, model: Model) -> Decoding:
        chosen = dict(self.decoding)
        if not chosen:
            return greedy
        order = chosen.pop("order", 0)
        language = None
        if order:
            texts = self.corpus("text")
            language = Counted(model.tokenizers[self.fields["text"]], order, tuple(texts))
        return PrefixBeams(language=language, **chosen)


def _jiwer() -> Any:
    """PluginError where the package is missing."""
    require("jiwer", "metrics", f"{WORDS} and {CHARACTERS} are counted by")
    import jiwer

    return jiwer
