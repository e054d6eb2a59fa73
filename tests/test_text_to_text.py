"""The task `text_to_text`: records as texts, answers as the model's own, and means that are the published numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from corpora import write_all
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU

from anyformer.contracts import prepare
from anyformer.errors import ConfigError, PluginError
from anyformer.model import Model
from anyformer.model.beam import Beams
from anyformer.objectives import Prefix
from anyformer.testing import check_task
from anyformer_tasks.language.lengths import answered
from anyformer_tasks.language.measures import MEASURES, Measure, best, bleu, rouge, shared_words
from anyformer_tasks.language.text_to_text import TextToText, spoken
from anyformer_tokenizers.text import TextTokenizer

TINY = {"dim": 16, "heads": 2, "depth": 1}
CROSSED = TINY | {"recipe": ["attention", "cross_attention", "feed_forward"]}
WORDS = st.lists(st.sampled_from("a the cat dog sat ran on mat .".split()), max_size=9).map(" ".join)
PAIRS = st.lists(st.tuples(WORDS, WORDS.filter(bool)), min_size=1, max_size=12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_all(tmp_path_factory.mktemp("published")))


def tokenizer(task: TextToText) -> TextTokenizer:
    found = TextTokenizer("text", vocab_size=400)
    found.fit(sample.values[name] for sample in task.examples("train") for name in ("source", "target"))
    return found


def translator(task: TextToText, seed: int = 0) -> Model:
    """Weights so large that every slot tells."""
    torch.manual_seed(seed)
    model = Model({"text": tokenizer(task)}, CROSSED, ["text"], encoder=TINY, source=["text"]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=1.0)
    return model


# ── BLEU and ROUGE ──


@settings(max_examples=300)
@given(PAIRS)
def test_the_mean_is_corpus_bleu(pairs):
    """Guards the headline: a report's mean of these scores is sacrebleu's own corpus BLEU, whatever the texts."""
    said, right = zip(*pairs, strict=True)
    found = bleu(said, [[one] for one in right])["bleu"]
    assert np.mean(found) == pytest.approx(BLEU().corpus_score(list(said), [list(right)]).score, abs=1e-9)


def test_several_right_answers_are_references():
    said, right = (
        ["the cat sat on the mat .", "a dog ran"],
        [["a cat sat on the mat .", "the cat sat ."], ["a dog ran on"]],
    )
    streams = [["a cat sat on the mat .", "a dog ran on"], ["the cat sat .", None]]
    assert np.mean(bleu(said, right)["bleu"]) == pytest.approx(BLEU().corpus_score(said, streams).score, abs=1e-9)


@pytest.mark.parametrize("longer", ["", " and then it sat down again"])
def test_a_text_scores_its_influence(longer):
    """Guards the interval: what a text scores beyond the mean is how corpus BLEU moves as it counts a little more, with
    and without a penalty for brevity."""
    said = ["the cat sat on the mat" + longer, "a dog ran on the mat today" + longer, "two dogs"]
    right = ["the cat sat on a mat today .", "a dog ran on the mat .", "two dogs sat here"]
    whole = BLEU().corpus_score(said, [right])
    assert min(whole.counts) > 0 and (whole.sys_len > whole.ref_len) == bool(longer)
    found = bleu(said, [[text] for text in right])["bleu"]
    copies = 10_000  # of each text, and of one of them a single one more
    for text, wanted, score in zip(said, right, found, strict=True):
        one = BLEU(effective_order=True).sentence_score(text, [wanted])
        counts, totals = (
            [copies * n + m for n, m in zip(getattr(whole, name), getattr(one, name), strict=True)]
            for name in ("counts", "totals")
        )
        sizes = [copies * getattr(whole, name) + getattr(one, name) for name in ("sys_len", "ref_len")]
        moved = copies * (BLEU.compute_bleu(counts, totals, *sizes).score - whole.score)
        assert score - whole.score == pytest.approx(len(said) * moved, rel=1e-2, abs=1e-2)


def test_the_signature_is_the_one_that_is_stated():
    """Guards the docstring against a sacrebleu of other defaults."""
    judge, stated = BLEU(), "case:mixed|eff:no|tok:13a|smooth:exp"
    judge.corpus_score(["a"], [["a"]])
    assert stated in str(judge.get_signature()) and stated in str(bleu.__doc__)


def test_rouge_is_rouge_scores():
    said, right = ["the cats sat .\na dog ran .", ""], ["a cat sat .\nthe dog ran .", "a dog"]
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"], use_stemmer=True)
    expected = [scorer.score(one, text) for one, text in zip(right, said, strict=True)]
    found = rouge(said, [[one] for one in right])
    for name, kind in zip(
        ("rouge_1", "rouge_2", "rouge_l", "rouge_l_sum"), ("rouge1", "rouge2", "rougeL", "rougeLsum"), strict=True
    ):
        assert found[name] == pytest.approx([100 * one[kind].fmeasure for one in expected])
    assert found["rouge_l"][0] != found["rouge_l_sum"][0], "lines count by themselves"


def test_the_best_of_the_right_answers_counts():
    assert best({"f1": shared_words}, ["the old town", "x"], [["River", "old town"], [""]]) == {"f1": [1.0, 0.0]}
    judged = MEASURES["f1"].judge(["An answer."], [["answer", "question"]])
    assert judged == {"f1": [1.0], "exact_match": [1.0]}
    assert MEASURES["accuracy"].judge(["Positive", "positive"], [["positive"]] * 2) == {"accuracy": [0.0, 1.0]}


def test_a_missing_package_is_named():
    with pytest.raises(PluginError, match=r"no-such-judge.*pip install 'anyformer\[metrics\]'"):
        Measure(("quality",), best, "no-such-judge").require()


# ── Records as texts ──


@pytest.mark.parametrize(
    ("dataset", "prompt", "source", "target"),
    [
        ("multi30k", "translate_de_en", "translate German to English: Ein ", "A "),
        ("multi30k", "translate_en_de", "translate English to German: A ", "Ein "),
        ("sst2", "t5_sst2", "sst2 sentence: ", "negative"),
        ("sick", "t5_sick", "mnli hypothesis: ", "entailment"),
        ("sick", "t5_sick_relatedness", "stsb sentence1: ", "4.5"),
        ("xquad", "t5_question", "question: Where does ", ""),
        ("wnut17", "t5_entities", "tag: ", "B-person O O O O B-location O"),
        ("cnn_dailymail", "summarize", "summarize: ", ""),
    ],
)
def test_each_prompt_fits_its_set(folder, dataset, prompt, source, target):
    """Guards the templates against the fields of the sets that they are made for."""
    sample = TextToText(dataset, folder, prompt).examples("test")[0]
    assert sample.values["source"].startswith(source) and sample.values["target"].startswith(target)
    assert sample.values["target"] and "{" not in sample.values["source"] + sample.values["target"]


def test_every_right_answer_is_kept(tmp_path: Path):
    """A question may have several; the first is what is learned."""
    assert spoken({"answers": [], "n": 1.5}) == {"answers": [], "n": 1.5, "answer": ""}
    page = tmp_path / "capitals.yaml"
    page.write_text("origin: nowhere\nfiles: {test: test.jsonl, train: test.jsonl}\n")
    (tmp_path / "test.jsonl").write_text('{"question": "Q?", "context": "C.", "answers": ["Rome", "roma", "Rome"]}\n')
    (sample,) = TextToText(str(page), str(tmp_path), "t5_question", "f1").examples("test")
    assert sample.values == {"source": "question: Q? context: C.", "target": "Rome"} and sample.right == (
        "Rome",
        "roma",
    )


def test_settings_of_the_texts(folder):
    """longest cuts sources, lowercase is of both texts, first leaves the training split whole."""
    plain, changed = (
        TextToText(data_dir=folder, **more) for more in ({}, {"longest": 40, "lowercase": True, "first": 3})
    )
    assert len(changed.examples("test")) == 3 and len(changed.examples("train")) == len(plain.examples("train"))
    one, other = plain.examples("test")[0].values, changed.examples("test")[0].values
    assert other["source"] == one["source"].lower()[:40] and other["target"] == one["target"].lower()


# ── What a model writes ──


@pytest.mark.parametrize("beams", [1, 3])
def test_batches_write_what_each_prompt_alone_does(folder, beams, monkeypatch):
    """Guards the order of answers, and that sorting and batching change none of them."""
    task = TextToText(data_dir=folder, max_new=6, beams=beams, length_penalty=0.6)
    model, samples = translator(task), task.examples("test")
    monkeypatch.setattr("anyformer_tasks.language.text_to_text.TOKEN_BUDGET", 200)
    alone = []
    for sample in samples:
        asked = replace(sample, values={"source": sample.values["source"]})
        prompt = prepare("t", task, model.tokenizers, asked, np.random.default_rng(0))
        if beams == 1:
            (tokens,) = model.generate([prompt], "text", 6)
        else:
            tokens = model.beam_search([prompt], "text", Beams(beams, 6, length_penalty=0.6))[0][0].tokens
        alone.append(model.tokenizers["text"].decode(tokens))
    assert task.written(model, samples) == alone and len(set(alone)) > 1


def test_scores_are_of_what_is_written(folder):
    """Guards the way from answers to the report: the mean is corpus BLEU of just these texts."""
    task = TextToText(data_dir=folder, max_new=6)
    model, samples = translator(task), task.examples("test")
    said = [text.strip() for text in task.written(model, samples)]
    scores = list(task.score(model, samples))
    expected = BLEU().corpus_score(said, [[sample.values["target"] for sample in samples]]).score
    assert np.mean([score.value for score in scores]) == pytest.approx(expected, abs=1e-9)
    assert [score.shown["said"] for score in scores] == said and [s.id for s in scores] == [s.id for s in samples]


def test_a_decoder_alone_answers_behind_its_prefix(folder):
    """Guards the objective `prefix`: the source is the context, the target what is written."""
    task = TextToText("sst2", folder, "t5_sst2", "accuracy", max_new=4)
    task.objective = Prefix(target="target")
    torch.manual_seed(0)
    model = Model({"text": tokenizer(task)}, TINY, ["text"]).eval()
    samples = task.examples("test")[:5]
    scores = list(task.score(model, samples))
    assert len(scores) == 5 and {score.value for score in scores} <= {0.0, 1.0}


def test_contract(folder):
    """The public contract; the target axis alone counts as the example's length, so it is checked with one axis."""
    task = TextToText("sick", folder, "t5_sick", "accuracy", max_new=4)
    check_task(_OneAxis("sick", folder, "t5_sick", "accuracy", max_new=4), {"text": tokenizer(task)})


class _OneAxis(TextToText):
    def default_objective(self):
        return Prefix(target="target")


def test_the_baseline_is_the_commonest_answer(folder):
    task = TextToText("sst2", folder, "t5_sst2", "accuracy")
    assert task.baselines() == {"accuracy": {"commonest answer": 0.5}}


@given(st.lists(st.text("abc", min_size=1, max_size=8), max_size=20), st.integers(1, 20))
def test_answers_come_in_the_order_of_the_questions(texts, budget):
    seen: list[Sequence[str]] = []

    def answer(batch):
        seen.append(batch)
        return [text.upper() for text in batch]

    assert answered(texts, len, budget, answer) == [text.upper() for text in texts]
    assert all(len(batch) == 1 or sum(map(len, batch)) <= budget for batch in seen)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"metric": "blue"}, "Unknown metric 'blue'.*Did you mean 'bleu'"),
        ({"beams": 0}, "beams=0.*expected at least 1"),
        ({"first": 0}, "first=0"),
    ],
)
def test_wrong_settings_are_refused(wrong, said):
    with pytest.raises(ConfigError, match=said):
        TextToText(**wrong)
