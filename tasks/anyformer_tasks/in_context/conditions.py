"""What is done to demonstrations (Min et al. 2022, arXiv:2202.12837): a condition is a few steps, each of which turns a
lesson into another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from string import Formatter

import numpy as np

from anyformer.errors import ConfigError
from anyformer.evaluation.statistics import key
from anyformer_tasks.in_context.prompt import Prompt, Record


@dataclass(frozen=True)
class Material:
    """labels: the set's, in order, where all questions have the same; else empty. answers: of the training split.
    sentences, words: of other text."""

    labels: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    sentences: tuple[str, ...] = ()
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lesson:
    """Demonstrations and the question behind them. Records have `choices` and `answer`; a demonstration's answer is the
    label that it is shown with.

    prompt: the template of the question. shown: that of the demonstrations. seed: of this draw of demonstrations.
    """

    name: str
    demonstrations: tuple[Record, ...]
    question: Record
    prompt: Prompt
    shown: Prompt
    material: Material
    seed: int

    def rng(self, *parts: str) -> np.random.Generator:
        """The same for all questions of a draw, unless `parts` name the question: they share their demonstrations."""
        return np.random.default_rng(key(self.seed, *parts))

    def labelled(self, answers: Iterable[str]) -> Lesson:
        shown = zip(self.demonstrations, answers, strict=True)
        return replace(self, demonstrations=tuple({**record, "answer": answer} for record, answer in shown))

    def asked(self) -> list[tuple[str, str]]:
        """(context, continuation) for each of the question's choices."""
        examples = [self.shown.asked(record) + self.shown.answered(record) for record in self.demonstrations]
        lead = "".join(example + self.prompt.between for example in examples)
        prompt = replace(self.prompt, instruction=self.prompt.instruction + lead)
        choices = [{**self.question, "answer": choice} for choice in self.question["choices"]]
        return [(prompt.ask(record), prompt.answered(record)) for record in choices]


Step = Callable[[Lesson], Lesson]


def nothing(lesson: Lesson) -> Lesson:
    """No demonstrations."""
    return replace(lesson, demonstrations=())


def uniform(lesson: Lesson) -> Lesson:
    """Each label is any of its choices, the right one among them (§4.1)."""
    rng = lesson.rng("labels")
    return lesson.labelled(_one_of(rng, record["choices"]) for record in lesson.demonstrations)


def by_frequency(lesson: Lesson) -> Lesson:
    """Each label is that of any training record: random, with the frequencies of the set."""
    if not lesson.material.labels:
        raise ConfigError("random_by_frequency needs one set of labels for all questions; leave that condition out.")
    rng = lesson.rng("labels")
    return lesson.labelled(_one_of(rng, lesson.material.answers) for _ in lesson.demonstrations)


def correct(share: float) -> Step:
    """So many labels are right and the others wrong, each any of its wrong choices (§4.2)."""

    def relabelled(lesson: Lesson) -> Lesson:
        rng, records = lesson.rng("labels"), lesson.demonstrations
        right = set(rng.permutation(len(records))[: round(share * len(records))].tolist())
        others = [[choice for choice in record["choices"] if choice != record["answer"]] for record in records]
        drawn = [_one_of(rng, wrong) for wrong in others]
        return lesson.labelled(record["answer"] if i in right else drawn[i] for i, record in enumerate(records))

    return relabelled


