"""The contract checks pass a sound plugin and name the clause that a broken one breaks."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import corpora
import numpy as np
import pytest
import torch
from torch import nn

from anyformer import (
    Metric,
    NextToken,
    Prefix,
    Sample,
    Score,
    Stream,
    StreamSpec,
    Task,
    Tokenizer,
    Tokens,
    check_task,
    check_tokenizer,
)
from anyformer.errors import ContractError, PluginError, SampleError, TokenizerError
from anyformer.registry import make_task, tasks, tokenizers
from anyformer.testing.clause import equal, kind_of, shown
from anyformer.testing.hostile import bent
from anyformer.training import fit_tokenizers, make_tokenizers

# ---------------------------------------------------------------- a sound tokenizer


@dataclass
class Letters(Tokenizer):
    """Lower-case words, letter by letter; `fit` learns the alphabet, id 0 ends a word."""

    name: str = "letters"
    limit: int = 50
    _alphabet: str | None = field(default=None, init=False)

    @property
    def streams(self):
        return (StreamSpec.discrete(self.name, len(self._letters()) + 1, end=0),)

    def encode(self, raw):
        return Tokens.of(self.name, torch.tensor([*self._ids(raw), 0]))

    def decode(self, tokens):
        ids = tokens.streams[self.name].values.tolist()
        if any(not 0 <= i <= len(self._letters()) for i in ids):
            raise TokenizerError("no such letter")
        return "".join(self._letters()[i - 1] for i in ids if i)

    def length(self, raw):
        return len(self._ids(raw)) + 1

    def example(self, rng):
        return "".join(rng.choice(list("abcdefgh"), size=rng.integers(1, 9)))

    @property
    def fitted(self):
        return self._alphabet is not None

    def fit(self, samples):
        self._alphabet = "".join(sorted({letter for word in samples for letter in word}))

    def state(self):
        return {} if self._alphabet is None else {"alphabet.json": json.dumps(self._alphabet).encode()}

    def restore(self, state: Mapping[str, bytes]):
        try:
            self._alphabet = json.loads(state["alphabet.json"])
        except (KeyError, ValueError) as error:
            raise TokenizerError("alphabet.json is missing or unreadable") from error

    def _letters(self) -> str:
        if self._alphabet is None:
            raise TokenizerError("not fitted")
        return self._alphabet

    def _ids(self, raw) -> list[int]:
        if not isinstance(raw, str) or not set(raw) <= set(self._letters()):
            raise SampleError("expected a word of known letters")
        return [self._letters().index(letter) + 1 for letter in raw]


class Mean(nn.Module):
    """Each value beside the mean of its item; `leaky` takes the mean over the whole pack instead."""

    def __init__(self, dim: int, leaky: bool = False) -> None:
        super().__init__()
        self.linear, self.leaky = nn.Linear(2, dim), leaky

    def forward(self, values, items):
        sizes = [len(values)] if self.leaky else items[:, 0].tolist()
        means = torch.cat([part.mean(0, keepdim=True).expand_as(part) for part in values.split(sizes)])
        return self.linear(torch.cat([values, means], 1))


@dataclass
class Levels(Tokenizer):
    """A continuous stream with an embedder of its own."""

    name: str = "levels"
    fidelity: ClassVar = "approximate"

    @property
    def streams(self):
        return (StreamSpec.continuous(self.name, 1, embedder=Mean),)

    def encode(self, raw):
        values = torch.tensor(self._checked(raw).copy())[:, None]
        return Tokens.of(self.name, values)

    def decode(self, tokens):
        return tokens.streams[self.name].values[:, 0].numpy().copy()

    def length(self, raw):
        return len(self._checked(raw))

    def example(self, rng):
        return rng.normal(size=rng.integers(2, 9)).astype(np.float32)

    def _checked(self, raw):
        right = isinstance(raw, np.ndarray) and raw.dtype == np.float32 and raw.ndim == 1 and raw.size
        if not right or not np.isfinite(raw).all():
            raise SampleError("expected finite float32[values], at least one")
        return raw


@pytest.mark.parametrize("tokenizer", [Letters(), Levels()], ids=lambda tokenizer: tokenizer.name)
def test_a_sound_tokenizer_passes_and_is_left_as_it_was(tokenizer):
    before = replace(tokenizer)
    check_tokenizer(tokenizer)
    assert tokenizer == before and tokenizer.fitted == before.fitted


def test_a_fitted_tokenizer_is_not_fitted_again():
    tokenizer = Letters()
    tokenizer.fit(["abcdefghxyz"])
    check_tokenizer(tokenizer, samples=["xyz", "a"])
    with pytest.raises(ContractError, match=r"'encodes'.*'nope'"):
        check_tokenizer(tokenizer, samples=["nope"])


# ---------------------------------------------------------------- broken tokenizers


def changed(base: type[Tokenizer], clause: str, /, **members: Any):
    """A test case: the sound tokenizer with some members replaced, and the clause which that breaks."""
    return pytest.param(base, members, clause, id=clause.replace(" ", "-"))


def _tokens(change, base=Letters):
    """An `encode` whose tokens are changed afterwards."""
    return lambda self, raw: change(base.encode(self, raw), self.name)


def _stream(**changes):
    def change(tokens, name):
        stream = tokens.streams[name]
        return replace(tokens, streams={name: replace(stream, **{k: f(stream) for k, f in changes.items()})})

    return _tokens(change)


def _late_length(self, raw):
    return Letters.length(self, raw) + 1


def _mutating(self, raw):
    tokens = Levels.encode(self, raw)
    raw[0] = 7.0
    return tokens


BROKEN = [
    changed(Letters, "pickles", __getstate__=lambda self: {"broken": lambda: None}),
    changed(Letters, "example follows its seed", example=lambda self, rng: str(np.random.default_rng().random())),
    changed(Letters, "fits", fit=lambda self, samples: samples[0]),
    changed(Letters, "fits", fit=lambda self, samples: None),
    changed(
        Letters,
        "refuses to work before fit",
        encode=lambda self, raw: Tokens.of(self.name, torch.zeros(1).long()),
    ),
    changed(
        Letters,
        "encodings are well formed",
        encode=_tokens(lambda tokens, name: replace(tokens, length=0, streams={})),
    ),
    changed(
        Letters,
        "encodings are well formed",
        encode=_tokens(lambda tokens, name: Tokens.of("other", torch.tensor([1]))),
    ),
    changed(Letters, "encodings are well formed", encode=_stream(values=lambda s: s.values + 99)),
    changed(Letters, "encodings are well formed", encode=_stream(values=lambda s: s.values.int())),
    changed(Letters, "encodings are well formed", encode=_stream(slots=lambda s: s.slots + 1)),
    changed(Letters, "encodings are well formed", encode=_stream(slots=lambda s: s.slots.flip(0))),
    changed(Letters, "encodings are well formed", encode=_stream(slots=lambda s: s.slots * 0)),
    changed(Letters, "encodings are well formed", encode=_stream(items=lambda s: s.items - 1)),
    changed(
        Letters,
        "encodings are well formed",
        encode=_tokens(lambda t, n: replace(t, positions=t.positions - 1)),
    ),
    changed(
        Letters,
        "encodings are well formed",
        encode=_tokens(lambda t, n: replace(t, positions=t.positions[:, 0])),
    ),
    changed(
        Levels,
        "encodings are well formed",
        encode=_tokens(lambda t, n: Tokens.of(n, t.streams[n].values.double()), Levels),
    ),
    changed(
        Levels,
        "encodings are well formed",
        encode=_tokens(lambda t, n: Tokens.of(n, t.streams[n].values / 0), Levels),
    ),
    changed(
        Levels,
        "encodings are well formed",
        encode=_tokens(lambda t, n: Tokens.of(n, t.streams[n].values.repeat(1, 2)), Levels),
    ),
    changed(
        Levels,
        "encodes repeatably",
        encode=_tokens(lambda t, n: Tokens.of(n, t.streams[n].values + torch.rand(1)), Levels),
    ),
    changed(
        Levels,
        "encodes repeatably",
        encode=_tokens(lambda t, n: Tokens.of(n, t.streams[n].values + np.random.rand()), Levels),
    ),
    changed(Levels, "leaves its input alone", encode=_mutating),
    changed(Letters, "announces its length", length=_late_length),
    changed(Letters, "announces its length", length=lambda self, raw: float(Letters.length(self, raw))),
    changed(Letters, "config is JSON", config=lambda self: {"name": self.name, "limit": {1, 2}}),
    changed(Letters, "state is bytes by file name", state=lambda self: {"alphabet.json": "abc"}),
    changed(Letters, "rebuilds from config and state", state=lambda self: {}),
    changed(
        Letters,
        "rebuilds from config and state",
        config=lambda self: {"name": "letters", "limit": self.limit + 1},
    ),
    changed(Letters, "refuses damaged state", restore=lambda self, state: setattr(self, "_alphabet", "abcdefgh")),
    changed(
        Letters,
        "streams carry its name",
        streams=property(lambda self: (StreamSpec.discrete("letters", len(self._letters()) + 1),)),
    ),
    changed(
        Letters,
        "ends within its vocabulary",
        streams=property(lambda self: (StreamSpec.discrete(self.name, len(self._letters()) + 1, end=99),)),
    ),
    changed(Letters, "decodes as promised", decode=lambda self, tokens: Letters.decode(self, tokens)[::-1] + "a"),
    changed(Letters, "decodes as promised", decode=lambda self, tokens: 5),
    changed(Letters, "decodes as promised", fidelity="none"),
    changed(
        Letters,
        "decodes what models say",
        decode=lambda self, tokens: "".join(
            self._letters()[i - 1] for i in tokens.streams[self.name].values.tolist() if i
        ),
    ),
    changed(Letters, "renders", render=lambda self, raw: {"text": 5}),
    changed(
        Levels,
        "embeds alike alone and packed",
        streams=property(lambda self: (StreamSpec.continuous(self.name, 1, embedder=partial(Mean, leaky=True)),)),
    ),
    changed(
        Levels,
        "embeds alike alone and packed",
        streams=property(lambda self: (StreamSpec.continuous(self.name, 1, embedder=lambda dim: Mean(dim)),)),
    ),
    changed(
        Levels,
        "embeds alike alone and packed",
        streams=property(lambda self: (StreamSpec.continuous(self.name, 1, head=partial(nn.Linear, out_features=3)),)),
    ),
    changed(
        Letters,
        "refuses wrong kinds",
        _ids=lambda self, raw: [self._letters().index(x) + 1 for x in raw or ""],
    ),
    changed(
        Letters,
        "survives hostile values",
        _ids=lambda self, raw: (
            [self._letters().index(x) + 1 for x in raw] if isinstance(raw, str) else Letters._ids(self, raw)
        ),
    ),
    changed(
        Levels,
        "encodings are well formed",
        _checked=lambda self, raw: (
            raw
            if isinstance(raw, np.ndarray) and raw.dtype == np.float32 and raw.ndim == 1 and raw.size
            else Levels._checked(self, raw)
        ),
    ),
]


@pytest.mark.parametrize(("base", "members", "clause"), BROKEN)
def test_a_broken_tokenizer_is_told_its_clause(base, members, clause, monkeypatch):
    """On an object whose class is found by name, so that it pickles as an installed plugin would."""
    broken = type("Broken", (base,), {"__module__": __name__, "__qualname__": "Broken", **members})
    monkeypatch.setitem(globals(), "Broken", broken)
    with pytest.raises(ContractError) as caught:
        check_tokenizer(broken())
    said = str(caught.value)
    assert f"breaks the clause {clause!r}: expected " in said and ", got " in said
    assert said.startswith(f"The tokenizer {broken().name!r}")


def test_something_else_is_not_a_tokenizer():
    with pytest.raises(ContractError, match="expected a Tokenizer, got dict"):
        check_tokenizer({})


# ---------------------------------------------------------------- tasks


@dataclass
class Backwards(Task):
    """Say a word backwards."""

    count: int = 4

    fields: ClassVar = {"word": "letters", "answer": "letters"}
    modality: ClassVar = "text"
    metrics: ClassVar = (Metric("accuracy", higher_is_better=True),)

    def default_objective(self):
        return Prefix(target="answer")

    def examples(self, split):
        rng = np.random.default_rng(len(split))
        words = [Letters().example(rng) for _ in range(self.count)]
        return [Sample(f"{split}-{i}", {"word": word, "answer": word[::-1]}) for i, word in enumerate(words)]

    def score(self, model, samples):
        said = model.complete("backwards", self, samples, field="answer", max_new=4)
        for sample, answer in zip(samples, said, strict=True):
            yield Score(sample.id, "accuracy", float(answer == sample.values["answer"]))

    def baselines(self):
        return {"accuracy": {"guessing": 0.0}}


@pytest.fixture
def letters():
    tokenizer = Letters()
    tokenizer.fit(["abcdefgh"])
    return {"letters": tokenizer}


def test_a_sound_task_passes(letters):
    check_task(Backwards(), letters)


def _each(change):
    """An `examples` whose samples are changed afterwards."""
    return lambda self, split: [change(sample, split) for sample in Backwards.examples(self, split)]


def _scores(change):
    return lambda self, model, samples: change(list(Backwards.score(self, model, samples)))


class Unrepeatable(Prefix):
    def prepare(self, tokens, rng):
        return replace(Prefix.prepare(self, tokens, rng), prefix=int(np.random.default_rng().integers(2, 2**30)) % 3)


class Longer(Prefix):
    def prepare(self, tokens, rng):
        return Prefix.prepare(self, {**tokens, "more": tokens["word"]}, rng)


class Beyond(Prefix):
    def prepare(self, tokens, rng):
        example = Prefix.prepare(self, tokens, rng)
        return replace(example, targets={n: s.shifted(99) for n, s in example.targets.items()})


class NoPrompt(NextToken):
    def predicts(self, specs):
        return [] if "word" in specs else super().predicts(specs)


def broken_task(clause: str, /, **members: Any):
    return pytest.param(members, clause, id=clause.replace(" ", "-"))


BROKEN_TASKS = [
    broken_task("declares itself", fields={}),
    broken_task("declares itself", metrics=()),
    broken_task("declares itself", modality=""),
    broken_task("gives samples", examples=lambda self, split: 1 / 0),
    broken_task("splits are sound", examples=lambda self, split: []),
    broken_task("splits are sound", examples=_each(lambda sample, split: replace(sample, id="same"))),
    broken_task("splits are sound", examples=_each(lambda sample, split: replace(sample, id=sample.id[-1]))),
    broken_task("splits are sound", examples=_each(lambda s, _: replace(s, id=str(np.random.default_rng().random())))),
    broken_task("splits are sound", examples=_each(lambda s, _: replace(s, values={**s.values, "strange": "a"}))),
    broken_task("rebuilds from config", config=lambda self: {"count": {1}}),
    broken_task("rebuilds from config", config=lambda self: {"count": 2}),
    broken_task("prepares its samples", examples=_each(lambda s, _: replace(s, values={"word": 5, "answer": "a"}))),
    broken_task("its objective fits its fields", default_objective=lambda self: Prefix(target="nothing")),
    broken_task("its objective fits its fields", default_objective=lambda self: NoPrompt()),
    broken_task("prepares its samples", default_objective=lambda self: Unrepeatable("answer")),
    broken_task("prepares its samples", default_objective=lambda self: Longer("answer")),
    broken_task("prepares its samples", default_objective=lambda self: Beyond("answer")),
    broken_task("scores", score=lambda self, model, samples: 1 / 0),
    broken_task("scores", score=_scores(lambda scores: scores[1:])),
    broken_task("scores", score=_scores(lambda scores: [replace(s, metric="speed") for s in scores])),
    broken_task("scores", score=_scores(lambda scores: [replace(s, value=float("nan")) for s in scores])),
    broken_task("scores", score=_scores(lambda scores: [replace(s, id="?") for s in scores])),
    broken_task("baselines", baselines=lambda self: {"speed": {"guessing": 1.0}}),
    broken_task("baselines", baselines=lambda self: {"accuracy": {"guessing": float("inf")}}),
]


@pytest.mark.parametrize(("members", "clause"), BROKEN_TASKS)
def test_a_broken_task_is_told_its_clause(members, clause, letters):
    broken = type("Broken", (Backwards,), members)
    with pytest.raises(ContractError) as caught:
        check_task(broken(), letters, name="backwards")
    assert str(caught.value).startswith(f"The task 'backwards' breaks the clause {clause!r}: expected ")


# ---------------------------------------------------------------- built-in plugins


def installed(registry) -> list[str]:
    return [name for name in registry.names() if "(anyformer " in registry.origin(name)]


OF_A_MODEL = {"quantised", "drawing"}  # tests/test_quantised.py has one


@pytest.mark.parametrize("name", [name for name in installed(tokenizers) if name not in OF_A_MODEL])
def test_every_built_in_tokenizer_keeps_the_contract(name):
    check_tokenizer(name)


SMALL = {  # as built in, but sooner made
    "digits": {"copies": 1},
    "dial_tones": {"clips": 100, "held_out": 10},
    "cartpole": {"episodes": 30, "held_out": 4},
}


def settings_of(name: str) -> set[str]:
    return {f.name for f in dataclasses.fields(tasks.get(name))}


def self_made() -> list[str]:
    """Tasks that make their samples; those that read a user's `files` are tested on files of their own."""
    return [name for name in installed(tasks) if not settings_of(name) & {"files", "data_dir"}]


