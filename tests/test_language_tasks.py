"""Labels of texts and of words, and answers in passages: from a published file to a trained model's score."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Sequence
from dataclasses import replace
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
from anyformer.contracts import SPLITS, Task
from anyformer.errors import AnyformerError, ConfigError, SampleError
from anyformer.model import Model
from anyformer_tasks.language.classification import BAG_OF_WORDS, TextClassification, macro_f1, shortened
from anyformer_tasks.language.reading import Passage, Reading, best_span, overlap
from anyformer_tasks.language.tagging import TokenLabels, agreement, entities, looked_up, sentence

TASKS: dict[str, type[Task]] = {
    "text_classification": TextClassification,
    "token_labels": TokenLabels,
    "reading": Reading,
}
PAIR = {"dataset": "sick", "texts": ["sentence_A", "sentence_B"], "label": "entailment_judgment"}
WORDS = {"vocab_size": 400, "items": "words"}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> str:
    return str(corpora.write_all(tmp_path_factory.mktemp("sets")))


def trained(
    tmp_path: Path, task: str, chosen: dict[str, Any], tokenizers: dict[str, Any], steps: int, depth: int = 1
) -> tuple[Task, Model]:
    """A tiny model after a few steps on one task, and the task."""
    L.seed_everything(0, verbose=False)
    mixture = af.Mixture(tokenizers=tokenizers, tasks={task: chosen}, token_budget=320)
    backbone = {"dim": 32, "heads": 2, "depth": depth}
    learner = af.Learner(backbone=backbone, lr=1e-2, schedule={"warmup_steps": 10})
    trainer = L.Trainer(
        accelerator="cpu", devices=1, max_steps=steps, default_root_dir=tmp_path, limit_val_batches=1, logger=False,
        enable_model_summary=False, enable_checkpointing=False, enable_progress_bar=False,
    )  # fmt: skip
    trainer.fit(learner, datamodule=mixture)
    return mixture.tasks[task], learner.model.eval()


@pytest.mark.parametrize(
    ("task", "chosen"),
    [
        ("text_classification", {}),
        ("text_classification", PAIR),
        ("token_labels", {}),
        ("reading", {"window": 12, "stride": 6}),
    ],
    ids=["text", "pair", "tags", "reading"],
)
def test_samples_are_the_settings(task, chosen, shelf):
    """The same samples from the same settings, through a worker's pickle too; ids are unique, fields are declared."""
    one = TASKS[task](**chosen, data_dir=shelf)
    other = pickle.loads(pickle.dumps(type(one)(**one.config())))
    ids = [sample.id for split in SPLITS for sample in one.examples(split)]
    assert len(ids) == len(set(ids))
    for split in SPLITS:
        assert list(one.examples(split)) == list(other.examples(split))
        assert all(list(sample.values) == list(one.fields) for sample in one.examples(split))


# ── Classification ──


def test_a_text_is_told_by_its_word(tmp_path, shelf):
    """One word decides, and is learned; chance is a half. So does the baseline learn it."""
    tokenizers = {"text": {"vocab_size": 400}, "label": {}}
    task, model = trained(tmp_path, "text_classification", {"data_dir": shelf}, tokenizers, 50)
    found = scored(task, model)
    assert found["accuracy"] > 0.8 and found["macro_f1"] > 0.8
    baselines = task.baselines()
    assert baselines["accuracy"][BAG_OF_WORDS] > 0.9 and baselines["accuracy"]["most frequent label"] == 0.5


def test_pairs_are_laid_together(tmp_path, shelf):
    """Both texts are in the model's sequence, in BERT's order, and the label is told from them."""
    tokenizers = {"text": {"vocab_size": 400, "special": ["class", "separator"], "segments": 2}, "label": {}}
    task, model = trained(tmp_path, "text_classification", PAIR | {"data_dir": shelf}, tokenizers, 50)
    assert list(task.fields.items()) == [("first", "text"), ("second", "text"), ("label", "label")]
    assert scored(task, model)["accuracy"] > 0.6  # chance is a third
    sample = task.examples("test")[0]
    example = af.prepare("x", task, model.tokenizers, sample, np.random.default_rng(0))
    text = model.tokenizers["text"]
    assert text.decode(replace(example.tokens)) == sample.values["first"] + sample.values["second"]


