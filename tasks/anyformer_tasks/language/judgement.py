"""What a model's heads say of samples, where their targets would be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from anyformer.batch import Example, pack
from anyformer.contracts import Sample, Score, Task, prepare, ready
from anyformer.evaluation.statistics import key
from anyformer.model import ForwardPass, Model
from anyformer.tokens import Stream, Tokens
from anyformer_tasks.language.lengths import answered, slots
from anyformer_tasks.language.measures import macro_f1

TOKEN_BUDGET = 8192  # slots that go through the model at once


def prepared(name: str, task: Task, model: Model, samples: Sequence[Sample]) -> list[Example]:
    """Each sample as an example, of which nothing is hidden, its targets included, because they say where heads are
    read."""
    objective = ready(task, model.tokenizers, task.objective.plain)
    draws = (np.random.default_rng(key(one.id)) for one in samples)
    return [
        prepare(name, task, model.tokenizers, one, draw, objective) for one, draw in zip(samples, draws, strict=True)
    ]


def judged(model: Model, examples: Sequence[Example], stream: str) -> list[Tensor]:
    """float32[rows, width] for each example: what the stream's head says at each slot of its target."""

    def judge(batch: Sequence[Example]) -> list[Tensor]:
        rows = _read(model, batch, stream, ForwardPass.read)
        return list(rows.split([len(example.targets[stream].slots) for example in batch]))

    return answered(examples, slots, TOKEN_BUDGET, judge)


def label_scores(name: str, task: Task, model: Model, samples: Sequence[Sample]) -> Iterator[Score]:
    """Of a task that tells a sample's `label`: accuracy, whether the likeliest label is the right one, and the
    macro-averaged F1 of these samples, see `macro_f1`."""
    tokenizer = model.tokenizers[task.fields["label"]]
    (stream,) = tokenizer.streams
    answers = told(model, task, prepared(name, task, model, samples), stream.name)
    chances = [row.softmax(-1) for row in answers]
    said = [tokenizer.decode(Tokens.of(stream.name, chance.argmax()[None])) for chance in chances]
    wanted = [sample.values["label"] for sample in samples]
    for sample, label, chance in zip(samples, said, chances, strict=True):
        shown = {**sample.values, "prediction": f"{label} ({float(chance.max()):.2f})"}
        yield Score(sample.id, "accuracy", float(label == sample.values["label"]), shown=shown)
    for sample, value in zip(samples, macro_f1(wanted, said), strict=True):
        yield Score(sample.id, "macro_f1", value)


def told(model: Model, task: Task, examples: Sequence[Example], stream: str) -> list[Tensor]:
    """float32[width] for each example: what the stream's head says of its one target, as the task's objective reads
    it."""

    def judge(batch: Sequence[Example]) -> list[Tensor]:
        return list(_read(model, batch, stream, task.objective.read))

    return answered(examples, slots, TOKEN_BUDGET, judge)


@torch.no_grad()
def _read(
    model: Model, examples: Sequence[Example], stream: str, read: Callable[[ForwardPass, str, Stream], Tensor]
) -> Tensor:
    """float32[rows, width]: what the head says of a batch's targets, which are those of one task."""
    forward = ForwardPass(model, pack(examples, model.rank).to(model.device))
    (targets,) = forward.batch.targets.values()
    return read(forward, stream, targets[stream]).float().cpu()
