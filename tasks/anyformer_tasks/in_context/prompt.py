"""Prompts as data: how a record becomes a question and its answer, and how examples stand before it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from anyformer import presets
from anyformer.errors import ConfigError, unknown
from anyformer.evaluation.statistics import key

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Prompt:
    """A template. `{field}` stands for a field of the record.

    instruction: said once, first. question, answer: one example; the space between them belongs to the answer.
    between: what parts examples. until: where a written answer ends. final: a regular expression whose first group is
    the answer within what was written, for a chain of thought (arXiv:2201.11903) that ends in one.
    """

    question: str
    answer: str = " {answer}"
    instruction: str = ""
    between: str = "\n\n"
    until: str = "\n"
    final: str = ""

    @classmethod
    def named(cls, name: str) -> Prompt:
        """The template of that name in configs/prompts, or the file at that path."""
        path = Path(name) if name.endswith(".yaml") else presets.find("prompts", name)
        content = presets.read_mapping(path, "The prompt")
        if "question" not in content:
            raise ConfigError(f"The prompt {path} has no question; expected a mapping with `question`.")
        known = [f.name for f in fields(cls)]
        for setting in content:
            if setting not in known:
                raise unknown("prompt setting", str(setting), known)
        return cls(**content)

    def ask(self, record: Record, shots: Sequence[Record] = ()) -> str:
        """The question behind the examples, as the context of an answer."""
        examples = [self.asked(shot) + self.answered(shot) for shot in shots]
        return self.instruction + self.between.join([*examples, self.asked(record)])

    def asked(self, record: Record) -> str:
        return filled(self.question, record)

    def answered(self, record: Record) -> str:
        return filled(self.answer, record)

    def said(self, written: str) -> str:
        """The answer within what a model wrote; all of it where `final` finds none."""
        found = re.search(self.final, written, re.DOTALL) if self.final else None
        return (found[1] if found else written).strip()


def filled(template: str, record: Record) -> str:
    """The template with the record's fields; ConfigError names one that it lacks."""
    try:
        return template.format_map(record)
    except KeyError as error:
        raise ConfigError(
            f"The prompt asks for {error}, but a record has {', '.join(map(repr, record))}; choose another prompt."
        ) from error


def shots(count: int, pool: Sequence[Record], seed: int, name: str) -> list[Record]:
    """`count` different records of the pool for the question `name`: the same at every call (arXiv:2005.14165 §2.4)."""
    if count > len(pool):
        raise ConfigError(f"{count} examples were asked for, but the training split has {len(pool)}; ask for fewer.")
    drawn = np.random.default_rng(key(seed, name, "shots")).choice(len(pool), count, replace=False)
    return [pool[i] for i in drawn.tolist()]
