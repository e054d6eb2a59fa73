"""A text model of our own as a language model: what it says with its cache is what it says without, at the right
values, and CTC's beams add it up as an exhaustive search does."""

from __future__ import annotations

import itertools
import math

import corpora
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import anyformer as af
from anyformer.architecture import BackboneConfig
from anyformer.batch import Example
from anyformer.errors import ConfigError
from anyformer.model import Model
from anyformer.objectives.language_model import LanguageModel, shared_values
from anyformer.objectives.transcripts import PrefixBeams
from anyformer.registry import tokenizers
from anyformer.tokens import Stream, Tokens
from anyformer_tasks.sound import SpeechRecognition


def letters(text: str = "abc", **settings) -> af.Tokenizer:
    made = tokenizers.create("characters", {"name": "text"} | settings)
    made.fit([text])
    return made


def model_of(tokenizer: af.Tokenizer, **backbone) -> Model:
    torch.manual_seed(0)
    made = Model({"text": tokenizer}, {"dim": 16, "heads": 2, "depth": 2} | backbone, ["text"], tie=False)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.4)
    return made.eval()


OURS = letters(special=["blank"])
THEIRS = letters("xcab", special=["mask", "class"])
MODEL = model_of(THEIRS, positions={"type": "rotary"})
VALUES = OURS.encode("abc").streams["text"].values[1:-1].tolist()


def uncached(said: tuple[int, ...]) -> float:
    """ln p of a text of ours without its end, by one pass over the whole of it."""
    if not said:
        return 0.0
    text = OURS.decode(Tokens.of("text", torch.tensor(said)))
    values = THEIRS.encode(text).streams["text"].values[:-1]
    targets = {"text": Stream.whole(values[1:])}
    ((nats, count),) = MODEL.log_likelihoods([Example(Tokens.of("text", values[:-1]), targets)])
    assert count == len(said)
    return nats


prefixes = st.lists(st.sampled_from(VALUES), max_size=5).map(tuple)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(prefixes, min_size=1, max_size=4), min_size=1, max_size=4))
def test_cached_is_uncached(rounds):
    """Whatever is asked for in whatever order: texts that grow, that come back, that were never begun."""
    language = LanguageModel(MODEL, "text", OURS)
    for asked in rounds:
        for prefix, row in zip(asked, language(asked), strict=True):
            before = uncached(prefix)
            wanted = {value: uncached((*prefix, value)) - before for value in VALUES}
            assert {value: pytest.approx(row[value], abs=1e-4) for value in VALUES} == wanted


def test_a_text_that_grows_is_read_once():
    """A value at a time goes through the model, however long what stands before it is."""
    read: list[int] = []
    a, b, c = VALUES
    with MODEL.backbone.register_forward_pre_hook(lambda stack, given: read.append(len(given[0]))):
        language = LanguageModel(MODEL, "text", OURS)
        for asked in ([()], [(a,), (b,)], [(a, b), (b,), (b, c)], [(a, b), (b,), (b, c)], [(a, b, c), (a, b)]):
            language(asked)
    assert read == [1, 2, 2, 1], "what a text begins with, and then values"


def test_values_have_their_places():
    """The same letters at other values, behind other roles: what ours says is theirs, the end is the end, and nothing
    else can be said."""
    row = LanguageModel(MODEL, "text", OURS)([()])[0]
    theirs = {piece: int(THEIRS.encode(piece).streams["text"].values[1]) for piece in "abc"}
    with torch.no_grad():
        start = Tokens.of("text", THEIRS.encode("a").streams["text"].values[:1])
        session = MODEL.session(1)
        session.append([start])
        nats = MODEL.read("text", session.last)[0].log_softmax(-1)
    for piece, value in zip("abc", VALUES, strict=True):
        assert row[value] == pytest.approx(float(nats[theirs[piece]]), abs=1e-5)
    ends = OURS.streams[0].end, THEIRS.streams[0].end
    assert row[ends[0]] == pytest.approx(float(nats[ends[1]]), abs=1e-5)
    assert set(np.flatnonzero(np.isfinite(row))) == {*VALUES, ends[0]}


