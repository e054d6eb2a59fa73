"""Text as language models are trained on it and judged by it: running text in windows, or many texts cut to size."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from anyformer.contracts import Metric, Sample, Score, Split, Task
from anyformer.errors import ConfigError, unknown
from anyformer.objectives import NextToken
from anyformer.tokens import Tokens
from anyformer_tasks.in_context.perplexity import perplexities
from anyformer_tasks.language.dataset import Dataset
from anyformer_tasks.language.judgement import TOKEN_BUDGET, prepared
from anyformer_tasks.language.lengths import answered, slots
from anyformer_tasks.ngram import LARGEST_ORDER, ngram_bits_per_byte
from anyformer_tasks.samples import MadeSamples

if TYPE_CHECKING:
    from anyformer.batch import Example
    from anyformer.contracts import Objective
    from anyformer.model import Model

EDGES = (("\n",), (". ", "! ", "? "), (" ",))
"""Behind what a text is cut, the best first: a line, a sentence, a word."""


@dataclass
class Documents(Task):
    """A language model's text; `objective` may as well be one that masks or corrupts it.

    dataset, data_dir: a page of configs/datasets, and where its files are. field: of its records, the text.
    datasets: instead, several, `[{dataset: sst2, field: sentence}, …]`, one behind the other.
    windows: how the texts are cut, one of WINDOWS. "texts": each for itself, in pieces of at most `size` characters,
        which end with a line, a sentence or a word if they can. As running text, in windows of a character and the
        `size` behind it: "end_to_end", or "random", which begin anywhere in training, so that a pass takes one from
        every character on. Running text wants a tokenizer that sets nothing around it.
    lowercase: of all texts. order: of the byte n-gram model that is the baseline; 0 for none.

    Scores: each predicted token behind those before it in its window, as in training; so every character but the first
    of a running text counts once, and what closes a text counts as a part of it. With other objectives, the perplexity
    of what they predict.
    """

    dataset: str = "tinyshakespeare"
    data_dir: str = ""
    field: str = "text"
    datasets: list[dict[str, str]] = dataclasses.field(default_factory=list)
    windows: str = "texts"
    size: int = 256
    lowercase: bool = False
    order: int = 6

    fields: ClassVar[Mapping[str, str]] = {"text": "text"}
    modality: ClassVar[str] = "text"

    def __post_init__(self) -> None:
        if self.windows not in WINDOWS:
            raise unknown("way of cutting texts into windows", self.windows, WINDOWS)
        if self.size < 1 or not 0 <= self.order <= LARGEST_ORDER:
            raise ConfigError(
                f"documents has size={self.size}, order={self.order}; expected at least 1, and 0 to {LARGEST_ORDER}."
            )
        for given in self.datasets:
            if not isinstance(given, Mapping) or "dataset" not in given or not set(given) <= {"dataset", "field"}:
                raise ConfigError(f"documents has {given!r} among its datasets; expected {{dataset: …, field: …}}.")

    @property
    def metrics(self) -> tuple[Metric, ...]:  # ty: ignore[incompatible-property-override]
        """By character and byte where every token is predicted from those before it."""
        by_text = ("nats_per_character", "bits_per_byte") if self._is_causal else ()
        return tuple(Metric(name, higher_is_better=False) for name in (*by_text, "token_perplexity"))

    @property
    def _is_causal(self) -> bool:
        return isinstance(self.objective, NextToken)

    def default_objective(self) -> Objective:
        return NextToken()

    @cached_property
    def _sources(self) -> list[tuple[Dataset, str]]:
        chosen = self.datasets or [{"dataset": self.dataset, "field": self.field}]
        return [(Dataset.named(one["dataset"], self.data_dir), one.get("field", "text")) for one in chosen]

    def texts(self, split: Split) -> list[str]:
        """The split's texts, whole; those with nothing to predict are left out."""
        found = [_text(record, name, source) for source, name in self._sources for record in source.records(split)]
        return [text.lower() if self.lowercase else text for text in found if len(text.strip()) > 1]

    def examples(self, split: Split) -> Sequence[Sample]:
        return WINDOWS[self.windows](self.texts(split), self.size, split)

    def corpus(self, field: str) -> Iterator[str]:
        """Each text once, whole."""
        return iter(self.texts("train"))

    def score(self, model: Model, samples: Sequence[Sample]) -> Iterator[Score]:
        """Tokens that nobody predicts, at the start of a text without a mark before it, are not counted as text."""
        examples = prepared("documents", self, model, samples)
        found = answered(examples, slots, TOKEN_BUDGET, model.log_likelihoods)
        nats, counts = [-total for total, _ in found], [count for _, count in found]
        if self._is_causal:
            for sample, example, own in zip(samples, examples, nats, strict=True):
                said = sample.values["text"][len(self._given(model, example)) :]
                yield _mean(sample, "nats_per_character", own, len(said), {"text": sample.values["text"]})
                yield _mean(sample, "bits_per_byte", own / math.log(2), len(said.encode()))
        yield from perplexities("token_perplexity", samples, nats, counts)

    def baselines(self) -> Mapping[str, Mapping[str, float]]:
        """A byte n-gram model with all of the text before each byte (of one text or piece), its end predicted too."""
        if not self.order or not self._is_causal:
            return {}
        train, judged = (tuple(self._read_alone(split)) for split in ("train", "test"))
        coded = [tuple(text.encode() for text in texts) for texts in (train, judged)]
        bits = ngram_bits_per_byte(self.order, *coded)
        by_character = bits * math.log(2) * sum(map(len, coded[1])) / sum(map(len, judged))
        name = f"{self.order}-gram"
        return {"nats_per_character": {name: by_character}, "bits_per_byte": {name: bits}}

    def _read_alone(self, split: Split) -> list[str]:
        """The texts that are read without others: those that have windows have no other edges."""
        texts = self.texts(split)
        return texts if WINDOWS[self.windows] is not pieces else [s.values["text"] for s in self.examples(split)]

    def _given(self, model: Model, example: Example) -> str:
        """What the first token says: nothing, if it is a mark before the text."""
        tokenizer = model.tokenizers[self.fields["text"]]
        name = tokenizer.streams[0].name
        return tokenizer.decode(Tokens.of(name, example.tokens.streams[name].values[:1]))


