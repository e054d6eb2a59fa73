"""One modality finds another: sequences of one sample that stand apart, their alignment, and how it is judged."""

from __future__ import annotations

import math
import pickle
from itertools import combinations

import corpora
import numpy as np
import pytest
import runs
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import anyformer as af
from anyformer.batch import Example, pack
from anyformer.contracts import Sample, Tokens, prepare
from anyformer.errors import ConfigError, SampleError
from anyformer.model import ForwardPass
from anyformer.objectives import ContrastivePairs
from anyformer.objectives.alignment import STEEPEST, Steepness, towards
from anyformer.testing import check_task
from anyformer_tasks.crossing import Bridge, Captioning, PictureRetrieval, SoundRetrieval
from anyformer_tasks.crossing.dataset import CaptionedSet
from anyformer_tasks.crossing.pictures import on_white
from anyformer_tasks.crossing.retrieval import best_places, drawn
from anyformer_tokenizers.audio import AudioTokenizer
from anyformer_tokenizers.image import ImageTokenizer
from anyformer_tokenizers.text import CharacterTokenizer


@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("sets")
    for write in (corpora.emojitwo, corpora.fsdd):
        write(folder, np.random.default_rng(0))
    return str(folder)


@pytest.fixture(scope="module")
def tokenizers() -> dict:
    text = CharacterTokenizer()
    text.fit(["abcdefghijklmnopqrstuvwxyz ,"])
    return {"image": ImageTokenizer(patch=8), "text": text}


@pytest.fixture(scope="module")
def model(tokenizers) -> af.Model:
    torch.manual_seed(0)
    return af.Model(tokenizers, {"dim": 16, "depth": 1, "heads": 2}, []).eval()


def pairs(tokenizers, count: int, objective=None) -> list[Example]:
    """Pictures and words of unequal sizes."""
    rng, task = np.random.default_rng(0), PictureRetrieval()
    task.objective = objective or task.objective
    samples = [
        Sample(str(i), {"image": tokenizers["image"].example(rng), "text": "abcdefgh"[: i % 5 + 1]})
        for i in range(count)
    ]
    return [prepare("pairs", task, tokenizers, sample, rng) for sample in samples]


# ── Sequences apart ──


def test_sequences_apart_stand_behind_all_and_see_nobody_else(tokenizers, model):
    """A pair's picture and text have the hidden states that they have alone."""
    examples = pairs(tokenizers, 3)
    batch = pack(examples, model.rank)
    own = [replaced(e) for e in examples] + [e.apart[0] for e in examples]
    assert list(batch.mask.queries) == [e.tokens.length for e in own]
    assert batch.tasks == ("pairs",) * 6 and batch.keys == ("0", "1", "2") * 2
    alone = torch.cat([model(pack([e], model.rank)) for e in own])
    assert torch.allclose(model(batch), alone, atol=1e-5)
    assert examples[0].bytes > replaced(examples[0]).bytes


def replaced(example: Example) -> Example:
    return Example(example.tokens, example.targets, example.prefix)


def test_where_a_sequence_stands_does_not_depend_on_its_neighbours(tokenizers, model):
    own = [replaced(e) for e in pairs(tokenizers, 4)]
    found = model.vectors(own)
    assert torch.allclose(found, torch.cat([model.vectors([e]) for e in own]), atol=1e-5)
    assert torch.allclose(found.norm(dim=1), torch.ones(4))


# ── The objective ──


def test_the_loss_is_clips(tokenizers, model):
    """Where no two contents are equal: both cross-entropies against the diagonal, their mean."""
    objective = ContrastivePairs()
    objective.beside(model, {}, None)
    examples = pairs(tokenizers, 5, objective)
    forward = ForwardPass(model, pack(examples, model.rank))
    loss = objective.loss(forward, forward.batch.targets["pairs"])
    one, other = model.vectors([replaced(e) for e in examples]), model.vectors([e.apart[0] for e in examples])
    logits = one @ other.T / 0.07
    wanted = (F.cross_entropy(logits, torch.arange(5)) + F.cross_entropy(logits.T, torch.arange(5))) / 2
    assert torch.allclose(loss.mean(), wanted, atol=1e-4)
    assert loss.count == 10 == sum(forward.batch.counts["pairs"][n] for n in forward.batch.targets["pairs"])


