"""Language modelling of the Python documentation that ships with CPython (`pydoc_data.topics`).

79 topics, 0.47 MB: what `help("with")` prints. A sample is a passage of one topic,
`{"text": "The \"with\" statement\\n****…"}`, and the score is bits per byte.

Topics quote each other (a quarter of them stand, word for word, inside a larger one), so whole topics are
held out *and* what remains of them is only what no other topic says: see `original_runs`.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from anyformer.batch import Example
from anyformer.contracts import Metric, Sample, Score, Split, Task
from anyformer.errors import ConfigError, PluginError, unknown
from anyformer.objectives import NextToken
from anyformer.tokens import Tokens
from anyformer_tasks.language.judgement import prepared
from anyformer_tasks.ngram import ngram_bits_per_byte

if TYPE_CHECKING:
    from anyformer.contracts import Objective
    from anyformer.model import Model

REPEATED_WORDS = 8  # this many words in a row, found in another topic too, are a quotation
SHORTEST_RUN = 100  # characters; what is left between two quotations and is shorter is not judged
MOST_OF_A_SPLIT = 0.5  # a topic larger than this part of a held-out split stays in training


@dataclass(frozen=True)
class Span:
    """`text` is `topic[start:start + len(text)]`."""

    topic: str
    start: int
    text: str

    def sample(self) -> Sample:
        return Sample(f"{self.topic}[{self.start}:{self.start + len(self.text)}]", {"text": self.text}, self.topic)


@dataclass
class PythonDocs(Task):
    """Predict Python's documentation, piece by piece.

    seed: which topics are held out. passage_chars: a passage is at most this long. shifts: how many ways the
    training topics are cut into passages, so that a word is not always met behind the same context.
    test_share, validation_share: of all characters. continuations: how many scored passages also show what
    the model writes after their first half.
    """

    seed: int = 0
    passage_chars: int = 1024
    shifts: int = 4
    test_share: float = 0.1
    validation_share: float = 0.05
    continuations: int = 3

    fields: ClassVar[Mapping[str, str]] = {"text": "text"}
    modality: ClassVar[str] = "text"
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("bits_per_byte", higher_is_better=False),)

    def __post_init__(self) -> None:
        if self.passage_chars < SHORTEST_RUN or self.shifts < 1:
            raise ConfigError(
                f"python_docs has passage_chars={self.passage_chars} and shifts={self.shifts}; "
                f"expected at least {SHORTEST_RUN} and 1."
            )
        if min(self.test_share, self.validation_share) <= 0 or self.test_share + self.validation_share > 0.5:
            raise ConfigError(
                f"python_docs has test_share={self.test_share} and validation_share={self.validation_share}; "
                "expected positive shares that leave at least half for training."
            )

    def default_objective(self) -> Objective:
        return NextToken()

    @cached_property
    def splits(self) -> dict[Split, list[Span]]:
        """Whole topics for training; of a held-out topic, the runs that no other topic shares."""
        topics = load_topics()
        originals = original_runs(topics)
        shares: dict[Split, float] = {"test": self.test_share, "validation": self.validation_share}
        held_out = choose_topics(topics, originals, shares, self.seed)
        taken = {name for names in held_out.values() for name in names}
        return {
            "train": [Span(name, 0, topics[name]) for name in sorted(topics) if name not in taken],
            **{split: [run for name in names for run in originals[name]] for split, names in held_out.items()},
        }

    def passages(self, split: Split) -> list[Span]:
        """The split's text cut once: no character is in two passages."""
        if split not in self.splits:
            raise unknown("split", split, self.splits)
        return [part for span in self.splits[split] for part in cut(span, self.passage_chars)]

    def examples(self, split: Split) -> Sequence[Sample]:
        passages = self.passages(split)
        if split == "train":
            for shift in range(1, self.shifts):
                first = self.passage_chars * shift // self.shifts
                passages += [part for span in self.splits[split] for part in cut(span, self.passage_chars, first)]
        # two ways of cutting may agree on a passage; it is one sample then
        return [passage.sample() for passage in dict.fromkeys(passages)]

    def score(self, model: Model, samples: Sequence[Sample]) -> Iterator[Score]:
        """Bits per byte: the bits of all pieces and of the closing one, only `<s>` being given, over the
        bytes of the text. Other segmentations would add to a text's probability; they are not counted.
        """
        examples = prepared("python_docs", self, model, samples)
        continuations = self._continue(model, examples[: self.continuations])
        for index, (sample, example, (log_likelihood, count)) in enumerate(
            zip(samples, examples, model.log_likelihoods(examples), strict=True)
        ):
            if count != example.tokens.length - 1:
                raise ConfigError(
                    f"python_docs, sample {sample.id!r}: {count} of {example.tokens.length} tokens were "
                    "predicted; bits per byte need all but the first. Score with the next_token objective."
                )
            text = sample.values["text"]
            size = len(text.encode())
            shown = {"text": text} | ({"continuation": continuations[index]} if index < len(continuations) else {})
            bits = -log_likelihood / math.log(2)
            yield Score(sample.id, "bits_per_byte", bits / size, float(size), sample.cluster, shown)

    def baselines(self) -> Mapping[str, Mapping[str, float]]:
        """Byte n-gram models of the training text on the test passages, counted just as `score` counts: each
        passage starts anew, and its end is predicted too."""
        return {"bits_per_byte": self.ngrams("test")}

    def ngrams(self, split: Split, orders: Sequence[int] = (3, 5)) -> dict[str, float]:
        """Bits per byte of a split's passages by n-gram model of the training passages, each used once."""
        train, judged = (tuple(p.text.encode() for p in self.passages(name)) for name in ("train", split))
        return {f"{order}-gram": ngram_bits_per_byte(order, train, judged) for order in orders}

    def _continue(self, model: Model, examples: Sequence[Example]) -> list[str]:
        """What the model writes after the first half of each example, both shown, parted by `▶`."""
        if not examples:
            return []
        tokenizer = model.tokenizers[self.fields["text"]]
        stream = tokenizer.streams[0].name
        values = [example.tokens.streams[stream].values for example in examples]
        openings = [Tokens.of(stream, value[: (len(value) + 1) // 2]) for value in values]
        prompts = [Example(opening, {}) for opening in openings]
        written = model.generate(prompts, stream, max_new=max(len(value) for value in values) // 2)
        return [
            f"{tokenizer.decode(opening)}▶{tokenizer.decode(more)}"
            for opening, more in zip(openings, written, strict=True)
        ]


def load_topics() -> dict[str, str]:
    """Topic name → text, as this Python's standard library has them."""
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise PluginError(
            "Task 'python_docs' reads pydoc_data.topics, which this Python lacks; "
            "install Python's full standard library."
        ) from error
    return dict(topics)


def word_runs(text: str, size: int = REPEATED_WORDS) -> Iterator[tuple[tuple[str, ...], int, int]]:
    """Each `size` words in a row, with where in the text they start and end.

    Case, punctuation and line breaks do not count: a quotation may be wrapped or marked up anew.

    >>> [words for words, start, end in word_runs('The "with" statement', 2)]
    [('the', 'with'), ('with', 'statement')]
    """
    words = list(re.finditer(r"\w+", text))
    lowered = [word[0].lower() for word in words]
    for first in range(len(words) - size + 1):
        last = first + size - 1
        yield tuple(lowered[first : last + 1]), words[first].start(), words[last].end()


def original_runs(topics: Mapping[str, str]) -> dict[str, list[Span]]:
    """What each topic shares with no other: its text without every paragraph that a quotation touches.

    The runs that remain contain no REPEATED_WORDS words in a row that occur in another topic.
    """
    homes: Counter[tuple[str, ...]] = Counter()
    for text in topics.values():
        homes.update({words for words, _, _ in word_runs(text)})
    return {name: list(_original_runs(name, text, homes)) for name, text in topics.items()}


def _original_runs(name: str, text: str, homes: Mapping[tuple[str, ...], int]) -> Iterator[Span]:
    quoted = np.zeros(len(text), dtype=bool)
    for words, start, end in word_runs(text):
        if homes[words] > 1:
            quoted[start:end] = True
    run_start = start = 0
    for end in [blank.end() for blank in re.finditer(r"\n\n+", text)] + [len(text)]:
        if quoted[start:end].any():
            if start - run_start >= SHORTEST_RUN:
                yield Span(name, run_start, text[run_start:start])
            run_start = end
        start = end
    if len(text) - run_start >= SHORTEST_RUN:
        yield Span(name, run_start, text[run_start:])


def choose_topics(
    topics: Mapping[str, str],
    originals: Mapping[str, Sequence[Span]],
    shares: Mapping[Split, float],
    seed: int,
) -> dict[Split, list[str]]:
    """Topics to hold out, in an order drawn from the seed, until each split has its share of all characters.

    The order is a hash of the name, so that a Python whose topics differ a little holds out (nearly) the same
    ones. A topic most of which is quoted elsewhere stays in training: little of it could be judged.
    """
    everything = sum(map(len, topics.values()))
    size = {name: sum(len(run.text) for run in runs) for name, runs in originals.items()}
    waiting = sorted(
        (name for name in topics if size[name] > len(topics[name]) / 2),
        key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest(),
    )
    chosen: dict[Split, list[str]] = {}
    for split, share in shares.items():
        wanted, chosen[split] = share * everything, []
        for name in waiting:
            have = sum(size[taken] for taken in chosen[split])
            if have < wanted and size[name] <= MOST_OF_A_SPLIT * wanted:
                chosen[split].append(name)
        waiting = [name for name in waiting if name not in chosen[split]]
    return chosen


def cut(span: Span, limit: int, first: int | None = None) -> Iterator[Span]:
    """The span in pieces of at most `limit` characters, the first one of at most `first`.

    A piece ends behind the last blank line of its second half, else behind the last line break, else where it
    must.

    >>> [piece.text for piece in cut(Span("topic", 0, "one\\n\\ntwo\\nthree\\n"), limit=9)]
    ['one\\n\\ntwo\\n', 'three\\n']
    """
    text, start, room = span.text, 0, first or limit
    while start < len(text):
        end = start + room
        if end < len(text):
            paragraph = text.rfind("\n\n", start + room // 2, end) + 2
            line = text.rfind("\n", start, end) + 1
            end = next((edge for edge in (paragraph, line) if edge > start + 1), end)
        yield Span(span.topic, span.start + start, text[start:end])
        start, room = end, limit
