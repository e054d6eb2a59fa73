"""Bilingual documents and translations in them, in languages made for it; word translations against plain loops."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyformer.errors import ConfigError
from anyformer_tasks.files import content, lines
from anyformer_tasks.language.bilingual import Bilingual, runs
from anyformer_tasks.language.lexicon import Lexicon

CONSONANTS = {"east": "bdglmn", "west": "fkprst", "north": "vwxzhj"}
VOCABULARY = 60


def word(language: str, number: int) -> str:
    """Word `number` of a language; equal numbers mean the same."""
    letters = CONSONANTS[language]
    vowels = {"east": "aei", "west": "iou", "north": "yao"}[language]
    return "".join(letters[number // 6**i % 6] + vowels[(number + i) % 3] for i in range(3))


def sentence(language: str, meaning: list[int]) -> str:
    """Another language says it in another order."""
    ordered = meaning if language == "east" else meaning[::-1]
    return " ".join(word(language, number) for number in ordered).capitalize() + "."


def meanings(rng: random.Random, count: int) -> list[list[int]]:
    return [[rng.randrange(VOCABULARY) for _ in range(rng.randint(6, 9))] for _ in range(count)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """A text of each language, east and west in parallel, and documents whose ids tell their kind."""
    rng, folder = random.Random(0), tmp_path_factory.mktemp("corpus")
    parallel = meanings(rng, 600)
    for language in ("east", "west"):
        (folder / language).write_text("\n".join(sentence(language, m) for m in parallel) + "\n")
    (folder / "north").write_text("\n".join(sentence("north", m) for m in meanings(rng, 300)) + "\n")
    told = []
    for i in range(30):
        a, b, c, d = meanings(rng, 4)
        east, west = [sentence("east", m) for m in (a, b)], [sentence("west", m) for m in (c, d)]
        kinds = {
            "monolingual": [*east, sentence("east", c)],
            "bilingual": [*east, *west] if i % 2 else [*west, *east],
            "translation pair": [*east, sentence("west", a), west[0]],
        }
        told += [{"id": f"{kind}-{i}", "text": " ".join(text)} for kind, text in kinds.items()]
    (folder / "documents.jsonl").write_text("".join(json.dumps(record) + "\n" for record in told))
    return folder


def study(folder: Path, **changes) -> Bilingual:
    languages = {name: str(folder / name) for name in CONSONANTS}
    parallel = [{name: str(folder / name) for name in ("east", "west")}]
    common = {"documents": str(folder / "documents.jsonl"), "languages": languages, "parallel": parallel}
    return Bilingual(**(common | changes))


def counts(rows) -> dict[tuple[str, str], int]:
    return {(row["documents"], row["of"]): row["count"] for row in rows}


def test_every_document_is_known_for_what_it_is(corpus, tmp_path):
    """Guards the whole chain against the truth: shares, intervals, and the kind of each document."""
    rows = study(corpus).run(None, tmp_path)
    assert counts(rows) == {
        ("monolingual", "all"): 30,
        ("undecided", "all"): 0,
        ("bilingual", "all"): 60,
        ("translation pair", "all"): 30,
        ("translation pair", "bilingual"): 30,
        ("bilingual: east + west", "all"): 60,
        ("translation pair: east + west", "bilingual: east + west"): 30,
    }
    assert all(row["interval"][0] < row["share"] < row["interval"][1] for row in rows if row["count"])
    found = [json.loads(line) for line in (tmp_path / "documents.jsonl").read_text().splitlines()]
    assert all(one["kind"] == one["id"].rpartition("-")[0] for one in found)
    pairs = [one["pair"] for one in found if one["pair"]]
    for pair in pairs:
        east, west = pair["first"][1], pair["second"][1]
        assert [pair["first"][0], pair["second"][0]] == ["east", "west"]
        assert len(east.split()) == len(west.split())


def test_two_languages_count_only_in_runs_that_are_long_enough(corpus):
    """Guards `minimum`: two sentences of 6 to 9 words are 12 to 18, so nobody speaks 19 of the second language."""
    assert counts(study(corpus, minimum=19).run(None, None))["bilingual", "all"] == 0
    assert counts(study(corpus, minimum=12).run(None, None))["bilingual", "all"] == 60
    assert counts(study(corpus, minimum=100).run(None, None))["undecided", "all"] == 90


def test_a_pair_needs_its_score_its_length_and_its_lexicon(corpus):
    asked = ("translation pair", "all")
    assert counts(study(corpus, threshold=20).run(None, None))[asked] == 0
    assert counts(study(corpus, threshold=-20).run(None, None))[asked] == 60
    assert counts(study(corpus, parallel=[]).run(None, None))[asked] == 0


def test_a_folder_of_texts_is_read_like_lines(corpus, tmp_path):
    for line in (corpus / "documents.jsonl").read_text().splitlines():
        record = json.loads(line)
        (tmp_path / f"{record['id']}.txt").write_text(record["text"])
    (tmp_path / "notes.md").write_text("not a document")
    folder = study(corpus, documents=str(tmp_path)).run(None, None)
    assert counts(folder) == counts(study(corpus).run(None, None))


def test_a_run_goes_on_through_what_nobody_knows():
    """Guards the length of runs: an interruption ends one, an unknown sentence does not, none before the first."""
    told = [(None, "x"), ("a", "1 2"), (None, "3"), ("b", "4"), ("a", "5"), ("a", "6 7 8")]
    assert runs(told) == {"a": 4, "b": 1}


# ── Word translations ──


def model_one(pairs, iterations):
    """The textbook's loop over IBM Model 1, with the empty word as None."""
    known = {f for _, b in pairs for f in b}
    table = {(e, f): 1.0 for e in {None, *(e for a, _ in pairs for e in a)} for f in known}
    for _ in range(iterations):
        count, total = Counter(), Counter()
        for a, b in pairs:
            for f in b:
                whole = sum(table[e, f] for e in (None, *a))
                for e in (None, *a):
                    count[e, f] += table[e, f] / whole
                    total[e] += table[e, f] / whole
        table = {(e, f): count[e, f] / total[e] if total[e] else 0.0 for e, f in table}
    return table