def foreign(lesson: Lesson) -> Lesson:
    """Every field of an input is a sentence of other text, about as long as the question's input: of d words more or
    less, with a probability in proportion to exp(-d²/50), no sentence twice (§5.1 and its published code)."""
    names = [name for name in _fields(lesson.prompt.question + lesson.prompt.answer) if name != "answer"]
    needed, sentences = len(names) * len(lesson.demonstrations), lesson.material.sentences
    if len(sentences) < needed:
        raise ConfigError(
            f"out_of_distribution needs {needed} sentences, {len(sentences)} were given; set corpus to a text file "
            "with one a line."
        )
    length = sum(len(str(lesson.question[name]).split()) for name in names) / max(1, len(names))
    apart = np.array([len(sentence.split()) for sentence in sentences]) - length
    # The largest sums of log p and Gumbel noise are a draw without replacement (arXiv:1903.06059 §2)
    noisy = lesson.rng("sentences", lesson.name).gumbel(size=len(sentences)) - apart**2 / 50
    drawn = iter([sentences[i] for i in np.argsort(-noisy)[:needed].tolist()])
    changed = [{**record, **{name: next(drawn) for name in names}} for record in lesson.demonstrations]
    return replace(lesson, demonstrations=tuple(changed))


def renamed(lesson: Lesson) -> Lesson:
    """Labels are random words: one for each label, in the question too, where there is a set of them; else new words
    for the choices of each demonstration (§5.2)."""
    labels = lesson.material.labels
    unlike = [word for word in lesson.material.words if word not in labels]
    needed = len(labels) or sum(len(record["choices"]) for record in lesson.demonstrations)
    if len(unlike) < needed:
        raise ConfigError(
            f"english_words needs {needed} words, {len(unlike)} were given; set words to a text file with one a line."
        )
    drawn = [unlike[i] for i in lesson.rng("words").choice(len(unlike), needed, replace=False).tolist()]
    if labels:
        names = dict(zip(labels, drawn, strict=True))
        records = tuple(_named(record, names) for record in lesson.demonstrations)
        return replace(lesson, demonstrations=records, question=_named(lesson.question, names))
    rest = iter(drawn)
    own = ({choice: next(rest) for choice in record["choices"]} for record in lesson.demonstrations)
    records = tuple(_named(record, names) for record, names in zip(lesson.demonstrations, own, strict=True))
    return replace(lesson, demonstrations=records)


def inputs_only(lesson: Lesson) -> Lesson:
    """Demonstrations lack their label (§5.3)."""
    return replace(lesson, shown=_without(lesson.shown, label=True))


def labels_only(lesson: Lesson) -> Lesson:
    """Demonstrations lack their input (§5.3)."""
    return replace(lesson, shown=_without(lesson.shown, label=False))


CONDITIONS: Mapping[str, tuple[Step, ...]] = {
    "no_demonstrations": (nothing,),
    "gold": (),
    "random": (uniform,),
    "random_by_frequency": (by_frequency,),
    "correct_0": (correct(0.0),),
    "correct_25": (correct(0.25),),
    "correct_50": (correct(0.5),),
    "correct_75": (correct(0.75),),
    "out_of_distribution": (uniform, foreign),
    "english_words": (renamed, uniform),
    "labels_only": (uniform, labels_only),
    "inputs_only": (inputs_only,),
}


def check(prompt: Prompt, name: str) -> None:
    """ConfigError unless just one of the template's two parts names {answer}."""
    if _names_answer(prompt.question) == _names_answer(prompt.answer):
        raise ConfigError(f"The prompt {name!r}: expected {{answer}} in either its question or its answer, not both.")


def _without(prompt: Prompt, label: bool) -> Prompt:
    """The part that names {answer} is the label's, in a direct prompt the second, in a channel prompt the first."""
    part = "question" if _names_answer(prompt.question) == label else "answer"
    return replace(prompt, **{part: ""})


def _fields(part: str) -> list[str]:
    """The fields that a template names, in order."""
    return list(dict.fromkeys(field for _, field, *_ in Formatter().parse(part) if field))


def _names_answer(part: str) -> bool:
    return "answer" in _fields(part)


def _named(record: Record, names: Mapping[str, str]) -> Record:
    return {**record, "choices": [names[c] for c in record["choices"]], "answer": names[record["answer"]]}


def _one_of(rng: np.random.Generator, values: Iterable[str]) -> str:
    listed = list(values)
    return listed[int(rng.integers(len(listed)))]