def published() -> list[str]:
    """Tasks over published data sets."""
    found = [name for name in installed(tasks) if {"dataset", "data_dir"} <= settings_of(name)]
    return [name for name in found if name not in OF_A_MODEL]


NEEDED = {
    "text": {"special": ["mask", "class", "separator", "blank"], "items": "words", "vocab_size": 400},
    "answer": {"type": "span"},
}
"""Settings of tokenizers without which a task over published sets asks for them."""

OTHERS = {name: {"dataset": "yesno"} for name in ("speech_recognition", "transcription")}
"""Where the default set has no small copy."""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    """Small made-up copies of the published data sets."""
    return str(corpora.write_all(tmp_path_factory.mktemp("data")))


@pytest.mark.parametrize("name", published())
def test_every_task_over_published_sets_keeps_the_contract(name, data):
    task = make_task(name, OTHERS.get(name, {}), data_dir=data)
    made = make_tokenizers({kind: NEEDED.get(kind, {}) for kind in set(task.fields.values())})
    fit_tokenizers(made, {name: task})
    check_task(task, made, samples=2, name=name)


@pytest.mark.parametrize("name", self_made())
def test_every_built_in_task_keeps_the_contract(name):
    try:
        task = tasks.create(name, SMALL.get(name))
        check_task(task, samples=2, name=name)
    except PluginError as error:
        pytest.skip(str(error))  # an optional library is not installed


