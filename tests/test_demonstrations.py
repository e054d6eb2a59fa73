"""Do right labels of demonstrations matter? Models for which the answer is known, made by hand; conditions in words."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import Letters

from anyformer.architecture import Architecture
from anyformer.errors import ConfigError, LimitError
from anyformer.model import Model
from anyformer.registry import tasks
from anyformer_tasks.in_context.conditions import CONDITIONS, Lesson, Material
from anyformer_tasks.in_context.demonstrations import Demonstrations, macro_f1
from anyformer_tasks.in_context.labelled_text import LabelledText
from anyformer_tasks.in_context.prompt import Prompt

if "labelled_text" not in tasks.names():
    tasks.register("labelled_text")(LabelledText)

INPUTS, LABELS, OTHERS = "abcdefgh", "01", "uvwxyz"
TRUTH = {letter: index % 2 for index, letter in enumerate(INPUTS)}
LENGTH = 64


def made(read_off: float, known: float) -> Model:
    """Two attention layers by hand, in which every vector is a sum of one-hot ones.

    read_off: how much the answer owes to an induction circuit (Elhage et al. 2021, Olsson et al. 2022,
    arXiv:2209.11895): the first layer copies the value before each one; the second looks for places behind what is now
    read, and says what stood there. known: how much it owes to the last value alone, of which the truth is known.
    """
    tokenizer = Letters("text")
    tokenizer.fit([INPUTS + LABELS + OTHERS + "\n"])
    (spec,) = tokenizer.streams
    count, width = int(spec.vocab_size or 0), LENGTH
    dim = 3 * count + LENGTH
    now, before, says, place = (slice(start, None) for start in (0, count, 2 * count, 3 * count))
    backbone = {"dim": dim, "heads": 1, "head_dim": width, "depth": 2, "recipe": ["attention"], "norm": "rms"}
    backbone |= {"positions": {"type": "learned", "size": LENGTH}, "attention_bias": "", "score_scale": 1.0}
    plan = {"backbone": backbone | {"final_norm": False}, "heads": {"text": {}}, "context": LENGTH}
    model = Model.of(Architecture.of(plan, "model"), {"text": tokenizer})
    parts = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in parts.items():
            parameter.fill_(float("norm" in name))
        parts["embedders.text.table.weight"][:, now][:, :count] = torch.eye(count)
        parts["backbone.positions.tables.0"][:, place] = torch.eye(LENGTH)
        first, second = (f"backbone.blocks.{i}.attention.sublayer." for i in (0, 1))
        query, key, value = (slice(i * width, None) for i in range(3))
        parts[first + "qkv.weight"][query][: LENGTH - 1, place] = torch.eye(LENGTH)[1:]  # place i asks for i - 1
        parts[first + "qkv.weight"][key][:LENGTH, place] = torch.eye(LENGTH)
        parts[first + "qkv.weight"][value][:count, now][:, :count] = torch.eye(count)
        parts[first + "out.weight"][before][:count, :count] = torch.eye(count) * math.sqrt(2 / dim)
        parts[second + "qkv.weight"][query][:count, now][:, :count] = torch.eye(count)
        parts[second + "qkv.weight"][key][:count, before][:, :count] = torch.eye(count)
        parts[second + "qkv.weight"][value][:count, now][:, :count] = torch.eye(count)
        parts[second + "out.weight"][says][:count, :count] = torch.eye(count)
        (head,) = [parameter for name, parameter in parts.items() if name.startswith("heads")]
        head[:, says][:, :count] = read_off * torch.eye(count)
        value_of = {letter: tokenizer.encode(letter).streams["text"].values[1].item() for letter in INPUTS + LABELS}
        for letter, label in TRUTH.items():
            head[value_of[LABELS[label]], value_of[letter]] = known  # an input says its label
            head[value_of[letter], value_of[LABELS[label]]] = known  # and a label its inputs
    return model.eval()


@pytest.fixture(scope="module")
def reader() -> Model:
    """It reads answers off the demonstrations and knows nothing else."""
    return made(read_off=4.0, known=0.0)


@pytest.fixture(scope="module")
def knower() -> Model:
    """It knows the answers and reads no demonstration."""
    return made(read_off=0.0, known=4.0)


def jsonl(path: Path, records: list[dict]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture
def study(tmp_path):
    """The study over letters: as many demonstrations as there are letters, so that each is among them once."""
    for split in ("train", "test"):
        jsonl(tmp_path / split, [{"text": letter, "label": label, "of": split} for letter, label in TRUTH.items()])
    (tmp_path / "corpus").write_text("".join(f"{letter}\n" for letter in OTHERS * 2 + "uuvv"))
    (tmp_path / "sentences").write_text("".join(f"{a}{b}\n" for a in OTHERS for b in OTHERS))
    (tmp_path / "direct.yaml").write_text(r'{question: "{text}", answer: "{answer}", between: "\n"}')
    (tmp_path / "channel.yaml").write_text(r'{question: "{answer}", answer: "{text}", between: "\n"}')

    def make(**changes) -> Demonstrations:
        files = {"train": "train", "test": "test"}
        task = {"type": "labelled_text", "data_dir": str(tmp_path), "files": files, "words": list(LABELS)}
        scoring = {name: str(tmp_path / f"{name}.yaml") for name in ("direct", "channel")}
        return Demonstrations(**({"task": task, "scoring": scoring, "shots": len(INPUTS), "draws": 3} | changes))

    return make


def by_condition(rows, scoring: str) -> dict[str, dict]:
    return {row["condition"]: row for row in rows if row["scoring"] == scoring}


# ── The study ──


@pytest.mark.parametrize("scoring", ["direct", "channel"])
def test_a_model_that_reads_its_demonstrations_answers_as_they_do(study, reader, scoring):
    """Guards the whole chain: accuracy is the share of right labels exactly, and the difference to gold is told."""
    rows = by_condition(study().run(reader, None), scoring)
    for share in (0, 25, 50, 75):
        row = rows[f"correct_{share}"]
        assert row["accuracy"] == pytest.approx(share / 100) and row["spread"] == 0
        assert row["minus_gold"] == pytest.approx(share / 100 - 1)
        assert row["interval_of_it"][1] < 0
    assert rows["gold"]["accuracy"] == rows["gold"]["macro_f1"] == 1 and "minus_gold" not in rows["gold"]
    assert rows["correct_0"]["p"] < 0.05


@pytest.mark.parametrize("scoring", ["direct", "channel"])
def test_a_model_that_knows_the_answers_does_not_care(study, knower, scoring):
    """Guards the other verdict: right, wrong, random, foreign or no demonstrations, it is always right."""
    conditions = [name for name in CONDITIONS if name != "english_words"]
    corpus = study().task["data_dir"] + "/sentences"
    rows = by_condition(study(conditions=conditions, corpus=corpus).run(knower, None), scoring)
    assert [row["accuracy"] for row in rows.values()] == [1.0] * len(conditions)
    assert all(row["minus_gold"] == 0 and row["p"] == 1 for name, row in rows.items() if name != "gold")
    assert all((row["spread"] is None) == (name == "no_demonstrations") for name, row in rows.items())


def test_without_demonstrations_the_reader_guesses(study, reader):
    """Guards that the question alone is asked: the first choice wins a tie, which is right for half of the letters."""
    rows = study(conditions=["no_demonstrations", "gold"]).run(reader, None)
    row = by_condition(rows, "direct")["no_demonstrations"]
    assert row["accuracy"] == 0.5 and row["macro_f1"] == pytest.approx(1 / 3) and row["spread"] is None


def test_every_answer_is_written(study, reader, tmp_path):
    study(conditions=["gold", "correct_0"], draws=2, limit=4).run(reader, tmp_path)
    told = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert len(told) == 2 * 2 * 2 * 4
    assert all((line["said"] == line["right"]) == (line["condition"] == "gold") for line in told)


def test_demonstrations_that_do_not_fit_are_an_error(study, reader):
    """Guards against fewer demonstrations than the row says."""
    task = study().task | {"context": 20}
    with pytest.raises(
        LimitError, match=r"8 of 8 questions behind demonstrations \(gold\).*by up to .*fewer shots than 8"
    ):
        study(task=task, conditions=["no_demonstrations", "gold"]).run(reader, None)
    study(task=task, shots=4, conditions=["gold"]).run(reader, None)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"conditions": ["golden"]}, "Did you mean 'gold'"),
        ({"metric": "acuracy"}, "Did you mean 'accuracy'"),
        ({"shots": 0}, "shots=0; expected a whole number, at least 1"),
        ({"task": {}}, "expected a mapping"),
        ({"task": {"type": "labelled_text", "shots": 3}}, "its own shots"),
        ({"shots": 9}, "training split has 8"),
        ({"conditions": ["out_of_distribution"]}, "set corpus"),
        ({"conditions": ["english_words"]}, "set words"),
        ({"scoring": {"direct": "question_answer"}}, "asks for 'question'"),
        ({"scoring": {"direct": "hellaswag"}}, "asks for"),
    ],
)
def test_what_cannot_be_is_one_sentence(study, reader, changes, said):
    with pytest.raises(ConfigError, match=said):
        study(**changes).run(reader, None)


def test_a_label_out_of_place_is_named(study, tmp_path, reader):
    jsonl(tmp_path / "test", [{"text": "a", "label": "good"}])
    with pytest.raises(ConfigError, match="label 'good'; expected a whole number"):
        study().run(reader, None)
    with pytest.raises(ConfigError, match="at least two"):
        LabelledText(words=["one"])


# ── Conditions in words ──

DIRECT, CHANNEL = Prompt("[{text}]", "={answer}", between=";"), Prompt("{answer}", "=[{text}]", between=";")
SHOTS = tuple({"text": f"in{i}", "choices": ["no", "yes"], "answer": ("no", "yes")[i % 2]} for i in range(4))
MATERIAL = Material(("no", "yes"), ("yes",) * 9, tuple(f"s{i}" for i in range(20)), ("oak", "elm", "yes", "ash"))


def context(condition: str, prompt: Prompt, name: str = "q", seed: int = 0) -> tuple[list[str], str]:
    """The demonstrations as they are shown, and the continuation of the second choice."""
    lesson = Lesson(name, SHOTS, SHOTS[0] | {"text": "asked"}, prompt, prompt, MATERIAL, seed)
    for step in CONDITIONS[condition]:
        lesson = step(lesson)
    (said, continuation) = lesson.asked()[1]
    *examples, question = said.split(";")
    assert question in ("[asked]", "yes") or condition == "english_words"
    return examples, continuation


def test_conditions_that_draw_nothing_are_known_to_the_letter():
    assert context("gold", DIRECT) == (["[in0]=no", "[in1]=yes", "[in2]=no", "[in3]=yes"], "=yes")
    assert context("gold", CHANNEL) == (["no=[in0]", "yes=[in1]", "no=[in2]", "yes=[in3]"], "=[asked]")
    assert context("correct_0", DIRECT)[0] == ["[in0]=yes", "[in1]=no", "[in2]=yes", "[in3]=no"]
    assert context("no_demonstrations", DIRECT)[0] == []
    assert context("random_by_frequency", DIRECT)[0] == [f"[in{i}]=yes" for i in range(4)]
    assert context("inputs_only", DIRECT)[0] == ["[in0]", "[in1]", "[in2]", "[in3]"]
    assert context("inputs_only", CHANNEL)[0] == ["=[in0]", "=[in1]", "=[in2]", "=[in3]"]


@given(seed=st.integers(0, 10**6))
@settings(max_examples=60)
def test_what_is_drawn_keeps_to_its_kind(seed):
    """Guards shares, sets and who shares a draw: labels are one draw's, foreign sentences one question's."""
    gold = context("gold", DIRECT)[0]
    for name, share in (("correct_25", 1), ("correct_50", 2), ("correct_75", 3)):
        assert sum(a == b for a, b in zip(context(name, DIRECT, seed=seed)[0], gold, strict=True)) == share
    random = context("random", DIRECT, seed=seed)[0]
    assert random == context("random", DIRECT, "another", seed)[0]
    assert {example.split("=")[1] for example in random} <= {"no", "yes"}
    foreign = context("out_of_distribution", DIRECT, seed=seed)[0]
    assert len({example.split("=")[0] for example in foreign}) == 4 and all(e.startswith("[s") for e in foreign)
    assert [e.split("=")[1] for e in foreign] == [e.split("=")[1] for e in random]
    only = context("labels_only", DIRECT, seed=seed)[0]
    assert only == ["=" + example.split("=")[1] for example in random]
    examples, continuation = context("english_words", DIRECT, seed=seed)
    assert {example.split("=")[1] for example in examples} <= {"oak", "elm", "ash"}
    assert continuation[1:] in ("oak", "elm", "ash")


def test_foreign_sentences_are_about_as_long_as_the_question():
    """Guards exp(-d²/50): with sentences of 1 and of 40 words, a one-word question never meets the long ones."""
    material = Material(sentences=tuple([f"w{i}" for i in range(10)] + [f"w{i} " * 40 for i in range(10)]))
    for seed in range(50):
        lesson = Lesson("q", SHOTS, SHOTS[0], DIRECT, DIRECT, material, seed)
        for step in CONDITIONS["out_of_distribution"]:
            lesson = step(lesson)
        assert all(" " not in record["text"] for record in lesson.demonstrations)


def test_choices_of_their_own_get_words_of_their_own():
    """Guards multiple choice: the demonstrations' choices become words, the question keeps its own."""
    material = Material(words=tuple(f"word{i}" for i in range(8)))
    lesson = Lesson("q", SHOTS, SHOTS[0], DIRECT, DIRECT, material, 1)
    for step in CONDITIONS["english_words"]:
        lesson = step(lesson)
    shown = [choice for record in lesson.demonstrations for choice in record["choices"]]
    assert len(set(shown)) == 8 and lesson.question["choices"] == ["no", "yes"]
    assert all(record["answer"] in record["choices"] for record in lesson.demonstrations)


@given(gold=st.lists(st.integers(0, 3), min_size=1, max_size=30), data=st.data())
def test_macro_f1_is_scikit_learns(gold, data):
    metrics = pytest.importorskip("sklearn.metrics")
    said = data.draw(st.lists(st.integers(0, 3), min_size=len(gold), max_size=len(gold)))
    expected = metrics.f1_score(gold, said, average="macro", zero_division=0)
    assert macro_f1(torch.tensor(gold).numpy(), torch.tensor(said).numpy()) == pytest.approx(expected)
