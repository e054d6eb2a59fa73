"""What a model's heads say of samples, where their targets would be read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from anyformer.batch import Example, pack
from anyformer.contracts import Sample, Task, prepare
from anyformer.evaluation.statistics import key
from anyformer.model import ForwardPass, Model
from anyformer_tasks.language.lengths import answered, slots

TOKEN_BUDGET = 8192  # slots that go through the model at once


def prepared(name: str, task: Task, model: Model, samples: Sequence[Sample]) -> list[Example]:
    """Each sample as an example, its targets included, because they say where heads are read."""
    return [prepare(name, task, model.tokenizers, one, np.random.default_rng(key(one.id))) for one in samples]


def judged(model: Model, examples: Sequence[Example], stream: str) -> list[Tensor]:
    """float32[rows, width] for each example: what the stream's head says at each slot of its target."""
    return answered(examples, slots, TOKEN_BUDGET, lambda batch: _judged(model, batch, stream))


@torch.no_grad()
def _judged(model: Model, examples: Sequence[Example], stream: str) -> list[Tensor]:
    forward = ForwardPass(model, pack(examples, model.rank).to(model.device))
    (targets,) = forward.batch.targets.values()  # of one task
    rows = forward.read(stream, targets[stream]).float().cpu()
    return list(rows.split([len(example.targets[stream].slots) for example in examples]))
