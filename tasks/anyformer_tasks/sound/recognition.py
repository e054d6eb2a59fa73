"""What is said: speech goes in, its text comes out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from anyformer.contracts import Metric, Sample, Score, Split, Task
from anyformer.errors import ConfigError
from anyformer.objectives import CTC
from anyformer.objectives.language_model import LanguageModel
from anyformer.tokens import Tokens
from anyformer_tasks.language.judgement import prepared
from anyformer_tasks.packages import require
from anyformer_tasks.sound.clip import Clip
from anyformer_tasks.sound.dataset import SoundSet
from anyformer_tasks.sound.spelling import Counted
from anyformer_tasks.sound.strings import Joined, Recordings
from anyformer_tasks.sound.writing import Writing, by_attention, by_ctc

if TYPE_CHECKING:
    from anyformer.contracts import Objective
    from anyformer.model import Model
    from anyformer.objectives.transcripts import Language

NAME = "speech_recognition"
WORDS, CHARACTERS = "word_error_rate", "character_error_rate"


@dataclass
class SpeechRecognition(Task):
    """dataset, data_dir: a page of configs/datasets/sound, and where its files are.

    text: the clips' field that says what is spoken; lowercase: all of it. alphabet: the characters of it that are kept;
    without one, all. joined: what a Joined says, for recordings of several clips of one speaker in a row.
    decoding: how a text is found, see Writing; {} is the likeliest path, or value, at every step. A model whose
    objective reads the text that it has written (`ctc_and_attention`, `sequence_to_sequence`, `prefix`) writes by
    attention, any other by CTC.

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
        self._writing = Writing.of(NAME, self.decoding) if self.decoding else None
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
            wanted = str(sample.values["text"])
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
        spec, language = tokenizer.streams[0], self._language(model)
        prompts = prepared(NAME, self, model, asked)
        write = by_attention if self._reads_its_text else by_ctc
        found = [torch.tensor(said, dtype=torch.int64) for said in write(model, prompts, spec, self._writing, language)]
        return [tokenizer.decode(Tokens.of(spec.name, said)) if len(said) else "" for said in found]

    @property
    def _reads_its_text(self) -> bool:
        """Whether an example holds the text, and not only what is heard."""
        bare, labelled = (self.objective.length({"audio": 1, "text": size}) for size in (0, 1))
        return labelled > bare

    def _language(self, model: Model) -> Language | None:
        """What has a say in the text, beside what is heard."""
        name, writing = self.fields["text"], self._writing
        if writing is not None and writing.order:
            return Counted(model.tokenizers[name], writing.order, tuple(self.corpus("text")))
        if writing is not None and writing.language:
            from anyformer.checkpoint import load

            return LanguageModel(load(writing.language, model.device), name, model.tokenizers[name])
        return None


def _jiwer() -> Any:
    """PluginError where the package is missing."""
    require("jiwer", "metrics", f"{WORDS} and {CHARACTERS} are counted by")
    import jiwer

    return jiwer