def test_samples_with_the_same_text_are_right_for_each_other(tokenizers, model):
    """Six pairs of five texts: nothing pushes the first and the last away from each other's pictures."""
    objective = ContrastivePairs()
    objective.beside(model, {}, None)
    examples = pairs(tokenizers, 6, objective)
    forward = ForwardPass(model, pack(examples, model.rank))
    found = objective.loss(forward, forward.batch.targets["pairs"])
    one, other = model.vectors([replaced(e) for e in examples]), model.vectors([e.apart[0] for e in examples])
    right = torch.eye(6, dtype=torch.bool)
    right[0, 5] = right[5, 0] = True
    logits = one @ other.T / 0.07
    assert torch.allclose(found.sum, towards(logits, right) + towards(logits.T, right), atol=1e-3)


def test_cross_entropy_towards_several_is_least_where_all_are_alike():
    right = torch.tensor([[True, True, False]])
    even, one = torch.tensor([[9.0, 9.0, -9.0]]), torch.tensor([[9.0, -9.0, -9.0]])
    assert math.isclose(float(towards(even, right)), math.log(2), abs_tol=1e-4) and towards(one, right) > 5


def test_a_temperature_is_learned_and_bounded():
    steepness = Steepness(0.5)
    assert math.isclose(float(steepness().detach()), 2.0, rel_tol=1e-6)
    with torch.no_grad():
        steepness.log.fill_(9.0)
    assert float(steepness()) == STEEPEST


def test_one_field_alone_is_a_prompt(tokenizers):
    task = PictureRetrieval()
    example = prepare("pairs", task, tokenizers, Sample("0", {"text": "abc"}), np.random.default_rng(0))
    assert not example.targets and not example.apart and example.prefix == example.tokens.length
    with pytest.raises(SampleError, match="'image' or 'text'"):
        prepare("pairs", task, tokenizers, Sample("0", {}), np.random.default_rng(0))


def test_wrong_settings_are_refused():
    with pytest.raises(ConfigError, match="two fields"):
        ContrastivePairs(first="text", second="text")
    with pytest.raises(ConfigError, match="a temperature above 0"):
        ContrastivePairs(temperature=0)
    copied = pickle.loads(pickle.dumps(ContrastivePairs(temperature=0.1)))
    assert copied == ContrastivePairs(temperature=0.1)


# ── How it is judged ──


@given(st.integers(1, 7).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n), st.integers(1, 9))))
def test_chance_is_what_counting_gives(drawing):
    among, right, depth = drawing
    orders = list(combinations(range(among), min(depth, among)))
    hits = sum(any(place < right for place in order) for order in orders)
    assert math.isclose(drawn(among, right, depth), hits / len(orders))


def test_a_tie_is_no_hit():
    """Vectors that have all become one find nothing."""
    right = torch.eye(3, dtype=torch.bool)
    assert best_places(torch.zeros(3, 3), right).tolist() == [3, 3, 3]
    assert best_places(torch.eye(3), right).tolist() == [1, 1, 1]
    assert best_places(torch.tensor([[0.1, 0.9, 0.5]]), torch.tensor([[True, False, True]])).tolist() == [2]


