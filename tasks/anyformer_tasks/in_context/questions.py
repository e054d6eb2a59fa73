"""What tasks over files of questions share: records read as they were published, and prompts made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from anyformer.contracts import Sample, Split, Task
from anyformer.errors import ConfigError
from anyformer.evaluation.likelihood import TextModel
from anyformer.objectives import NextToken
from anyformer_tasks.files import content as content
from anyformer_tasks.files import read as read
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
