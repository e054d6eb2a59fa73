"""Questions with several answers or with none, and ratings of pairs: from a published file to a score."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import corpora
import lightning as L
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scores import scored

import anyformer as af
from anyformer.contracts import SPLITS, Task, prepare
from anyformer.errors import AnyformerError, ConfigError
from anyformer.model import Model
from anyformer.testing import check_task
from anyformer_tasks.language.choosing import Choosing
from anyformer_tasks.language.measures import correlations, ranks
from anyformer_tasks.language.rating import Rating
from anyformer_tasks.language.reading import FoundSpan, Reading, best_threshold, overlap

TEXT = {"vocab_size": 400, "special": ["delimiter", "extract"]}
WORDS = {"vocab_size": 400, "special": ["class", "separator"], "items": "words"}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> str:
    return str(corpora.write_all(tmp_path_factory.mktemp("sets")))


def trained(
    folder: Path, kind: str, chosen: dict[str, Any], tokenizers: dict[str, Any], steps: int
) -> tuple[Task, Model]:
    """A tiny model after a few steps on one task, and the task."""
    L.seed_everything(0, verbose=False)
    mixture = af.Mixture(tokenizers=tokenizers, tasks={kind: chosen}, token_budget=480)
    learner = af.Learner(backbone={"dim": 32, "heads": 2}, lr=1e-2, schedule={"warmup_steps": 10})
    trainer = L.Trainer(
        accelerator="cpu", devices=1, max_steps=steps, default_root_dir=folder, limit_val_batches=1, logger=False,
        enable_model_summary=False, enable_checkpointing=False, enable_progress_bar=False, accumulate_grad_batches=2,
    )  # fmt: skip
    trainer.fit(learner, datamodule=mixture)
    return mixture.tasks[kind], learner.model.eval()


@pytest.mark.parametrize(
    ("kind", "chosen"), [(Choosing, {}), (Rating, {}), (Reading, {"dataset": "squad2", "unanswerable": True})]
)
def test_samples_are_the_settings(kind, chosen, shelf):
    """The same samples from the same settings, through a worker's pickle too."""
    one = kind(**chosen, data_dir=shelf)
    other = pickle.loads(pickle.dumps(kind(**one.config())))
    for split in SPLITS:
        assert list(one.examples(split)) == list(other.examples(split))
        assert all(list(sample.values) == list(one.fields) for sample in one.examples(split))


# ── Several answers ──


def test_the_right_answer_is_told(tmp_path, shelf):
    """The good one, wherever it stands; chance is a half, and neither its place nor its length tells it."""
    task, model = trained(tmp_path, "choosing", {"data_dir": shelf}, {"text": TEXT, "choice": {}}, 40)
    assert scored(task, model)["accuracy"] > 0.75
    assert set(task.baselines()["accuracy"]) == {"most frequent place", "longest answer"}
    sample = task.examples("test")[0]
    example = prepare("x", task, model.tokenizers, sample, np.random.default_rng(0))
    said = [model.tokenizers["text"].decode(one.tokens) for one in (example, *example.apart)]
    assert said == [sample.values["goal"] + sample.values[name] for name in ("sol1", "sol2")]


def test_listed_answers_may_be_few(tmp_path):
    """HellaSwag's layout, with a question of two answers beside one of three."""
    (tmp_path / "mine.yaml").write_text(
        "origin: ask\nfiles: {train: all.jsonl, validation: all.jsonl, test: all.jsonl}\n"
    )
    rows = ['{"ctx": "a", "endings": ["b", "c"], "gold": 2}', '{"ctx": "d", "endings": ["e", "f", "g"], "gold": 1}']
    (tmp_path / "all.jsonl").write_text("\n".join(rows))
    page = str(tmp_path / "mine.yaml")
    task = Choosing(page, str(tmp_path), ["ctx"], ["endings"], "gold", first_label=1, most=3)
    assert [dict(sample.values) for sample in task.examples("test")] == [
        {"ctx": "a", "endings_0": "b", "endings_1": "c", "choice": 1},
        {"ctx": "d", "endings_0": "e", "endings_1": "f", "endings_2": "g", "choice": 0},
    ]
    mixture = af.Mixture({"text": TEXT | {"vocab_size": 300}, "choice": {}}, {"choosing": task.config()})
    mixture.setup()
    torch.manual_seed(0)
    model = Model(mixture.tokenizers, {"dim": 16, "heads": 2}, mixture.heads()).eval()
    assert len(list(task.score(model, task.examples("test")))) == 2
    with pytest.raises(ConfigError, match=r"has 3 answers; set most to as many"):
        Choosing(page, str(tmp_path), ["ctx"], ["endings"], "gold", first_label=1, most=2).examples("test")
    with pytest.raises(ConfigError, match=r"expected different fields, none called 'choice'"):
        Choosing(given=["choice"])
    with pytest.raises(AnyformerError, match=r"field of a record 'goal'"):
        Choosing(page, str(tmp_path)).examples("test")


# ── Ratings ──