SENTENCES = st.lists(st.sampled_from("abcd"), min_size=1, max_size=5)


@given(pairs=st.lists(st.tuples(SENTENCES, SENTENCES), min_size=1, max_size=6), iterations=st.integers(1, 4))
@settings(max_examples=60)
def test_expectation_maximisation_is_the_textbooks(pairs, iterations):
    """Guards the table against plain loops, repeated words and all, and that each source word's entries sum to 1."""
    lexicon = Lexicon.learned(pairs, iterations)
    numbers = {None: 0, **lexicon.source}
    size, found = len(lexicon.target), dict(zip(lexicon.cells.tolist(), lexicon.table.tolist(), strict=True))
    expected = model_one(pairs, iterations)
    for (e, f), value in expected.items():
        assert found.get(numbers[e] * size + lexicon.target[f], 0.0) == pytest.approx(value, abs=1e-12)
    sums = Counter()
    for cell, value in found.items():
        sums[cell // size] += value
    assert all(value == pytest.approx(1) for value in sums.values())


def test_a_translation_explains_and_another_sentence_does_not():
    """Guards the sign of the score, and that what was never learned says nothing."""
    pairs = [([f"e{i}", f"e{i + 1}"], [f"f{i + 1}", f"f{i}"]) for i in range(20)]
    lexicon = Lexicon.learned(pairs, 10)
    assert lexicon.explains(["e3", "e9"], ["f9", "f3"]) > 1 > 0 > lexicon.explains(["e3", "e9"], ["f15", "f1"])
    assert lexicon.explains(["e3"], ["new"]) == 0 == lexicon.explains(["new"], [])
    known = lexicon.explains(["e3"], ["f3"])
    assert lexicon.explains(["e3"], ["f3", "new"]) == pytest.approx(known / 2)


# ── Slips ──


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"documents": ""}, "No documents; set `documents`"),
        ({"documents": "nowhere.jsonl"}, r"nowhere\.jsonl cannot be read"),
        ({"languages": {"east": "x"}}, "expected at least two"),
        ({"parallel": [{"east": "x"}]}, "expected two languages"),
        ({"parallel": [{"east": "x", "wst": "y"}]}, "Did you mean 'west'"),
        ({"ratio": 0.5}, "ratio=0.5; expected a number from 1"),
        ({"order": "four"}, "order='four'"),
    ],
)
def test_what_cannot_be_is_one_sentence(corpus, changes, said):
    with pytest.raises(ConfigError, match=said):
        study(corpus, **changes).run(None, None)


def test_files_that_do_not_fit_are_named(corpus, tmp_path):
    (tmp_path / "short").write_text("one line\n")
    with pytest.raises(ConfigError, match=r"has 600 lines and .*short 1; expected as many"):
        study(corpus, parallel=[{"east": str(corpus / "east"), "west": str(tmp_path / "short")}]).run(None, None)
    (tmp_path / "d.jsonl").write_text('{"text": "fine"}\n{"body": "x"}\n')
    with pytest.raises(ConfigError, match="line 2: expected a `text`, got body"):
        study(corpus, documents=str(tmp_path / "d.jsonl")).run(None, None)
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(ConfigError, match="empty is empty"):
        study(corpus, languages={"east": str(corpus / "east"), "none": str(tmp_path / "empty")}, parallel=[]).run(
            None, None
        )


# ── Real text ──


@pytest.mark.skipif("ANYFORMER_DATA" not in os.environ, reason="ANYFORMER_DATA names no folder of data sets")
def test_captions_in_two_languages_are_found(tmp_path):
    """Guards the defaults on real text (multi30k): hardly a bilingual document or a translation pair is missed."""
    folder = Path(os.environ["ANYFORMER_DATA"]) / "multi30k_en_de"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    rng = random.Random(0)
    for language in ("en", "de"):
        train = lines(content(folder / f"train.{language}.gz", "captions"))[:8000]
        (tmp_path / language).write_text("\n".join(train) + "\n")
    en, de = (lines(content(folder / f"val.{language}.gz", "captions")) for language in ("en", "de"))
    with (tmp_path / "d.jsonl").open("w") as file:
        for i in range(150):
            a, b, c, d = rng.sample(range(len(en)), 4)
            texts = ([en[a], en[b], en[c]], [en[a], en[b], de[c], de[d]], [en[a], en[b], de[a], de[c]])[i % 3]
            file.write(json.dumps({"id": i % 3, "text": "\n".join(texts)}) + "\n")
    files = {language: str(tmp_path / language) for language in ("en", "de")}
    Bilingual(documents=str(tmp_path / "d.jsonl"), languages=files, parallel=[files]).run(None, tmp_path)
    found = [json.loads(line) for line in (tmp_path / "documents.jsonl").read_text().splitlines()]
    kinds = ("monolingual", "bilingual", "translation pair")
    assert sum(one["kind"] == kinds[int(one["id"])] for one in found) >= 0.9 * len(found)