def test_learned_pieces_agree_with_themselves(tmp_path):
    """A vocabulary of bytes, several of which spell the same by themselves, is its own; with another, what differs is
    named."""
    one, same, other = (tokenizers.create("text", {"vocab_size": size}) for size in (280, 280, 300))
    texts = ["one two three", "two two one", "three four"]
    for each, more in ((one, []), (same, []), (other, ["seven eleven twelve"] * 3)):
        each.fit(texts + more)
    ours, theirs = shared_values(one, same)
    assert ours.tolist() == theirs.tolist() and len(ours) > 250
    with pytest.raises(ConfigError, match=r"values that spell .*expected the same pieces") as found:
        shared_values(other, one)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("model", "ours", "says"),
    [
        (lambda: MODEL, letters("abcd"), "no values that spell 'd'"),
        (lambda: model_of(THEIRS, causal=False), OURS, "no causal text model"),
        (lambda: model_of(letters(ends=False)), OURS, "no value of the role 'start'"),
        (lambda: Model({"other": letters(name="other")}, BackboneConfig(8, 2, 1), ["other"]), OURS, "'text'"),
        (lambda: Model({"text": THEIRS}, BackboneConfig(8, 2, 1), []), OURS, "'text'"),
    ],
    ids=["a piece", "both ways", "no start", "no tokenizer", "no head"],
)
def test_what_does_not_fit_is_one_sentence(model, ours, says):
    with pytest.raises(ConfigError, match=says) as found:
        LanguageModel(model(), "text", ours)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 0.3), (0.8, 0.0), (1.5, -0.4)])
def test_beams_add_it_up_as_all_paths_do(alpha, beta):
    """ln p_ctc + α ln p_language + β values, of all texts that four slots can say, each by all its paths; few beams
    find a text at its own score or, where a path of it was dropped, below."""
    spec = OURS.streams[0]
    blank = spec.special["blank"]
    for seed in range(3):
        rows = torch.full((4, spec.width), -math.inf)
        said = [blank, *VALUES]
        rows[:, said] = torch.randn(4, 4, generator=torch.Generator().manual_seed(seed)).mul(2).log_softmax(-1)
        every: dict[tuple[int, ...], float] = {}
        for path in itertools.product(said, repeat=4):
            text = tuple(value for value, _ in itertools.groupby(path) if value != blank)
            every[text] = every.get(text, 0.0) + math.exp(float(sum(rows[range(4), path])))
        scores = {t: math.log(p) + alpha * uncached(t) + beta * len(t) for t, p in every.items()}
        language = LanguageModel(MODEL, "text", OURS)
        found = PrefixBeams(1000, language, alpha, beta).best(rows, blank)
        assert dict(found) == {text: pytest.approx(score, abs=1e-4) for text, score in scores.items()}
        assert found[0][1] == pytest.approx(max(scores.values()), abs=1e-4)
        assert all(
            score <= scores[text] + 1e-4 for text, score in PrefixBeams(4, language, alpha, beta).best(rows, blank)
        )


def test_a_recogniser_asks_a_checkpoint(tmp_path):
    """By settings: a model of the text that is sure of one word makes that word be heard."""
    corpora.yesno(tmp_path, np.random.default_rng(0))
    made = {"audio": tokenizers.create("audio", {"sample_rate": 8000, "mels": 8, "layers": 0})}
    made["text"] = letters("yes no")
    task = SpeechRecognition("yesno", str(tmp_path))
    made["audio"].fit(task.corpus("audio"))
    torch.manual_seed(0)
    hears = Model(made, BackboneConfig(16, 2, 1, causal=False), ["text"]).eval()
    told = model_of(made["text"])
    with torch.no_grad():
        head = told.head("text")
        head.weight.zero_()  # what it says does not depend on what was said
        head.bias = torch.nn.Parameter(torch.zeros(len(head.weight)))
        head.bias[made["text"].encode("o").streams["text"].values[1]] = 50.0
    af.save(plain(told), tmp_path / "lm")
    sure = SpeechRecognition(
        "yesno", str(tmp_path), decoding={"beams": 4, "language": str(tmp_path / "lm"), "bonus": 4.0}
    )
    samples = task.examples("test")[:1]
    assert set(sure.written(hears, samples)[0]) == {"o"} != set(task.written(hears, samples)[0])


def plain(model: Model) -> Model:
    """The same with its bias in its settings, as a checkpoint says it."""
    made = Model(
        model.tokenizers, model.backbone.config, {"text": {"bias": True}}, tie=False, scale=model.architecture.scale
    )
    made.load_state_dict(model.state_dict())
    return made
