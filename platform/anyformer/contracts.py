"""The contracts a plugin fulfils: `Tokenizer`, `Task`, `Objective` and `Study`, each readable on one screen.

All of them are dataclasses: their fields are their settings, which is how they are made
from YAML, checked for misspelt names, and written into a checkpoint as plain JSON.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from anyformer.batch import Example, counted
from anyformer.errors import ConfigError, SampleError, unknown
from anyformer.tokens import Stream, StreamSpec, Tokens

if TYPE_CHECKING:
    from anyformer.model import ForwardPass, Model

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class Configured:
    """A dataclass whose `init` fields are its settings."""

    def config(self) -> dict[str, Any]:
        """The settings as plain JSON values; `type(self)(**config)` makes an equal, unfitted object."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.init}  # ty: ignore[invalid-argument-type]


@dataclass
class Tokenizer(Configured, ABC):
    """Turns raw values of one modality into `Tokens` and back. Holds no trainable weights.

    It travels into data workers, so it must pickle. `fidelity` states what `decode(encode(raw))` promises:
    "exact" equality, an "approximate" value of the same kind, or "none" when nothing can be rebuilt.
    `measures_by_encoding` says that `length` does what `encode` does: whoever plans a batch then encodes, once.
    """

    name: str

    fidelity: ClassVar[Literal["exact", "approximate", "none"]] = "exact"
    measures_by_encoding: ClassVar[bool] = False

    @property
    @abstractmethod
    def streams(self) -> tuple[StreamSpec, ...]:
        """Every stream that `encode` may produce. Raises TokenizerError before a needed `fit`."""

    @abstractmethod
    def encode(self, raw: Any) -> Tokens:
        """Tokens of one raw value; SampleError names what is wrong with it and the cure."""

    @abstractmethod
    def decode(self, tokens: Tokens) -> Any:
        """The way back, as far as `fidelity` promises."""

    @abstractmethod
    def length(self, raw: Any) -> int:
        """`encode(raw).length`, exactly and cheaply: batches are planned with it before anything is encoded."""

    @abstractmethod
    def example(self, rng: np.random.Generator) -> Any:
        """A synthetic raw value, made offline, for tests and contract checks."""

    @property
    def fitted(self) -> bool:
        """False while `fit` must still be called."""
        return True

    def fit(self, samples: Iterable[Any]) -> None:
        """Learn what is learned from raw training values: a BPE vocabulary, normalisation statistics.
        By default there is nothing to learn."""

    def state(self) -> dict[str, bytes]:
        """What `fit` learned, as files by name; these travel with the checkpoint."""
        return {}

    def restore(self, state: Mapping[str, bytes]) -> None:
        """Take back what `state` gave; TokenizerError names a file that is missing or unreadable."""
        if state:
            raise ConfigError(f"Tokenizer {self.name!r} has no state but was given {sorted(state)}.")

    def render(self, raw: Any) -> dict[str, bytes | str]:
        """The raw value for a person, by MIME type ("image/png", "audio/wav", "text/plain")."""
        return {"text/plain": str(raw)}

    def fingerprint(self) -> str:
        """sha256 over the settings and everything learned: equal fingerprints encode alike."""
        digest = hashlib.sha256(json.dumps(self.config(), sort_keys=True).encode())
        for filename, content in sorted(self.state().items()):
            digest.update(filename.encode() + b"\0" + hashlib.sha256(content).digest())
        return digest.hexdigest()


@dataclass(frozen=True)
class Sample:
    """One raw example: `{field: raw}`; a field may be absent. `cluster` groups samples that are not independent
    (passages of one document, episodes of one seed) for intervals."""

    id: str
    values: Mapping[str, Any]
    cluster: str = ""


@dataclass(frozen=True)
class Metric:
    """A column of the report. `value = Σ weight·value / Σ weight` over a task's scores."""

    name: str
    higher_is_better: bool


