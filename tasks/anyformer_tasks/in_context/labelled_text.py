"""Classification asked in words: which of a fixed set of labels a text has."""

from __future__ import annotations

from dataclasses import dataclass, field

from anyformer.errors import ConfigError
from anyformer_tasks.in_context.multiple_choice import MultipleChoice
from anyformer_tasks.in_context.prompt import Record


@dataclass
class LabelledText(MultipleChoice):
    """words: what the labels are called in a prompt, in their order: `[negative, positive]`. `label` is the field that
    has a label's number, counted from first_label."""

    prompt: str = "text_label"
    choices: list[str] = field(default_factory=lambda: ["choices"])
    words: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.words)) < max(2, len(self.words)):
            raise ConfigError(f"words={self.words}; expected a word for each label, at least two and no two alike.")

    def _complete(self, record: Record) -> Record:
        label = record.get(self.label, "0")
        if not str(label).strip().removeprefix("-").isdecimal():
            raise ConfigError(f"A text has the label {label!r}; expected a whole number, counted from first_label.")
        return super()._complete({**record, "choices": self.words})
