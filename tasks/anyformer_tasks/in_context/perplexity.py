"""How well a text file is predicted, in the ways that publications count: by token, by word and by byte."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from anyformer.contracts import Metric, Sample, Score, Split, Task
from anyformer.errors import ConfigError
from anyformer.evaluation.likelihood import TextModel
from anyformer.objectives import NextToken
from anyformer_tasks.in_context.questions import content

if TYPE_CHECKING:
    from anyformer.contracts import Objective
    from anyformer.model import Model


@dataclass
class Perplexity(Task):
    """A text file, every token of it judged once behind as much text as a sliding window holds.

    data_dir, files: where the text of each split is. document: a regular expression whose matches begin new documents,
    each read for itself; without one the file is one document, and has no interval. context, stride: of the window, in
    tokens; by default the model's context and as much. Words are what blanks part, and line ends (PTB's and WikiText's
    `<eos>`) where line_ends is set.
    """

    data_dir: str = ""
    files: dict[str, str] = field(default_factory=lambda: {"test": "test.txt", "validation": "valid.txt"})
    document: str = ""
    context: int | None = None
    stride: int | None = None
    line_ends: bool = True

    fields: ClassVar[Mapping[str, str]] = {"text": "text"}
    modality: ClassVar[str] = "text"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("word_perplexity", higher_is_better=False),
        Metric("token_perplexity", higher_is_better=False),
        Metric("bits_per_byte", higher_is_better=False),
    )

    def default_objective(self) -> Objective:
        return NextToken()

    def examples(self, split: Split) -> Sequence[Sample]:
        if split not in self.files:
            raise ConfigError(f"There is no file for the split {split!r}; name one in `files`, {self.files} has none.")
        text = content(Path(self.data_dir) / self.files[split], "a text file, such as WikiText-2's")
        return [Sample(f"{split}-{i}", {"text": part}) for i, part in enumerate(documents(text, self.document))]

    def score(self, model: Model, samples: Sequence[Sample]) -> Iterator[Score]:
        texts = [sample.values["text"] for sample in samples]
        found = TextModel(model, self.fields["text"], self.context).rolling(texts, self.stride)
        nats = [-likelihood.total for likelihood in found]
        words = [len(text.split()) + self.line_ends * text.count("\n") for text in texts]
        yield from perplexities("word_perplexity", samples, nats, words)
        yield from perplexities("token_perplexity", samples, nats, [len(likelihood.nats) for likelihood in found])
        for sample, text, own in zip(samples, texts, nats, strict=True):
            size = len(text.encode())
            yield Score(sample.id, "bits_per_byte", own / math.log(2) / size, float(size), sample.cluster)


def documents(text: str, begins: str) -> list[str]:
    """The text parted before each match, blank parts left out.

    >>> documents("= A =\\none\\n= B =\\ntwo\\n", "^= ")
    ['= A =\\none\\n', '= B =\\ntwo\\n']
    """
    edges = [match.start() for match in re.finditer(begins, text, re.MULTILINE)] if begins else []
    edges = sorted({0, *edges, len(text)})
    return [part for a, b in itertools.pairwise(edges) if (part := text[a:b]).strip()]


def perplexities(
    metric: str, samples: Sequence[Sample], nats: Sequence[float], units: Sequence[int]
) -> Iterator[Score]:
    """A score a sample whose mean, weighted by units, is exp(Σ nats / Σ units), the perplexity of them together.

    A perplexity is not a mean of its samples' own. What a sample scores here is the perplexity and its first-order
    influence on it, so the interval is the delta method's (Efron 1982, §6: the infinitesimal jackknife).
    """
    kept = [(s, n, u) for s, n, u in zip(samples, nats, units, strict=True) if u]
    mean = sum(n for _, n, _ in kept) / max(1, sum(u for _, _, u in kept))
    whole = float(np.exp(mean))
    for sample, own, count in kept:
        yield Score(sample.id, metric, whole * (1 + own / count - mean), float(count), sample.cluster)
