"""Sets of pictures by a folder's path and by torchvision's names; pictures at their own sizes in one batch."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path

import corpora
import numpy as np
import pytest
import torch
from PIL import Image

import anyformer as af
from anyformer.architecture import Architecture, BackboneConfig, HeadConfig
from anyformer.batch import pack
from anyformer.contracts import SPLITS
from anyformer.errors import ConfigError
from anyformer.model import ForwardPass, Network
from anyformer.objectives import Classification
from anyformer.testing import check_task
from anyformer.training.data import Preparation
from anyformer.training.mixture import Reference
from anyformer_tasks.language.judgement import prepared
from anyformer_tasks.vision.classification import ImageClassification
from anyformer_tasks.vision.dataset import PictureSet
from anyformer_tasks.vision.picture import pixels, trimmed
from anyformer_tokenizers.image import ImageTokenizer
from anyformer_tokenizers.label import LabelTokenizer


def folder_of(folder: Path, count: int, labels: tuple[str, ...] = ("cat", "dog")) -> None:
    for label in labels:
        (folder / label).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (6 + number, 8), "red").save(folder / label / f"{number}.png")


def labels_of(found: PictureSet) -> list[list[str]]:
    return [[record["label"] for record in found.records(split)] for split in SPLITS]


# ── Sets without a page ──


def test_a_folder_of_labels_is_parted_and_every_split_has_every_label(tmp_path):
    folder_of(tmp_path / "pets", 10)
    found = PictureSet.named(str(tmp_path / "pets"))
    assert labels_of(found) == [["cat"] * 8 + ["dog"] * 8, ["cat", "dog"], ["cat", "dog"]]
    places = [record["image"] for split in SPLITS for record in found.records(split)]
    assert len(set(places)) == 20 and pixels(places[0]).shape[0] == 8


@pytest.mark.parametrize(("name", "held_out"), [("val", 4), ("validation", 4), ("", 2)])
def test_a_folder_of_splits_is_taken_as_it_is(name, held_out, tmp_path):
    """ImageNet's layout; a set without a validation folder has every tenth training picture held out."""
    folder_of(tmp_path / "train", 10)
    folder_of(tmp_path / "test", 3)
    if name:
        folder_of(tmp_path / name, 2)
    train, validation, test = labels_of(PictureSet.named(str(tmp_path)))
    assert (len(train), len(validation), len(test)) == (20 if name else 18, held_out, 6)


def test_mnist_is_read_where_torchvision_put_it(tmp_path):
    """By the class's name: root/MNIST/raw/*-ubyte."""
    corpora.fashion_mnist(tmp_path, np.random.default_rng(0))
    raw = tmp_path / "root" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in (tmp_path / "fashion-mnist").iterdir():
        (raw / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    found = PictureSet.named("MNIST", str(tmp_path / "root"))
    assert [len(found.records(split)) for split in SPLITS] == [216, 24, 60]
    assert pixels(found.records("test")[3]["image"]).shape == (28, 28)
    assert found.records("test")[3]["label"] == "3 - three"


def test_cifar_is_read_where_torchvision_put_it(tmp_path, monkeypatch):
    """Batches of rows of 3 x 32 x 32 bytes; by name and by the page that has the same files."""
    from torchvision.datasets import CIFAR10

    own = tmp_path / "cifar10" / "cifar-10-batches-py"
    own.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for file in ("data_batch_1", "test_batch"):
        batch = {"data": rng.integers(0, 256, (20, 3072), dtype=np.uint8), "labels": [n % 10 for n in range(20)]}
        (own / file).write_bytes(pickle.dumps(batch))
    (own / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"thing {n}" for n in range(10)]}))
    monkeypatch.setattr(CIFAR10, "train_list", [["data_batch_1", None]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", None]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": None})
    by_name = PictureSet.named("CIFAR10", str(tmp_path / "cifar10"))
    by_page = PictureSet.named("cifar10", str(tmp_path))
    assert labels_of(by_name) == labels_of(by_page) and by_name.records("train")[3]["label"] == "thing 3"
    assert pixels(by_name.records("test")[0]["image"]).shape == (32, 32, 3)


def test_what_is_no_set_is_told_with_its_cure(tmp_path):
    with pytest.raises(
        ConfigError, match=r"'MNIST' is not there .*torchvision\.datasets\.MNIST\(root, download=True\)"
    ):
        PictureSet.named("MNIST", str(tmp_path)).records("train")
    with pytest.raises(ConfigError, match=r"ImageFolder has no splits.*give its path"):
        PictureSet.named("ImageFolder", str(tmp_path)).records("train")
    with pytest.raises(ConfigError, match=r"'mnits'.*Did you mean 'mnist'"):
        PictureSet.named("mnits")


def test_a_folder_is_a_task(tmp_path):
    """Its pictures have sizes of their own."""
    folder_of(tmp_path / "pets", 10)
    task = ImageClassification(str(tmp_path / "pets"))
    check_task(task, {"image": ImageTokenizer(patch=4)})
    assert len({sample.values["image"].shape for sample in task.examples("train")}) > 3