@dataclass(frozen=True)
class Score:
    """One sample's score on one metric.

    `shown` is what a person may want to see of it, by label: raw values under the name of their field (they are
    rendered by that field's tokenizer), anything else as text.
    """

    id: str
    metric: str
    value: float
    weight: float = 1.0
    cluster: str = ""
    shown: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Loss:
    """A sum over predicted values and how many they were; dividing is the trainer's business, because it divides by
    what the whole optimiser step holds.

    parts: named sums for the log (they are not added to `sum` again).
    over: what was counted: the targets in the stream of this name, or SLOTS; by default all targets together.
    plus: losses that are added to this one, each a mean over what it has counted itself.
    """

    sum: Tensor
    count: float
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    over: str | None = None
    plus: tuple[Loss, ...] = ()

    @property
    def terms(self) -> tuple[Loss, ...]:
        """This loss and those that are added to it."""
        return (self, *self.plus)

    def mean(self, counts: Mapping[str, float] | None = None) -> Tensor:
        """`Σ sum / count`. counts: a whole step's, by stream; without, each loss's own."""
        means = [t.sum / (t.count if counts is None else counted(counts, t.over)) for t in self.terms]
        return torch.stack(means).sum() if self.plus else means[0]


@dataclass
class Objective(Configured, ABC):
    """What is predicted from what. `prepare` runs on a data worker, `loss` on the device.

    coupled: its loss compares the samples of a batch with each other, over all ranks; it is then asked of every rank at
    every training step, with no targets where a rank's batch has none.
    """

    coupled: ClassVar[bool] = False

    @abstractmethod
    def predicts(self, specs: Mapping[str, Sequence[StreamSpec]]) -> list[str]:
        """Names of the streams that need a head, given each field's streams; ConfigError if none fits."""

    @property
    def plain(self) -> Objective:
        """The objective without what it makes harder in training only, such as frames that it hides: that of held-out
        losses and of scores. By default itself."""
        return self

    def ready(self, specs: Mapping[str, Sequence[StreamSpec]]) -> Objective:
        """The objective for fields of these streams, before anything is prepared; ConfigError if one lacks a value that
        it needs, such as a mask. By default nothing is needed."""
        return self

    def length(self, lengths: Mapping[str, int]) -> int:
        """How many slots `prepare` puts on both axes together, for fields of these lengths: what a batch's token budget
        holds. Where that is a matter of chance or of values, the most; by default all fields, one behind the other.

        It is asked for every sample that is drawn, before anything is encoded. The objective must be `ready`.
        """
        return sum(lengths.values())

    def beside(
        self, model: Model, specs: Mapping[str, Sequence[StreamSpec]], load: Callable[[str], Model]
    ) -> nn.Module | None:
        """What else is trained with the model, asked for once, when that has its first weights. The trainer optimises
        it, moves it and keeps it with its own state; the model that a checkpoint holds is without it. By default there
        is nothing. specs: as in `predicts`. load: a model from a checkpoint's path.
        """
        return None

    @abstractmethod
    def prepare(self, tokens: Mapping[str, Tokens], rng: np.random.Generator) -> Example:
        """One example from a sample's fields, in the task's order. Every random choice comes from `rng`.

        A sample without the field to be predicted gives the prompt: the same example with no targets.
        """

    def read(self, forward: ForwardPass, name: str, target: Stream) -> Tensor:
        """What the model says of a target of this stream, where `loss` reads it: a row for each value. Those who judge
        a model read it here. By default as `ForwardPass.read_each` says."""
        return forward.read_each(name, target)

    @abstractmethod
    def loss(self, forward: ForwardPass, targets: Mapping[str, Stream]) -> Loss:
        """The loss of one task's packed targets.

        `forward` is one batch on its way through one model; its hidden states are computed once, when first
        asked for, and shared by every task in the batch.
        """


