"""The task `documents`: texts cut without a loss, each character judged once, numbers that are what they say."""

from __future__ import annotations

import itertools
import json
import math
import os

import pytest
import torch
from corpora import write_all
from hypothesis import given
from hypothesis import strategies as st
from scores import mean

from anyformer.errors import ConfigError
from anyformer.model import Model
from anyformer.objectives import Denoising, Masked, SpanCorruption
from anyformer.testing import check_task
from anyformer.tokens import Tokens
from anyformer_tasks.language.documents import Documents, Running, edges, pieces
from anyformer_tasks.ngram import WittenBell
from anyformer_tokenizers.text import CharacterTokenizer, TextTokenizer

TINY = {"dim": 16, "heads": 2, "depth": 1}
CROSSED = TINY | {"recipe": ["attention", "cross_attention", "feed_forward"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_all(tmp_path_factory.mktemp("published")))


def characters(task: Documents) -> CharacterTokenizer:
    tokenizer = CharacterTokenizer("text", ends=False)
    tokenizer.fit(task.texts("train"))
    return tokenizer


def text_pieces(task: Documents, **settings) -> TextTokenizer:
    tokenizer = TextTokenizer("text", vocab_size=400, **settings)
    tokenizer.fit(task.texts("train"))
    return tokenizer


# ── Cutting ──


@given(st.text(" ab.\n", max_size=80), st.integers(1, 30))
def test_pieces_are_the_whole_text(text, size):
    """Guards that nothing is lost or longer than `size`, and that what is left out is blank."""
    cuts = edges(text, size)
    parts = [text[begin:end] for begin, end in itertools.pairwise(cuts)]
    assert "".join(parts) == text and all(0 < len(part) <= size for part in parts if text)
    kept = "".join(sample.values["text"] for sample in pieces([text], size, "train"))
    assert len(kept.split()) <= len(text.split()) + len(parts)


def test_a_piece_ends_with_a_line_else_a_sentence_else_a_word():
    assert edges("one. two\nthree four", 12) == [0, 9, 19]
    assert edges("one two. three four", 12) == [0, 9, 19]
    assert edges("one two three four", 12) == [0, 8, 18]
    assert edges("onetwothreefour", 12) == [0, 12, 15]


@given(st.lists(st.text("abc", min_size=2, max_size=60), min_size=1, max_size=4), st.integers(1, 20))
def test_windows_end_to_end_predict_each_character_once(texts, size):
    """Guards the overlap of one character: together they predict all but the very first of each text."""
    windows = Running(texts, size, size, "test")
    assert "".join(sample.values["text"][1:] for sample in windows) == "".join(text[1:] for text in texts)
    assert all(2 <= len(sample.values["text"]) <= size + 1 for sample in windows)
    assert len({sample.id for sample in windows}) == len(windows)


@given(st.lists(st.text("abc", min_size=2, max_size=40), min_size=1, max_size=3), st.integers(1, 20))
def test_random_windows_begin_with_every_character_once_a_pass(texts, size):
    """Guards what makes a shuffled pass nanoGPT's random starts: item i of a text is the window from character i on."""
    windows = Running(texts, size, 1, "train")
    expected = [text[i : i + size + 1] for text in texts for i in range(max(1, len(text) - size))]
    assert [sample.values["text"] for sample in windows] == expected
    assert windows[-1].values["text"] == expected[-1]
    assert [sample.id for sample in windows[1:3]] == [sample.id for sample in list(windows)[1:3]]


def test_a_million_windows_are_made_when_asked_for(folder):
    """Guards that held-out windows are laid end to end, and that training does not make a list of its own."""
    task = Documents(data_dir=folder, windows="random", size=16)
    (train,), (test,) = task.texts("train"), task.texts("test")
    assert isinstance(task.examples("train"), Running) and len(task.examples("train")) == len(train) - 16
    assert len(task.examples("test")) == math.ceil((len(test) - 1) / 16)


# ── Scores ──


def test_nats_per_character_are_those_of_plain_forwards(folder):
    """Guards packing, slots, and what is divided by what: every window by itself, in a loop of its own."""
    torch.manual_seed(0)
    task = Documents(data_dir=folder, windows="end_to_end", size=32)
    tokenizer = characters(task)
    model = Model({"text": tokenizer}, TINY, ["text"]).eval()
    samples = task.examples("test")[:20]
    with torch.no_grad():
        scores = list(task.score(model, samples))
        total, count = 0.0, 0
        for sample in samples:
            ids = tokenizer.encode(sample.values["text"]).streams["text"].values
            session = model.session(1)
            hidden = session.append([Tokens.of("text", ids[:-1])])
            logits = model.read("text", hidden).double()
            total += float(torch.nn.functional.cross_entropy(logits, ids[1:], reduction="sum"))
            count += len(ids) - 1
    assert count == 20 * 32
    assert mean(scores, "nats_per_character") == pytest.approx(total / count, rel=1e-5)
    assert mean(scores, "bits_per_byte") == pytest.approx(total / count / math.log(2), rel=1e-5)
    assert mean(scores, "token_perplexity") == pytest.approx(math.exp(total / count), rel=1e-5)


def test_with_marks_around_a_text_all_of_it_is_predicted(folder):
    """Guards the units: <s> is given, so the first character counts, and so do the nats of </s>."""
    torch.manual_seed(0)
    task = Documents("sst2", data_dir=folder, field="sentence")
    tokenizer = text_pieces(task)
    model = Model({"text": tokenizer}, TINY, ["text"]).eval()
    samples = task.examples("test")
    with torch.no_grad():
        scores = list(task.score(model, samples))
    weights = {
        metric: [s.weight for s in scores if s.metric == metric]
        for metric in ("nats_per_character", "token_perplexity")
    }
    assert weights["nats_per_character"] == [len(sample.values["text"]) for sample in samples]
    assert weights["token_perplexity"] == [tokenizer.length(sample.values["text"]) - 1 for sample in samples]
    nats = mean(scores, "nats_per_character") * sum(weights["nats_per_character"])
    assert mean(scores, "token_perplexity") == pytest.approx(
        math.exp(nats / sum(weights["token_perplexity"])), rel=1e-9
    )


@pytest.mark.parametrize(
    ("objective", "settings", "plan"),
    [
        (Masked(), {"special": ["mask"]}, {}),
        (Denoising(), {"special": ["mask"], "items": "sentences"}, {"encoder": TINY, "source": ["text"]}),
        (SpanCorruption(), {"sentinels": 60}, {"encoder": TINY, "source": ["text"]}),
    ],
)
def test_other_objectives_are_judged_by_what_they_predict(folder, objective, settings, plan):
    """Guards pre-training by masks and by corruption: one perplexity, the same at every call."""
    task = Documents("wikitext-2-small", data_dir=folder)
    task.objective = objective
    tokenizer = text_pieces(task, **settings)
    torch.manual_seed(0)
    model = Model({"text": tokenizer}, CROSSED if plan else TINY, ["text"], **plan).eval()
    samples = task.examples("test")[:4]
    with torch.no_grad():
        first, second = (list(task.score(model, samples)) for _ in range(2))
    assert [metric.name for metric in task.metrics] == ["token_perplexity"] == list({score.metric for score in first})
    assert first == second and mean(first, "token_perplexity") > 1 and task.baselines() == {}


def test_the_baseline_is_an_ngram_model_of_the_whole_text(folder):
    task = Documents(data_dir=folder, windows="random", size=16, order=3)
    (train,), (test,) = task.texts("train"), task.texts("test")
    bits = WittenBell(3, [train.encode()]).bits(test.encode())
    found = task.baselines()
    assert found["nats_per_character"]["3-gram"] == pytest.approx(bits * math.log(2) / len(test))
    assert found["bits_per_byte"]["3-gram"] == pytest.approx(bits / len(test.encode()))
    assert Documents(data_dir=folder, order=0).baselines() == {}


# ── Settings ──


def test_contract(folder):
    """The public contract, over several sets and over running text."""
    several = Documents(data_dir=folder, datasets=[{"dataset": "sst2", "field": "sentence"}, {"dataset": "wikitext-2"}])
    check_task(several, {"text": text_pieces(several)})
    running = Documents(data_dir=folder, windows="random", size=24)
    check_task(running, {"text": characters(running)})


def test_several_sets_stand_one_behind_the_other(folder):
    both = Documents(
        data_dir=folder, datasets=[{"dataset": "sst2", "field": "sentence"}, {"dataset": "tinyshakespeare"}]
    )
    alone = Documents("sst2", data_dir=folder, field="sentence").texts("train") + Documents(data_dir=folder).texts(
        "train"
    )
    assert both.texts("train") == alone
    assert len({sample.cluster for sample in both.examples("test")}) == len(both.texts("test"))


def test_lowercase_is_of_all_texts(folder):
    (text,) = Documents(data_dir=folder, lowercase=True).texts("test")
    assert text == text.lower() and text != Documents(data_dir=folder).texts("test")[0]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"windows": "end to end"}, "Unknown way of cutting.*Did you mean 'end_to_end'"),
        ({"size": 0}, "size=0.*expected at least 1"),
        ({"order": 9}, "order=9"),
        ({"datasets": [{"field": "text"}]}, "expected {dataset"),
        ({"datasets": ["sst2"]}, "expected {dataset"),
    ],
)
def test_wrong_settings_are_refused(wrong, said):
    with pytest.raises(ConfigError, match=said):
        Documents(**wrong)


def test_a_field_that_is_no_text_is_refused(folder):
    with pytest.raises(ConfigError, match="'sst2' has no text 'text'; set field to one of: sentence, label"):
        Documents("sst2", data_dir=folder).texts("train")


def test_settings_are_json(folder):
    task = Documents(data_dir=folder, datasets=[{"dataset": "tinyshakespeare"}])
    assert Documents(**json.loads(json.dumps(task.config()))) == task


def test_shakespeares_six_grams():
    """On the real text: what counting reaches is near the published 1.6 to 1.7 nats a character."""

    if "ANYFORMER_DATA" not in os.environ:
        pytest.skip("ANYFORMER_DATA does not say where tinyshakespeare is.")
    task = Documents(data_dir=os.environ["ANYFORMER_DATA"], windows="random", size=64)
    assert 1.6 < task.baselines()["nats_per_character"]["6-gram"] < 1.75