# ── Sizes of their own ──


def test_a_trimmed_picture_is_what_is_drawn_on_it():
    picture = np.zeros((9, 7), np.uint8)
    picture[2:5, 3:6] = 9
    assert trimmed(picture).shape == (3, 3) and trimmed(picture[:2]).shape == (2, 7)
    colour = np.full((6, 6, 3), (250, 250, 255), np.uint8)
    colour[1, 2, 2] = 0
    assert trimmed(colour).tolist() == [[[250, 250, 0]]]


@pytest.fixture(scope="module")
def clothes(tmp_path_factory) -> dict:
    """Trimmed pictures with a half of their patches dropped at most, as an experiment says it."""
    folder = tmp_path_factory.mktemp("sets")
    corpora.fashion_mnist(folder, np.random.default_rng(0))
    objective = {"type": "token_dropping", "most": 0.5, "objective": {"type": "classification", "pooling": "mean"}}
    task = af.Mixture(
        tokenizers={"image": {"patch": 4, "channels": 1, "max_patches": 30}, "label": {}},
        tasks={
            "image_classification": {
                "dataset": "fashion-mnist", "data_dir": str(folder), "trim": True, "objective": objective,
                "augment": ["RandomHorizontalFlip"],
            }
        },
    )  # fmt: skip
    task.setup()
    return {"tasks": task.tasks, "tokenizers": task.tokenizers}


def references(count: int = 6) -> list[Reference]:
    return [Reference("image_classification", index, 0) for index in range(count)]


def test_what_is_dropped_is_a_function_of_the_pass_and_the_sample(clothes):
    """Equal in another process' copy, another at the next pass, and none of it where scores are made."""
    one, other = (Preparation(**clothes, split="train", seed=0).batch(references()) for _ in range(2))
    assert torch.equal(one.streams["image"].values, other.streams["image"].values)
    assert torch.equal(one.positions, other.positions)
    again = Preparation(**clothes, split="train", seed=0).batch([Reference("image_classification", 0, 1)])
    first = Preparation(**clothes, split="train", seed=0).batch(references(1))
    assert not (again.tokens == first.tokens and torch.equal(again.positions, first.positions))
    task = clothes["tasks"]["image_classification"]
    whole = [clothes["tokenizers"]["image"].length(sample.values["image"]) for sample in task.examples("train")[:6]]
    assert sum(whole) > one.tokens >= sum(whole) // 2 and max(whole) <= 30


def test_nothing_is_dropped_of_what_is_held_out(clothes):
    """Neither where a loss is taken nor where a model is judged: all that trains with fewer patches is seen whole."""
    task, tokenizers = clothes["tasks"]["image_classification"], clothes["tokenizers"]
    samples = task.examples("validation")[:6]
    slots = [tokenizers["image"].length(sample.values["image"]) for sample in samples]
    held_out = Preparation(**clothes, split="validation", seed=0).batch(references())
    assert held_out.tokens == sum(slots)
    model = af.Model(tokenizers, {"dim": 16, "heads": 2, "depth": 1}, ["label"])
    assert [e.tokens.length for e in prepared("clothes", task, model, samples)] == slots


def test_pictures_of_all_sizes_share_a_batch_and_do_not_see_each_other():
    """With a vector for each row and one for each column (factorised positions), which add up."""
    rng = np.random.default_rng(0)
    image, label = ImageTokenizer(patch=4, channels=1, max_patches=20), LabelTokenizer(names=["a", "b"])
    objective = Classification(pooling="mean").ready({"image": image.streams, "label": label.streams})
    torch.manual_seed(0)
    config = BackboneConfig(12, 2, 2, positions={"type": "learned", "size": 20})
    network = Network([*image.streams, *label.streams], Architecture(config, {"label": HeadConfig()})).double()
    for table in network.backbone.positions.tables:
        table.data.normal_()
    sizes = [(28, 9), (4, 4), (13, 60), (28, 28)]
    examples = [
        objective.prepare(
            {"image": image.encode(rng.integers(0, 256, size, dtype=np.uint8)), "label": label.encode("b")}, rng
        )
        for size in sizes
    ]

    def told(chosen) -> torch.Tensor:
        batch = pack(chosen).map(lambda t: t.double() if t.is_floating_point() else t)
        return objective.read(ForwardPass(network, batch), "label", batch.targets[""]["label"])

    together = told(examples)
    assert [example.tokens.length for example in examples] == [14, 1, 18, 16]
    for row, example in zip(together, examples, strict=True):
        assert torch.allclose(told([example])[0], row, atol=1e-10)
    where = network.backbone.positions.embed(torch.tensor([[2, 3], [2, 0], [0, 3], [0, 0]]))
    assert torch.allclose(where[0] + where[3], where[1] + where[2])