def test_texts_may_be_lowered_and_shortened(shelf):
    plain, short = (
        TextClassification("sick", shelf, PAIR["texts"], PAIR["label"], lowercase=low, max_words=most).examples("test")
        for low, most in ((False, 0), (True, 7))
    )
    for one, other in zip(plain, short, strict=True):
        texts = [other.values[name] for name in ("first", "second")]
        assert sum(len(text.split()) for text in texts) == 7
        assert all(one.values[n].lower().startswith(other.values[n]) for n in ("first", "second"))


@given(st.lists(st.text("ab \t", max_size=12), min_size=1, max_size=2), st.integers(2, 8))
def test_a_pair_is_cut_from_its_longer_end(texts, most):
    """BERT's rule, as its released code has it: one word at a time, of the first only if it is longer."""
    kept = [text.split() for text in texts]
    while sum(map(len, kept)) > most:
        (kept[0] if len(kept) == 1 or len(kept[0]) > len(kept[1]) else kept[1]).pop()
    found = shortened(texts, most)
    assert [text.split() for text in found] == kept
    assert all(text.startswith(part) for text, part in zip(texts, found, strict=True))


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abcd")), min_size=1, max_size=30))
def test_macro_f1_is_the_mean_of_its_influences(pairs):
    """Their mean is scikit-learn's macro F1, and their slope is what one more sample of a kind changes."""
    from sklearn.metrics import f1_score

    wanted, said = zip(*pairs, strict=True)
    values = macro_f1(wanted, said)
    assert sum(values) / len(values) == pytest.approx(f1_score(wanted, said, average="macro", zero_division=0))
    many = 200  # of all samples together, and one more of the first
    more = f1_score([*wanted * many, wanted[0]], [*said * many, said[0]], average="macro", zero_division=0)
    slope = (more - sum(values) / len(values)) * (many * len(values) + 1)
    assert slope == pytest.approx(values[0] - sum(values) / len(values), abs=0.1)


def test_classification_settings_are_checked(shelf):
    with pytest.raises(ConfigError, match=r"expected one field of the records, or two"):
        TextClassification(texts=[])
    with pytest.raises(ConfigError, match=r"max_words=1; expected at least one a text"):
        TextClassification(texts=["a", "b"], max_words=1)
    with pytest.raises(ConfigError, match=r"Unknown field of a record 'sentense'.*Did you mean 'sentence'"):
        TextClassification(data_dir=shelf, texts=["sentense"]).examples("train")


# ── Labels of words ──


def test_words_are_told_apart(tmp_path, shelf):
    """Names and places, one word or two, better than without learning; the corpus' F1 is the scores' weighted mean."""
    task, model = trained(tmp_path, "token_labels", {"data_dir": shelf}, {"text": WORDS, "labels": {}}, 40)
    found = scored(task, model)
    assert found["entity_f1"] > 0.7 and found["token_accuracy"] > 0.8
    baselines = task.baselines()["entity_f1"]
    assert next(iter(baselines.values())) == max(baselines.values())
    scores = [score for score in task.score(model, task.examples("test")) if score.metric == "entity_f1"]
    right = [round(score.value * score.weight) for score in scores]
    assert found["entity_f1"] == pytest.approx(sum(right) / sum(score.weight for score in scores))


LABELS = st.lists(st.sampled_from(["O", "B-a", "I-a", "B-b", "I-b"]), max_size=9)


def conlleval(labels: Sequence[str]) -> list[tuple[int, int, str]]:
    """Chunks by the two conditions of the Perl script that CoNLL-2000 to 2003 were judged with."""
    chunks, start = [], 0
    padded = ["O", *labels, "O"]
    for place in range(1, len(padded)):
        (before, _, old), (tag, _, kind) = padded[place - 1].partition("-"), padded[place].partition("-")
        ends = (before, tag) in {("B", "B"), ("B", "O"), ("I", "B"), ("I", "O")} or (before != "O" and old != kind)
        starts = (before, tag) in {("B", "B"), ("I", "B"), ("O", "B"), ("O", "I")} or (tag != "O" and old != kind)
        if ends:
            chunks.append((start - 1, place - 2, old))
        start = place if starts else start
    return chunks


@given(LABELS)
def test_entities_are_those_of_conlleval(labels):
    assert sorted(entities(labels)) == conlleval(labels)


