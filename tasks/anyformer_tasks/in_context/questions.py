"""What tasks over files of questions share: records read as they were published, and prompts made of them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from anyformer.contracts import Sample, Split, Task
from anyformer.errors import ConfigError
from anyformer.evaluation.likelihood import TextModel
from anyformer.objectives import NextToken
from anyformer_tasks.in_context.prompt import Prompt, Record, shots

if TYPE_CHECKING:
    from anyformer.contracts import Objective
    from anyformer.model import Model


@dataclass(frozen=True)
class Question(Sample):
    """A sample that knows its record. For training, its text is the question with the answer behind it."""

    record: Record = field(default_factory=dict)


@dataclass
class Questions(Task):
    """Records of a file, asked with `shots` examples before each.

    data_dir: where the published files are. files: one for each split. prompt: a template of configs/prompts, or a
    file. shots: how many examples stand before a question, drawn from the training split. seed: which ones. context:
    the most tokens that the model reads, by default what its architecture says.
    """

    data_dir: str = ""
    files: dict[str, str] = field(default_factory=dict)
    prompt: str = ""
    shots: int = 0
    seed: int = 0
    context: int | None = None

    fields: ClassVar[Mapping[str, str]] = {"text": "text"}
    modality: ClassVar[str] = "text"
    source: ClassVar[str] = "the published files"

    def __post_init__(self) -> None:
        if self.shots < 0:
            raise ConfigError(f"shots={self.shots}; expected 0 or more.")

    def default_objective(self) -> Objective:
        return NextToken()

    @cached_property
    def template(self) -> Prompt:
        return Prompt.named(self.prompt)

    def records(self, split: Split) -> list[Record]:
        """The split's records with the fields that prompts name."""
        if split not in self.files:
            raise ConfigError(f"There is no file for the split {split!r}; name one in `files`, {self.files} has none.")
        return read(Path(self.data_dir) / self.files[split], self.source)

    def examples(self, split: Split) -> Sequence[Question]:
        return [
            Question(
                f"{split}-{i}", {"text": self.template.asked(record) + self.template.answered(record)}, record=record
            )
            for i, record in enumerate(self.records(split))
        ]

    def text_model(self, model: Model) -> TextModel:
        return TextModel(model, self.fields["text"], self.context)

    def contexts(self, samples: Sequence[Sample]) -> list[str]:
        """Each question behind its examples, none of which is itself."""
        pool = self.records("train") if self.shots else []
        found = []
        for sample in samples:
            record = record_of(sample)
            others = [other for other in pool if other != record] if self.shots else []
            found.append(self.template.ask(record, shots(self.shots, others, self.seed, sample.id)))
        return found


def record_of(sample: Sample) -> Record:
    if not isinstance(sample, Question):
        raise ConfigError(f"Sample {sample.id!r} has no record; expected one of this task's own examples.")
    return sample.record


def read(path: Path, source: str) -> list[Record]:
    """The records of a JSONL, JSON or CSV file. ConfigError says where to get a file that is not there."""
    text = content(path, source)
    try:
        if path.suffix == ".csv":
            return list(csv.DictReader(io.StringIO(text)))
        if path.suffix == ".json":
            return list(_listed(json.loads(text)))
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except ValueError as error:
        raise ConfigError(f"{path} is not {path.suffix[1:].upper()} ({error}); download it again.") from error


def content(path: Path, source: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror}); expected {source}. Download it and set data_dir."
        ) from error


def _listed(document: Any) -> Iterator[Any]:
    """The records of a JSON document: a list, or a list under `Data` (TriviaQA's)."""
    yield from document["Data"] if isinstance(document, Mapping) and "Data" in document else document