def _mean(sample: Sample, metric: str, total: float, units: int, shown: Mapping[str, Any] | None = None) -> Score:
    return Score(sample.id, metric, total / max(1, units), float(units), sample.cluster, shown or {})


def _text(record: Mapping[str, Any], name: str, source: Dataset) -> str:
    if not isinstance(record.get(name), str):
        texts = [field for field, value in record.items() if isinstance(value, str)]
        raise ConfigError(
            f"A record of the data set {source.name!r} has no text {name!r}; set field to one of: {', '.join(texts)}."
        )
    return record[name]


class Running(MadeSamples):
    """Windows of running texts, made when they are asked for: `size` characters and the one before them, from every
    `stride`-th character on. A shorter text is one window."""

    def __init__(self, texts: Sequence[str], size: int, stride: int, split: Split) -> None:
        self.texts, self.size, self.stride, self.split = texts, size, stride, split
        counts = [1 + math.ceil(max(0, len(text) - 1 - size) / stride) for text in texts]
        self.ends = list(itertools.accumulate(counts))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def sample(self, index: int) -> Sample:
        number = bisect.bisect_right(self.ends, index)
        begin = self.stride * (index - (self.ends[number - 1] if number else 0))
        return _sample(self.texts, self.split, number, begin, begin + self.size + 1)


def pieces(texts: Sequence[str], size: int, split: Split) -> list[Sample]:
    """Texts in pieces of at most `size` characters, blank ones left out."""
    samples = [
        _sample(texts, split, number, begin, end)
        for number, text in enumerate(texts)
        for begin, end in itertools.pairwise(edges(text, size))
    ]
    return [sample for sample in samples if len(sample.values["text"].strip()) > 1]


def edges(text: str, size: int) -> list[int]:
    """Where to cut a text: in the second half of a piece if it can end well there, see EDGES.

    >>> edges("one two. three\\nfour", 9)
    [0, 9, 15, 19]
    """
    found = [0]
    while len(text) - found[-1] > size:
        found.append(_well(text, found[-1] + size // 2, found[-1] + size))
    return [*found, len(text)]


def _well(text: str, low: int, high: int) -> int:
    """Where between two places a piece ends best."""
    for marks in EDGES:
        ends = [at + len(mark) for mark in marks if (at := text.rfind(mark, low, high)) >= 0]
        if ends:
            return max(ends)
    return high


def _sample(texts: Sequence[str], split: Split, number: int, begin: int, end: int) -> Sample:
    """Pieces of one text are not independent; of a single text they are all that an interval can be made of."""
    name = f"{split}-{number}"
    cluster = name if len(texts) > 1 else ""
    return Sample(f"{name}[{begin}:{end}]", {"text": texts[number][begin:end]}, cluster)


WINDOWS: Mapping[str, Callable[[Sequence[str], int, Split], Sequence[Sample]]] = {
    "texts": pieces,
    "end_to_end": lambda texts, size, split: Running(texts, size, size, split),
    "random": lambda texts, size, split: Running(texts, size, 1 if split == "train" else size, split),
}
"""From texts to samples."""