# ---------------------------------------------------------------- the checks' own tools


def test_deep_equality_sees_types_shapes_and_nan():
    one = {"a": (np.array([1.0, np.nan]), [Stream.whole(torch.arange(3))]), "b": float("nan")}
    two = {"a": (np.array([1.0, np.nan]), [Stream.whole(torch.arange(3))]), "b": float("nan")}
    assert equal(one, two)
    assert not equal(np.zeros(2), np.zeros(2, np.float32))
    assert not equal(np.zeros(2), np.zeros((1, 2)))
    assert not equal((1, 2), [1, 2]) and not equal("a", b"a") and not equal(1, 1.0)
    assert not equal(one, {**two, "b": 1.0})


def test_kinds_ignore_sizes():
    assert kind_of((np.zeros((1, 5), np.float32), 8000)) == kind_of((np.ones((2, 7), np.float32), 16000))
    assert kind_of(np.zeros(3)) != kind_of(np.zeros((3, 1))) and kind_of("a") != kind_of(b"a")


def test_long_values_are_shown_short():
    assert shown(np.zeros((3, 4))) == "float64[3, 4]"
    assert len(shown("x" * 10_000)) < 50


def test_hostile_values_reach_every_part_of_a_composite():
    values = list(bent((np.ones((2, 5), np.float32), 8000)))
    arrays, rates = [v[0] for v in values], [v[1] for v in values]
    assert any(isinstance(a, np.ndarray) and a.size == 0 for a in arrays)
    assert any(isinstance(a, np.ndarray) and a.dtype == np.float32 and np.isnan(a).any() for a in arrays)
    assert None in rates and 0 in rates and -1 in rates
    sample = Sample("a", {})
    assert any(v.id == "" for v in bent(sample)) and any(v.cluster is None for v in bent(sample))