@dataclass
class Task(Configured, ABC):
    """A data set with its fields, what is learned from it, and how a model's answers are scored.

    fields: field name → tokenizer name, in the order in which they are laid in a sequence.
    modality: a label for the report. metrics: the columns, the first one being the headline.
    """

    fields: ClassVar[Mapping[str, str]]
    modality: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]]

    @abstractmethod
    def default_objective(self) -> Objective:
        """What the task trains unless a configuration chooses otherwise."""

    @cached_property
    def objective(self) -> Objective:
        """The objective in use; assign another one to replace the default."""
        return self.default_objective()

    @abstractmethod
    def examples(self, split: Split) -> Sequence[Sample]:
        """The split's samples: the same ones in the same order at every call."""

    def varied(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The sample as training sees it this time: augmentation. No field becomes longer, because batches are planned
        with its length; every random choice comes from `rng`, and one that is never asked says that there was none. By
        default the sample itself."""
        return sample

    def corpus(self, field: str) -> Iterable[Any]:
        """What a tokenizer of the field is fitted on; by default its values in the training samples. A task whose
        samples overlap gives what they are cut from."""
        return (sample.values[field] for sample in self.examples("train") if field in sample.values)

    @abstractmethod
    def score(self, model: Model, samples: Sequence[Sample]) -> Iterator[Score]:
        """A score for each sample and metric; the model's mode is `eval` and gradients are off."""

    def baselines(self) -> Mapping[str, Mapping[str, float]]:
        """What simpler methods reach, by metric and method, on the test split; the first is *the* baseline."""
        return {}


@dataclass
class Study(Configured, ABC):
    """A question put to a model, or to data alone, whose answer is a table.

    asks_a_model: whether `run` is given one.
    """

    asks_a_model: ClassVar[bool] = True

    @abstractmethod
    def run(self, model: Model | None, out: Path | None) -> Sequence[Mapping[str, Any]]:
        """The rows of the table, by column: text, numbers, None, and intervals as pairs of numbers.

        The model's mode is `eval` and gradients are off. What is too long for a table goes into files in the folder
        `out`, where there is one. ConfigError for what was set and cannot be, LimitError for what a model cannot read.
        """


def encode_fields(
    fields_: Mapping[str, str], tokenizers: Mapping[str, Tokenizer], values: Mapping[str, Any]
) -> dict[str, Tokens]:
    """Tokens of each field present in `values`, in the order of `fields_`. What is encoded already stays so."""
    for name in values:
        if name not in fields_:
            raise unknown("field", name, fields_)
    there = {name: (kind, values[name]) for name, kind in fields_.items() if name in values}
    return {n: raw if isinstance(raw, Tokens) else tokenizers[kind].encode(raw) for n, (kind, raw) in there.items()}


def encoded(name: str, task: Task, tokenizers: Mapping[str, Tokenizer], sample: Sample) -> Sample:
    """The sample with tokens in the place of what is raw; an unusable one is an error that names it."""
    with named(name, sample):
        return replace(sample, values=encode_fields(task.fields, tokenizers, sample.values))


def ready(task: Task, tokenizers: Mapping[str, Tokenizer], objective: Objective | None = None) -> Objective:
    """The task's objective, or this one in its place, told the streams of the task's fields."""
    streams = {field: tokenizers[kind].streams for field, kind in task.fields.items()}
    return (objective or task.objective).ready(streams)


def prepare(
    name: str,
    task: Task,
    tokenizers: Mapping[str, Tokenizer],
    sample: Sample,
    rng: np.random.Generator,
    objective: Objective | None = None,
) -> Example:
    """One sample of a task as an example; an unusable sample is an error that names it. objective: the task's, where it
    has been told its streams already."""
    return laid(name, encoded(name, task, tokenizers, sample), objective or ready(task, tokenizers), rng)


def laid(name: str, sample: Sample, objective: Objective, rng: np.random.Generator) -> Example:
    """An encoded sample of a task as an example. The objective must be `ready`."""
    with named(name, sample):
        return replace(objective.prepare(sample.values, rng), task=name, key=sample.id)


@contextmanager
def named(task: str, sample: Sample) -> Generator[None]:
    """What is wrong with a sample inside says whose it is."""
    try:
        yield
    except SampleError as error:
        raise type(error)(f"Task {task!r}, sample {sample.id!r}: {error}") from error
