"""How much of a corpus is bilingual, and how much of that is translation (Briakou, Cherry & Foster 2023,
arXiv:2305.10266, "Searching for Needles in a Haystack")."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from anyformer.contracts import Study
from anyformer.errors import ConfigError, unknown
from anyformer.evaluation.report import write_whole
from anyformer.evaluation.statistics import wilson_interval
from anyformer_tasks.files import content, json_lines, lines
from anyformer_tasks.language.lexicon import Lexicon
from anyformer_tasks.ngram import LARGEST_ORDER, WittenBell

if TYPE_CHECKING:
    from anyformer.model import Model

SENTENCE = re.compile(r"(?<=[.!?…])\s+|\s*\n\s*")
WORD = re.compile(r"\w+")
SHORTEST = 3  # words of a sentence that may be one of a translation pair: what is shorter pairs with anything
EXCERPT = 60  # characters of an example that a table shows

UNDECIDED, MONOLINGUAL, BILINGUAL, TRANSLATION = "undecided", "monolingual", "bilingual", "translation pair"


@dataclass(frozen=True)
class Pair:
    """Two sentences of a document that translate each other, as (language, text). score: in nats per word."""

    first: tuple[str, str]
    second: tuple[str, str]
    score: float


@dataclass(frozen=True)
class Finding:
    """A document. languages: by name, the words of its longest run. pair: the best of its translation pairs."""

    id: str
    text: str
    languages: Mapping[str, int]
    pair: Pair | None

    @property
    def kind(self) -> str:
        if self.pair is not None:
            return TRANSLATION
        return (UNDECIDED, MONOLINGUAL, BILINGUAL)[min(2, len(self.languages))]

    def excerpt(self) -> str:
        shown = f"{self.pair.first[1]} ⇔ {self.pair.second[1]}" if self.pair else " ".join(self.text.split())
        return shown if len(shown) <= EXCERPT else shown[: EXCERPT - 1] + "…"


@dataclass
class Bilingual(Study):
    """Shares of documents that hold two languages, and of those that hold a sentence with its translation.

    documents: a JSONL file with a `text` a line (and perhaps an `id`), or a folder of .txt files.
    languages: language → a text file of it, by which it is known. A text of no language that is given is taken for the
        nearest one, so give all that may occur.
    parallel: [{en: train.en, de: train.de}, …], two files each, line i of one the translation of line i of the other.
        Where two languages have none, no translation pair of them is found.
    order: of the byte n-gram models that tell languages apart, sentence by sentence. certainty: the posterior
        probability that a sentence needs to be of a language; one that has less belongs to whatever stands before it.
    minimum: words of a run of sentences for its language to count; two such languages make a document bilingual.
    ratio: by how much the one sentence of a pair may be longer, in words. threshold: what a pair's score must reach:
        how much better each side is explained by the other than by itself, in nats per word, the lower of the two
        directions (see Lexicon). iterations: in which the word translations are learned.

    Words are runs of letters and digits, in lower case. What is mixed within one sentence is not seen, and words of
    languages without blanks are not counted rightly. A bilingual document with a translation pair counts as both.
    Intervals are Wilson's, of independent documents.
    """

    documents: str = ""
    languages: dict[str, str] = field(default_factory=dict)
    parallel: list[dict[str, str]] = field(default_factory=list)
    order: int = 4
    certainty: float = 0.99
    minimum: int = 10
    ratio: float = 2.0
    threshold: float = 0.4
    iterations: int = 5

    asks_a_model: ClassVar[bool] = False

    def __post_init__(self) -> None:
        limits = {"order": (1, LARGEST_ORDER), "certainty": (0, 1), "minimum": (1, 10**6), "ratio": (1, 1000)}
        for name, (least, most) in (limits | {"threshold": (-100, 100), "iterations": (1, 1000)}).items():
            if not isinstance(value := getattr(self, name), int | float) or not least <= value <= most:
                raise ConfigError(f"{name}={value!r}; expected a number from {least} to {most}.")
        if not self.documents:
            raise ConfigError("No documents; set `documents` to a JSONL file with a `text` a line or a folder of .txt.")
        if not isinstance(self.languages, Mapping) or len(self.languages) < 2:
            raise ConfigError(f"languages={self.languages!r}; expected at least two, each with a text file of it.")
        for files in self.parallel:
            if not isinstance(files, Mapping) or len(files) != 2:
                raise ConfigError(
                    f"parallel has {files!r}; expected two languages, each with a file: {{en: …, de: …}}."
                )
            for language in files:
                if language not in self.languages:
                    raise unknown("language", language, self.languages)

    def run(self, model: Model | None, out: Path | None) -> list[dict[str, Any]]:
        texts = list(documents(Path(self.documents)))
        if not texts:
            raise ConfigError(f"{self.documents} holds no documents; expected at least one.")
        models = {name: WittenBell(self.order, _lines_of(path)) for name, path in self.languages.items()}
        lexica = dict(itertools.chain.from_iterable(self._lexica(files) for files in self.parallel))
        found = [self._found(name, text, models, lexica) for name, text in texts]
        if out is not None:
            write_whole(out / "documents.jsonl", "".join(map(_line, found)))
        return table(found)

    def _lexica(self, files: Mapping[str, str]) -> Iterator[tuple[tuple[str, str], Lexicon]]:
        """Both directions, by (source, target)."""
        (one, first), (two, second) = files.items()
        sides = [lines(content(Path(path), "sentences, one a line")) for path in (first, second)]
        if len(sides[0]) != len(sides[1]) or not sides[0]:
            told = f"{first} has {len(sides[0])} lines and {second} {len(sides[1])}"
            raise ConfigError(f"{told}; expected as many, at least one: line i of one translates line i of the other.")
        a, b = ([words(line) for line in side] for side in sides)
        yield (one, two), Lexicon.learned(zip(a, b, strict=True), self.iterations)
        yield (two, one), Lexicon.learned(zip(b, a, strict=True), self.iterations)

    def _found(
        self, name: str, text: str, models: Mapping[str, WittenBell], lexica: Mapping[tuple[str, str], Lexicon]
    ) -> Finding:
        known = [(language_of(s, models, self.certainty), s) for s in SENTENCE.split(text) if WORD.search(s)]
        languages = {language: size for language, size in runs(known).items() if size >= self.minimum}
        sentences = [(language, s) for language, s in known if language in languages]
        scored = [pair for a, b in itertools.combinations(sentences, 2) if (pair := self._pair(a, b, lexica))]
        return Finding(name, text, languages, max(scored, key=lambda pair: pair.score, default=None))

    def _pair(self, a: tuple[str, str], b: tuple[str, str], lexica: Mapping[tuple[str, str], Lexicon]) -> Pair | None:
        if (a[0], b[0]) not in lexica:
            return None
        first, second = words(a[1]), words(b[1])
        shorter, longer = sorted((len(first), len(second)))
        if shorter < SHORTEST or longer > self.ratio * shorter:
            return None
        score = min(lexica[a[0], b[0]].explains(first, second), lexica[b[0], a[0]].explains(second, first))
        return Pair(a, b, score) if score >= self.threshold else None


def documents(path: Path) -> Iterator[tuple[str, str]]:
    """(id, text) of each document."""
    if path.is_dir():
        for file in sorted(path.glob("*.txt")):
            yield file.name, content(file, "a text file")
        return
    for found in json_lines(content(path, "a JSONL file with a `text` a line, or a folder of .txt files"), str(path)):
        text = found.values.get("text")
        if not isinstance(text, str):
            raise ConfigError(f"{found.at()}: expected a `text`, got {', '.join(found.values) or 'nothing'}.")
        yield str(found.values.get("id", found.number)), text


def words(text: str) -> list[str]:
    """
    >>> words("Zwei Männer, die's sehen.")
    ['zwei', 'männer', 'die', 's', 'sehen']
    """
    return WORD.findall(text.lower())


def language_of(sentence: str, models: Mapping[str, WittenBell], certainty: float) -> str | None:
    """The likeliest language, each as likely as another a priori; None if its posterior probability is too low."""
    raw = sentence.strip().encode()
    nats = -np.log(2) * np.array([model.bits(raw) for model in models.values()])
    posterior = np.exp(nats - nats.max())
    best = int(np.argmax(nats))
    return list(models)[best] if posterior[best] / posterior.sum() >= certainty else None


def runs(sentences: Sequence[tuple[str | None, str]]) -> dict[str, int]:
    """Words of the longest run of sentences of each language; a sentence of none goes on with the run before it.

    >>> runs([("en", "a b"), (None, "c"), ("de", "d"), ("en", "e")])
    {'en': 3, 'de': 1}
    """
    longest: dict[str, int] = {}
    current, size = None, 0
    for language, sentence in sentences:
        same = language is None or language == current
        current, size = (current, size) if same else (language, 0)
        size += len(words(sentence))
        if current is not None:
            longest[current] = max(longest.get(current, 0), size)
    return longest


def table(found: Sequence[Finding]) -> list[dict[str, Any]]:
    """Shares of all documents, of translation pairs among the bilingual, and by languages."""
    two = [one for one in found if one.kind in (BILINGUAL, TRANSLATION)]
    pairs = [one for one in found if one.kind == TRANSLATION]
    rows = [
        _row(MONOLINGUAL, [one for one in found if one.kind == MONOLINGUAL], found, "all"),
        _row(UNDECIDED, [one for one in found if one.kind == UNDECIDED], found, "all"),
        _row(BILINGUAL, two, found, "all", example=[one for one in two if one.pair is None]),
        _row(TRANSLATION, pairs, found, "all"),
        _row(TRANSLATION, pairs, two, "bilingual"),
    ]
    for names in sorted({tuple(sorted(one.languages)) for one in two}):
        own = [one for one in two if tuple(sorted(one.languages)) == names]
        translated = [one for one in own if one.pair is not None]
        label = " + ".join(names)
        rows.append(_row(f"bilingual: {label}", own, found, "all"))
        rows.append(_row(f"translation pair: {label}", translated, own, f"bilingual: {label}"))
    return rows


def _row(
    kind: str, own: Sequence[Finding], among: Sequence[Finding], name: str, example: Sequence[Finding] | None = None
) -> dict[str, Any]:
    """example: whose first one is shown, by default the first of its own."""
    shown = own if example is None else example
    return {
        "documents": kind,
        "count": len(own),
        "of": name,
        "share": len(own) / len(among) if among else None,
        "interval": wilson_interval(len(own), len(among)),
        "example": shown[0].excerpt() if shown else "",
    }


def _line(found: Finding) -> str:
    pair = found.pair and {"first": found.pair.first, "second": found.pair.second, "score": found.pair.score}
    content_ = {"id": found.id, "kind": found.kind, "languages": found.languages, "pair": pair}
    return json.dumps(content_, ensure_ascii=False) + "\n"


def _lines_of(path: str) -> list[bytes]:
    found = [
        line.strip().encode() for line in lines(content(Path(path), "a text file of one language")) if line.strip()
    ]
    if not found:
        raise ConfigError(f"{path} is empty; expected text of one language.")
    return found
