"""LAMBADA (Paperno et al., arXiv:1606.06031): the last word of a passage, which only the whole passage tells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from anyformer.contracts import Metric, Sample, Score, Split
from anyformer_tasks.in_context.perplexity import perplexities
from anyformer_tasks.in_context.prompt import Record
from anyformer_tasks.in_context.questions import Questions, record_of

if TYPE_CHECKING:
    from anyformer.model import Model


@dataclass
class Lambada(Questions):
    """accuracy: whether greedy decoding says the last word, all its tokens; perplexity: of that word, over words."""

    files: dict[str, str] = field(default_factory=lambda: {"test": "lambada_test.jsonl"})
    prompt: str = "last_word"

    source: ClassVar[str] = 'lambada_test.jsonl as published with GPT-2, {"text": …} a line'
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("accuracy", higher_is_better=True),
        Metric("perplexity", higher_is_better=False),
    )

    def records(self, split: Split) -> list[Record]:
        """Fields: passage, word."""
        return [dict(zip(("passage", "word"), parted(r["text"]), strict=True)) for r in super().records(split)]

    def score(self, model: Model, samples: Sequence[Sample]) -> Iterator[Score]:
        words = [self.template.answered(record_of(sample)) for sample in samples]
        pairs = list(zip(self.contexts(samples), words, strict=True))
        found = self.text_model(model).log_likelihoods(pairs)
        for sample, likelihood in zip(samples, found, strict=True):
            shown = {"text": sample.values["text"]}
            yield Score(sample.id, "accuracy", float(likelihood.is_greedy), cluster=sample.cluster, shown=shown)
        yield from perplexities("perplexity", samples, [-f.total for f in found], [1] * len(samples))


def parted(text: str) -> tuple[str, str]:
    """What stands before the last word, and that word.

    >>> parted("the cat sat")
    ('the cat', 'sat')
    """
    before, _, word = text.rstrip().rpartition(" ")
    return before, word
