"""A label for each word of a sentence, and the entities that the labels spell."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from anyformer.contracts import Metric, Sample, Score, Split, Task
from anyformer.errors import ConfigError, unknown
from anyformer.objectives import TokenClassification
from anyformer.tokens import Tokens
from anyformer_tasks.files import Record
from anyformer_tasks.language.dataset import Dataset
from anyformer_tasks.language.judgement import judged, prepared

if TYPE_CHECKING:
    from anyformer.contracts import Objective
    from anyformer.model import Model

NAME = "token_labels"
OUTSIDE = "O"

BLANKS = re.compile(r"[ \t\n\r\v\f]+")
"""What parts the words of a text that a tokenizer reads with `items: words`."""

Entity = tuple[int, int, str]
"""First word, last word, kind."""


@dataclass
class TokenLabels(Task):
    """dataset, data_dir: a page of configs/datasets, and where its files are.

    words, labels: the records' fields, two lists of one length; labels are BIO tags such as O, B-person and I-person.

    A sample is {"text": "Anna lives in Paris", "labels": ["B-person", "O", "O", "B-location"]}: the words joined by
    blanks. The text's tokenizer must make each word an item (items: words).

    Scores: `entity_f1` counts an entity as right if its kind and both its ends are (CoNLL-2003, W03-0419 §3), over all
    sentences together: a sentence's value is 2·right / (said + wanted), weighted by the denominator.
    """

    dataset: str = "wnut17"
    data_dir: str = ""
    words: str = "words"
    labels: str = "labels"

    fields: ClassVar[Mapping[str, str]] = {"text": "text", "labels": "labels"}
    modality: ClassVar[str] = "text"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("entity_f1", higher_is_better=True),
        Metric("token_accuracy", higher_is_better=True),
    )

    def default_objective(self) -> Objective:
        return TokenClassification(target="labels")

    @cached_property
    def source(self) -> Dataset:
        return Dataset.named(self.dataset, self.data_dir)

    def examples(self, split: Split) -> Sequence[Sample]:
        found = []
        for number, record in enumerate(self.source.records(split)):
            words, labels = (self._list(record, name, split, number) for name in (self.words, self.labels))
            if len(words) != len(labels):
                raise ConfigError(
                    f"Record {number} of the split {split!r} of {self.dataset!r} has {len(words)} words and "
                    f"{len(labels)} labels; expected one each."
                )
            found.append(Sample(f"{split}-{number}", {"text": sentence(words), "labels": labels}))
        return found

    def score(self, model: Model, samples: Sequence[Sample]) -> Iterator[Score]:
        tokenizer = model.tokenizers[self.fields["labels"]]
        (stream,) = tokenizer.streams
        for sample, rows in zip(samples, judged(model, prepared(NAME, self, model, samples), stream.name), strict=True):
            said, wanted = tokenizer.decode(Tokens.of(stream.name, rows.argmax(-1))), sample.values["labels"]
            right, count = agreement(said, wanted)
            shown = {**sample.values, "prediction": marked(sample.values["text"].split(" "), said)}
            yield Score(sample.id, "entity_f1", 2 * right / max(1, count), float(count), sample.cluster, shown)
            same = sum(a == b for a, b in zip(said, wanted, strict=True))
            yield Score(sample.id, "token_accuracy", same / len(wanted), float(len(wanted)), sample.cluster)

    def baselines(self) -> Mapping[str, Mapping[str, float]]:
        """Without any learning, the better one first: entities of the training split wherever they stand again word for
        word, the longest first, each with the kind it most often has (CoNLL-2003's baseline, W03-0419 §3); and runs of
        words with a capital, of the most frequent kind. WNUT 2017 has no training entity in its test split."""
        train, test = self.examples("train"), self.examples("test")
        known = dictionary(train)
        often = Counter(kind for sample in train for _, _, kind in entities(sample.values["labels"])).most_common(1)
        kind = often[0][0] if often else ""
        texts, wanted = zip(
            *((sample.values["text"].split(" "), sample.values["labels"]) for sample in test), strict=True
        )
        said = {
            "dictionary of training entities": [looked_up(words, known) for words in texts],
            f"every capitalised run is a {kind}": [capitalised(words, kind) for words in texts],
        }
        return {
            "entity_f1": _best_first({name: corpus_f1(labels, wanted) for name, labels in said.items()}),
            "token_accuracy": _best_first(
                {
                    name: _accuracy(labels, wanted)
                    for name, labels in {**said, "no entity": [[OUTSIDE] * len(words) for words in texts]}.items()
                }
            ),
        }

    def _list(self, record: Record, name: str, split: Split, number: int) -> list[str]:
        if name not in record:
            raise unknown("field of a record", name, record)
        if not isinstance(record[name], list) or not record[name]:
            raise ConfigError(
                f"Record {number} of the split {split!r} of {self.dataset!r} has {name}={record[name]!r:.40}; "
                "expected a list, one entry a word."
            )
        return [str(each) for each in record[name]]


def sentence(words: Sequence[str]) -> str:
    """The words joined by blanks, so that they count as many: blanks within one become "_", and an empty one does.

    >>> sentence(["New\\tYork", "", "City"])
    'New_York _ City'
    """
    return " ".join(BLANKS.sub("_", word) or "_" for word in words)


def entities(labels: Sequence[str]) -> set[Entity]:
    """What BIO tags spell, as `conlleval` reads them: an I begins an entity too, where none of its kind is open.

    >>> sorted(entities(["B-a", "I-a", "B-a", "O", "I-b", "I-a"]))
    [(0, 1, 'a'), (2, 2, 'a'), (4, 4, 'b'), (5, 5, 'a')]
    """
    found: list[Entity] = []
    before = OUTSIDE
    for place, label in enumerate(labels):
        tag, _, kind = label.partition("-")
        if label != OUTSIDE and (tag == "B" or before == OUTSIDE or before.partition("-")[2] != kind):
            found.append((place, place, kind))
        elif label != OUTSIDE:
            found[-1] = (found[-1][0], place, kind)
        before = label
    return set(found)


def agreement(said: Sequence[str], wanted: Sequence[str]) -> tuple[int, int]:
    """(entities that are right, entities said and wanted): F1 is twice the one by the other."""
    ours, theirs = entities(said), entities(wanted)
    return len(ours & theirs), len(ours) + len(theirs)


def marked(words: Sequence[str], labels: Sequence[str]) -> str:
    """The entities in words.

    >>> marked(["Anna", "Li", "in", "Rome"], ["B-person", "I-person", "O", "B-location"])
    'Anna Li (person), Rome (location)'
    """
    found = sorted(entities(labels))
    return ", ".join(f"{' '.join(words[a : b + 1])} ({kind})" for a, b, kind in found) or "no entity"


def dictionary(samples: Sequence[Sample]) -> dict[tuple[str, ...], str]:
    """The kind that each run of words most often is."""
    kinds: defaultdict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for sample in samples:
        words = sample.values["text"].split(" ")
        for first, last, kind in sorted(entities(sample.values["labels"])):
            kinds[tuple(words[first : last + 1])][kind] += 1
    return {words: counts.most_common(1)[0][0] for words, counts in kinds.items()}


def looked_up(words: Sequence[str], known: Mapping[tuple[str, ...], str]) -> list[str]:
    """Labels of a sentence by the longest runs that are known, from left to right."""
    longest = max(map(len, known), default=0)
    labels: list[str] = []
    while (at := len(labels)) < len(words):
        sizes = range(min(longest, len(words) - at), 0, -1)
        size = next((n for n in sizes if tuple(words[at : at + n]) in known), 0)
        kind = known[tuple(words[at : at + size])] if size else ""
        labels += [f"B-{kind}", *[f"I-{kind}"] * (size - 1)] if size else [OUTSIDE]
    return labels


def capitalised(words: Sequence[str], kind: str) -> list[str]:
    """Labels by which each run of words that begin with a capital is one entity, but not the sentence's first word.

    >>> capitalised(["In", "New", "York", "now"], "location")
    ['O', 'B-location', 'I-location', 'O']
    """
    labels: list[str] = []
    for place, word in enumerate(words):
        inside = bool(labels) and labels[-1] != OUTSIDE
        labels.append(f"{'I' if inside else 'B'}-{kind}" if place and word[:1].isupper() else OUTSIDE)
    return labels


def corpus_f1(said: Sequence[Sequence[str]], wanted: Sequence[Sequence[str]]) -> float:
    """F1 of the entities of all sentences together."""
    rights, counts = zip(*map(agreement, said, wanted), strict=True)
    return 2 * sum(rights) / max(1, sum(counts))


def _accuracy(said: Sequence[Sequence[str]], wanted: Sequence[Sequence[str]]) -> float:
    pairs = [pair for labels in zip(said, wanted, strict=True) for pair in zip(*labels, strict=True)]
    return sum(a == b for a, b in pairs) / len(pairs)


def _best_first(values: Mapping[str, float]) -> dict[str, float]:
    return dict(sorted(values.items(), key=lambda item: -item[1]))