@given(st.lists(st.tuples(LABELS, LABELS), min_size=1, max_size=5))
def test_an_entity_counts_only_as_a_whole(pairs):
    for said, wanted in pairs:
        right, count = agreement(said, wanted)
        assert 0 <= 2 * right <= count and agreement(wanted, wanted) == (count_of(wanted), 2 * count_of(wanted))


def count_of(labels: Sequence[str]) -> int:
    return sum(label.startswith("B") or starts(labels, i) for i, label in enumerate(labels))


def starts(labels: Sequence[str], place: int) -> bool:
    before = labels[place - 1] if place else "O"
    return labels[place].startswith("I") and (before == "O" or before[2:] != labels[place][2:])


ODD = [
    "\u200b",
    "\ufeff",
    "\U0001f468\u200d\U0001f469",
    "\u00a0",
    "\u2028",
    "\x85",
    "a\u3000b",
    "",
    "a b",
    "\t",
    "\u2581",
    "e\u0301",
]


@pytest.mark.parametrize("kind", [{"vocab_size": 400}, {"type": "characters"}], ids=["pieces", "characters"])
def test_odd_words_count_as_the_tokenizer_counts_them(kind, shelf):
    """Zero-width characters, emoji, blanks that only Unicode knows, and blanks within a word: one label each."""
    if kind.get("type", "text") not in af.list_tokenizers():
        pytest.skip("the tokenizer of characters is not installed")
    task = TokenLabels(data_dir=shelf)
    words = [*ODD, "end"]
    text = sentence(words)
    made = af.Mixture(
        tokenizers={"text": kind | {"items": "words"}, "labels": {"names": ["O"]}}, tasks={"token_labels": {}}
    )
    made.tokenizers["text"].fit([text, "the rest"])
    sample = af.Sample("one", {"text": text, "labels": ["O"] * len(words)})
    example = af.prepare("x", task, made.tokenizers, sample, np.random.default_rng(0))
    assert len(example.targets["labels"].slots) == len(words)


def test_the_published_words_count_as_the_tokenizer_counts_them():
    """Every sentence of WNUT 2017 gets a label a word."""
    if not os.environ.get("ANYFORMER_DATA"):
        pytest.skip("set ANYFORMER_DATA to a folder that holds the published sets")
    task = TokenLabels(data_dir=os.environ["ANYFORMER_DATA"])
    mixture = af.Mixture(tokenizers={"text": WORDS, "labels": {}}, tasks={"token_labels": task.config()})
    mixture.setup()
    for split in SPLITS:
        for sample in task.examples(split):
            af.prepare("wnut17", task, mixture.tokenizers, sample, np.random.default_rng(0))


def test_the_longest_known_run_is_taken():
    known = {("new",): "a", ("new", "york"): "b"}
    assert looked_up("in new york , new".split(), known) == ["O", "B-b", "I-b", "O", "B-a"]
    assert looked_up(["x"], {}) == ["O"]


def test_records_without_a_label_a_word_are_refused(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"words": ["a", "b"], "labels": ["O"]}\n')
    path = tmp_path / "mine.yaml"
    path.write_text("origin: ask\nfiles: {train: train.jsonl}\n")
    with pytest.raises(ConfigError, match=r"Record 0 of the split 'train' .* has 2 words and 1 labels"):
        TokenLabels(str(path), str(tmp_path)).examples("train")
    with pytest.raises(ConfigError, match="Unknown field of a record 'tokens'"):
        TokenLabels(str(path), str(tmp_path), words="tokens").examples("train")


# ── Reading ──


def test_answers_are_found_in_windows(tmp_path, shelf):
    """A passage longer than the window is read to its end, and one sentence of it answers the question."""
    chosen = {"data_dir": shelf, "window": 16, "stride": 8, "longest": 3}
    task, model = trained(tmp_path, "reading", chosen, {"text": WORDS, "answer": {"type": "span"}}, 40, depth=2)
    assert isinstance(task, Reading)
    found = scored(task, model)
    assert (
        found["exact_match"] > 0.2 and found["f1"] >= found["exact_match"]
    )  # a place of five, when places are learned
    said = task.answers(model, task.examples("test"))
    assert all(1 <= len(text.split()) <= 3 for text in said)
    assert set(task.baselines()) == {"f1", "exact_match"}