def test_a_pair_is_rated(tmp_path, shelf):
    """Ratings are learned from the sum of both orders; more pairs than these few would be needed to tell new ones."""
    tokenizers = {"text": TEXT, "number": {}}
    task, model = trained(tmp_path, "rating", {"data_dir": shelf}, tokenizers, 20)
    found = scored(task, model, "train")
    assert found["pearson"] > 0.6 and found["spearman"] > 0.6 and found["squared_error"] < 1.0
    assert set(task.baselines()) == set(found)
    assert task.examples("train")[0].values["rating"] == 4.5
    with pytest.raises(ConfigError, match=r"expected a number. Name the field among the `numbers`"):
        Rating(data_dir=shelf, rating="pair_ID").examples("train")
    with pytest.raises(ConfigError, match="expected two fields"):
        Rating(texts=["sentence_A"])


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=2, max_size=12))
def test_a_correlation_is_the_mean_of_its_influences(pairs):
    """As numpy computes it; and a value has the slope of the whole for its sample's weight."""
    said, wanted = (np.array(side, float) for side in zip(*pairs, strict=True))
    found = correlations(said.tolist(), wanted.tolist())
    if said.std() == 0 or wanted.std() == 0:
        assert found == [0.0] * len(pairs)
        return
    assert np.mean(found) == pytest.approx(np.corrcoef(said, wanted)[0, 1], abs=1e-9)
    step = 1e-6
    weights = np.ones(len(pairs)) + step * (np.arange(len(pairs)) == 0)
    x, y = (side - np.average(side, weights=weights) for side in (said, wanted))
    moved = np.sum(weights * x * y) / np.sqrt(np.sum(weights * x**2) * np.sum(weights * y**2))
    slope = len(pairs) * (moved - np.mean(found)) / step
    assert found[0] - np.mean(found) == pytest.approx(slope, abs=1e-3)


def test_equal_values_share_a_rank():
    assert ranks([3.0, 1.0, 3.0, 9.0]) == [2.5, 1.0, 2.5, 4.0]


# ── No answer ──


@pytest.fixture(scope="module")
def reader(tmp_path_factory, shelf) -> tuple[Task, Model]:
    chosen = {"dataset": "squad2", "data_dir": shelf, "unanswerable": True, "window": 16, "stride": 8, "longest": 3}
    return trained(tmp_path_factory.mktemp("it"), "reading", chosen, {"text": WORDS, "answer": {"type": "span"}}, 30)


def test_questions_without_an_answer_are_read(reader, shelf):
    """Their target is the first slot; those with one are as before; the official script's parts add up to the whole."""
    task, model = reader
    assert isinstance(task, Reading)
    samples = task.examples("test")
    without = [sample for sample in samples if not sample.values["answer"]]
    assert len(without) == len(samples) // 4 and all(sample.answers == [""] for sample in without)
    for sample in (without[0], samples[0]):
        example = prepare("x", task, model.tokenizers, sample, np.random.default_rng(0))
        target = example.targets["answer.start"]
        assert int(target.slots[0]) == 0 and len(target.slots) < example.tokens.length
        assert (int(target.values) == 0) == (not sample.values["answer"])
    found = scored(task, model)
    for whole, part in (("f1", "has_answer_f1"), ("exact_match", "has_answer_exact_match")):
        assert found[whole] == pytest.approx(0.75 * found[part] + 0.25 * found["no_answer_accuracy"])
    assert task.baselines()["f1"]["no answer"] == 0.25 and Reading(data_dir=shelf).baselines()["f1"].keys() == {
        "most similar sentence"
    }


def test_reading_with_unanswerable_questions_keeps_the_contract(reader):
    """The public one, of which empty answers are a part."""
    task, model = reader
    check_task(task, model.tokenizers, samples=4, name="reading")


def test_the_threshold_parts_spans_from_silence(reader):
    """At infinity nothing is said, at minus infinity always something; that of the validation split is found there."""
    task, model = reader
    assert isinstance(task, Reading)
    samples, kept = task.examples("test")[:8], task.threshold
    try:
        task.threshold = math.inf
        assert task.answers(model, samples) == [""] * 8
        task.threshold = -math.inf
        spans = task.answers(model, samples)
        assert all(spans)
        task.threshold = "validation"
        known = task.examples("validation")
        best = best_threshold(task.found(model, known), [one.answers for one in known])
        said = [span if one.margin > best else "" for span, one in zip(spans, task.found(model, samples), strict=True)]
        assert task.answers(model, samples) == said
    finally:
        task.threshold = kept


SPANS = st.tuples(
    st.floats(-3, 3).map(lambda x: round(x, 1)),
    st.sampled_from(["a cat", "dog", "cat"]),
    st.sampled_from(["cat", "dog", ""]),
)


@settings(max_examples=50)
@given(st.lists(SPANS, min_size=1, max_size=8))
def test_the_best_threshold_is_the_best_of_all(drawn):
    """By trying every one."""
    found, answers = [FoundSpan(text, margin) for margin, text, _ in drawn], [[right] for *_, right in drawn]

    def f1(threshold: float) -> float:
        said = [one.text if one.margin > threshold else "" for one in found]
        return sum(overlap(text, right) for text, right in zip(said, answers, strict=True))

    tried = [-math.inf, *(one.margin for one in found)]
    assert f1(best_threshold(found, answers)) == pytest.approx(max(map(f1, tried)))


def test_no_answer_is_refused_unless_it_is_allowed(shelf):
    assert (overlap("", [""]), overlap("Paris", [""]), overlap("", ["Paris"])) == (1.0, 0.0, 0.0)
    with pytest.raises(ConfigError, match=r"there is no answer.*unanswerable: true"):
        Reading("squad2", shelf).examples("train")
    with pytest.raises(ConfigError, match=r"threshold='best'; expected a number, or 'validation'"):
        Reading(threshold="best")