class Knows:
    """Puts a picture and a text where their first letter or colour says."""

    def __init__(self, tokenizers) -> None:
        self.tokenizers = tokenizers

    def vectors(self, examples):
        found = []
        for example in examples:
            (stream,) = example.tokens.streams.values()
            red = stream.values.is_floating_point() and float(stream.values[len(stream.values) // 2].mean()) > 0
            found.append([1.0, 0.0] if red or stream.values.dtype == torch.int64 else [0.0, 1.0])
        return torch.tensor(found)


def test_recall_counts_every_right_answer(tokenizers):
    """Two bright pictures share a text, which finds either of them; the dark one is not found by its own."""
    bright, dark = np.full((8, 8, 3), 250, np.uint8), np.zeros((8, 8, 3), np.uint8)
    samples = [Sample("a", {"image": bright, "text": "ab"}), Sample("b", {"image": bright, "text": "ab"})]
    samples.append(Sample("c", {"image": dark, "text": "ab"}))
    found = {(s.id, s.metric): s.value for s in PictureRetrieval().score(Knows(tokenizers), samples)}
    assert [found[i, "to_image_r1"] for i in "abc"] == [1, 1, 1]
    assert [found[i, "to_text_r1"] for i in "abc"] == [1, 1, 1]  # the only text there is


# ── Sets ──


def test_emoji_of_one_base_stay_on_one_side(shelf):
    records = {s: CaptionedSet.named("emojitwo", shelf).records(s) for s in ("train", "validation", "test")}
    bases = {split: {r["image"].stem.split("-")[0] for r in each} for split, each in records.items()}
    assert sum(map(len, bases.values())) == 14 and all(bases.values())
    assert not bases["train"] & (bases["test"] | bases["validation"]) and not bases["test"] & bases["validation"]
    assert sum(map(len, records.values())) == 42
    assert all(text == text.strip(" ,") for each in records.values() for r in each for text in r["texts"])


def test_records_of_one_picture_are_one_and_its_texts_all_right(tmp_path):
    """As in Flickr's sets: a line for each caption. In training each is a sample."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "said.csv").write_text("image,caption\na.png,one\na.png,two\na.png,one\n")
    page = tmp_path / "mine.yaml"
    page.write_text(
        "origin: ask the author\nfiles: said.csv\nformat: csv\ntexts: ['{caption}']\n"
        "parts: {train: [0, 1], test: [0, 1]}\n"
    )
    task = PictureRetrieval(str(page), str(tmp_path))
    assert [s.values["text"] for s in task.examples("train")] == ["one", "two"]
    (one,) = task.examples("test")
    assert one.right == ("one", "two")
    page.write_text(page.read_text().replace("{caption}", "{title}"))
    with pytest.raises(ConfigError, match="title"):
        PictureRetrieval(str(page), str(tmp_path)).examples("test")


def test_transparent_pixels_are_white(tmp_path):
    Image.fromarray(np.zeros((4, 4, 4), np.uint8)).save(tmp_path / "a.png")
    assert (on_white(tmp_path / "a.png") == 255).all() and on_white(tmp_path / "a.png", 2).shape == (2, 2, 3)
    (tmp_path / "b.png").write_bytes(b"none")
    with pytest.raises(SampleError, match=r"b\.png"):
        on_white(tmp_path / "b.png")


@pytest.mark.parametrize("kind", [PictureRetrieval, Captioning])
def test_tasks_over_pictures_keep_their_contract(kind, shelf):
    text = CharacterTokenizer()
    task = kind(data_dir=shelf, size=16)
    text.fit(task.corpus("text"))
    check_task(task, {"image": ImageTokenizer(patch=8), "text": text})


@pytest.mark.parametrize("kind", [SoundRetrieval, Bridge])
def test_tasks_over_sounds_keep_their_contract(kind, shelf, tokenizers):
    text = CharacterTokenizer()
    text.fit(["zero one two three four five six seven eight nine"])
    audio = AudioTokenizer(sample_rate=8000, mels=20, window=200, hop=100, layers=0)
    audio.fit(sample.values["audio"] for sample in SoundRetrieval(data_dir=shelf).examples("train")[:2])
    check_task(kind(data_dir=shelf), {"audio": audio, "image": ImageTokenizer(patch=4), "text": text}, samples=2)


def test_a_sounds_baseline_counts_all_clips_of_a_word(shelf):
    """Of three words a third is right by chance, and of the clips as many."""
    found = SoundRetrieval(data_dir=shelf).baselines()
    assert math.isclose(found["to_text_r1"]["chance"], 1 / 3) and math.isclose(found["to_audio_r1"]["chance"], 1 / 3)
    assert math.isclose(Bridge(data_dir=shelf).baselines()["r1"]["chance"], 0.1, abs_tol=0.01)


# ── Training ──


def test_the_temperature_trains_beside_the_model_and_resumes(shelf, tmp_path):
    """A run that stops half way ends as the whole one does, temperature and all."""

    def fit(folder, stop=(), resume=False) -> af.Learner:
        mixture = af.Mixture(
            tokenizers={"image": {"patch": 16}, "text": {"type": "characters"}},
            tasks={"emoji": {"type": "image_text_retrieval", "dataset": "emojitwo", "size": 32}},
            token_budget=200,
            data_dir=shelf,
        )
        learned = runs.learner()
        runs.trainer(folder, 6, list(stop)).fit(learned, datamodule=mixture, ckpt_path="last" if resume else None)
        return learned

    whole = fit(tmp_path / "whole")
    fit(tmp_path / "parts", [runs.stop_at(3)])
    resumed = fit(tmp_path / "parts", resume=True)
    assert float(whole.beside[0].log) != math.log(1 / 0.07)
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name
    assert not any("log" in name for name in af.load(tmp_path / "whole").state_dict())


def test_batches_of_pairs_pack_as_the_tokens_promise(tokenizers):
    """The plan's length of a pair is what its sequences fill."""
    objective = ContrastivePairs().ready({n: t.streams for n, t in tokenizers.items()})
    image, text = np.zeros((16, 8, 3), np.uint8), "abc"
    tokens: dict[str, Tokens] = {"image": tokenizers["image"].encode(image), "text": tokenizers["text"].encode(text)}
    lengths = {name: tokenizers[name].length(raw) for name, raw in (("image", image), ("text", text))}
    assert objective.length(lengths) == pack([objective.prepare(tokens, np.random.default_rng(0))]).tokens
