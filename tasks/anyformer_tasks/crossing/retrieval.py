"""How often one modality finds the other: recall among the first k (Karpathy and Fei-Fei, arXiv:1412.2306 §4.2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import comb
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from anyformer.batch import Example
from anyformer.contracts import Metric, Sample, Score, Task
from anyformer_tasks.language.lengths import answered, slots
from anyformer_tasks.language.text_to_text import right_of

if TYPE_CHECKING:
    from anyformer.model import Model

DEPTHS = (1, 5, 10)
TOKEN_BUDGET = 8192


def metrics(*directions: str) -> tuple[Metric, ...]:
    """`r1`, `r5` and `r10` over both directions, then those of each direction."""
    return tuple(Metric(f"{name}r{depth}", True) for name in ("", *directions) for depth in DEPTHS)


def vectors_of(task: Task, model: Model, field: str, values: Sequence[Any]) -> Float[Tensor, "values dim"]:
    """Where the model puts values of one of the task's fields, each a sequence that is seen from both sides."""
    tokenizer = model.tokenizers[task.fields[field]]
    examples = [Example(tokens, {}, tokens.length) for tokens in map(tokenizer.encode, values)]
    return torch.stack(answered(examples, slots, TOKEN_BUDGET, lambda batch: list(model.vectors(batch).cpu())))


def best_places(
    cosines: Float[Tensor, "asked found"], right: Bool[Tensor, "asked found"]
) -> Float[np.ndarray, " asked"]:
    """The place, counted from 1, of the best of what is right; wrong ones that are as good stand before it."""
    best = cosines.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
    return (1 + ((cosines >= best) & ~right).sum(1)).numpy().astype(float)


def retrieval_scores(
    task: Task, model: Model, samples: Sequence[Sample], field: str, directions: tuple[str, str]
) -> Iterator[Score]:
    """A field's values find their texts among all texts of these samples, and texts their values.

    directions: what the metrics of either are called. A text that is said of several values finds any of them; of a
    sample's texts each is asked for.
    """
    texts = list(dict.fromkeys(text for sample in samples for text in texts_of(sample)))
    number = {text: i for i, text in enumerate(texts)}
    right = torch.zeros(len(samples), len(texts), dtype=torch.bool)
    for row, sample in enumerate(samples):
        right[row, [number[text] for text in texts_of(sample)]] = True
    ones = vectors_of(task, model, field, [sample.values[field] for sample in samples])
    others = vectors_of(task, model, "text", texts)
    cosines = ones @ others.T
    to, back = best_places(cosines, right), best_places(cosines.T, right.T)
    for row, sample in enumerate(samples):
        backs = back[[number[text] for text in texts_of(sample)]]
        shown = {**sample.values, "found": texts[int(cosines[row].argmax())]}
        for depth in DEPTHS:
            hits = float(to[row] <= depth), float(np.mean(backs <= depth))
            for metric, value in zip(("", *directions), (sum(hits) / 2, *hits), strict=True):
                yield Score(sample.id, f"{metric}r{depth}", value, cluster=sample.cluster, shown=shown)


def chance(samples: Sequence[Sample], directions: tuple[str, str]) -> dict[str, dict[str, float]]:
    """The same scores where the order is drawn by lot."""
    texts: dict[str, int] = {}
    for sample in samples:
        for text in texts_of(sample):
            texts[text] = texts.get(text, 0) + 1
    found: dict[str, dict[str, float]] = {}
    for depth in DEPTHS:
        to = np.mean([drawn(len(texts), len(texts_of(sample)), depth) for sample in samples])
        each = [np.mean([drawn(len(samples), texts[text], depth) for text in texts_of(s)]) for s in samples]
        values = {"": (to + np.mean(each)) / 2, directions[0]: to, directions[1]: np.mean(each)}
        found |= {f"{name}r{depth}": {"chance": float(value)} for name, value in values.items()}
    return found


def drawn(among: int, right: int, depth: int) -> float:
    """How likely one of `right` is among the first `depth` of so many.

    >>> drawn(4, 1, 1)
    0.25
    """
    return 1 - comb(among - right, min(depth, among)) / comb(among, min(depth, among))


def texts_of(sample: Sample) -> tuple[str, ...]:
    """Every text that is right for a sample."""
    return right_of(sample, "text")