def test_windows_read_alike_alone_and_all_of_the_passage(shelf):
    """The answer of a long passage is the best over its windows, each judged for itself."""
    torch.manual_seed(0)
    task = Reading(data_dir=shelf, window=8, stride=3, longest=4)
    mixture = af.Mixture(tokenizers={"text": WORDS, "answer": {"type": "span"}}, tasks={"reading": task.config()})
    mixture.setup()
    model = Model(mixture.tokenizers, {"dim": 16, "heads": 2, "depth": 1}, mixture.heads()).eval()
    samples = task.examples("test")[:4]
    together = task.answers(model, samples)
    assert together == [task.answers(model, [sample])[0] for sample in samples]
    for sample in samples:
        begins = task._windows(len(sample.passage.places))
        assert {w for begin in begins for w in range(begin, begin + 8)} >= set(range(len(sample.passage.places)))


def test_a_training_window_holds_the_answer(shelf):
    """Whatever the window: the words at the answer's place spell it."""
    for window in (3, 7, 200):
        for sample in Reading(data_dir=shelf, window=window, stride=min(window, 2)).examples("train"):
            first, last = sample.values["answer"]
            words = sample.values["context"].split(" ")
            assert len(words) <= window and " ".join(words[first : last + 1]) == sample.answers[0]


@given(st.text("ab1.,-'é½ \n\u00a0", max_size=30), st.data())
def test_a_span_of_characters_is_a_span_of_words(text, data):
    """Every character that is no blank is in a word, and the words of a span say at least the span."""
    passage = Passage.of(text)
    assert "".join(text[a:b] for a, b in passage.places) == "".join(text.split())
    if not passage.places:
        return
    first = data.draw(st.integers(0, len(passage.places) - 1))
    last = data.draw(st.integers(first, len(passage.places) - 1))
    begin, end = passage.places[first][0], passage.places[last][1]
    assert passage.span(begin, end) == (first, last) and passage.said(first, last) == text[begin:end]


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=1, max_size=8), st.integers(1, 9))
def test_the_best_span_is_the_best_of_all(logits, longest):
    starts_, ends = (torch.tensor(side) for side in zip(*logits, strict=True))
    value, first, last = best_span(starts_, ends, longest)
    spans = [(a, b) for a in range(len(logits)) for b in range(a, min(a + longest, len(logits)))]
    assert (first, last) in spans and value == max(float(starts_[a] + ends[b]) for a, b in spans)


def test_scores_are_those_of_the_official_script():
    """Articles, case and punctuation do not count; a shared word counts as often as both have it."""
    assert overlap("The Denver Broncos!", ["denver broncos", "Broncos"]) == 1
    assert overlap("to be or not", ["to be be"]) == pytest.approx(2 * 2 / 7)
    assert overlap("none", ["other"]) == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"answers": []}, "there is no answer"),
        ({"answers": [{"text": "Rome", "answer_start": 0}]}, "'Rome' does not stand at 0"),
        ({"answers": [{"text": "Anna"}]}, "answer_start"),
        ({"question": " "}, "there is no question"),
        ({"context": " "}, "there is no question or no text"),
    ],
)
def test_what_cannot_be_read_is_named(change, said, tmp_path):
    record = {"id": "q7", "context": "Anna lives in Paris.", "question": "Where?", "answers": []} | change
    path = tmp_path / "mine.yaml"
    path.write_text("origin: ask\nfiles: {train: train.jsonl}\n")
    (tmp_path / "train.jsonl").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match=r"Question 'q7' .*SQuAD 1\.1.*Leave it out\.$") as found:
        Reading(str(path), str(tmp_path)).examples("train")
    assert said in str(found.value)


def test_a_tokenizer_without_words_is_refused(shelf):
    """With a text as one item nothing says where words begin: an error, not a wrong answer."""
    task = Reading(data_dir=shelf)
    tokenizers = {"text": {"vocab_size": 400}, "answer": {"type": "span"}}
    mixture = af.Mixture(tokenizers=tokenizers, tasks={"reading": task.config()})
    mixture.setup()
    model = Model(mixture.tokenizers, {"dim": 16, "heads": 2, "depth": 1}, mixture.heads()).eval()
    with pytest.raises(AnyformerError, match=r"items: words") as found:
        list(task.score(model, task.examples("test")))
    assert isinstance(found.value, SampleError)
    with pytest.raises(ConfigError, match=r"a stride of at most the window"):
        Reading(window=3, stride=4)
