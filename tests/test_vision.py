"""Pictures of published sets: how they are found, parted, varied and told apart."""

from __future__ import annotations

import gzip
import os
import pickle
from pathlib import Path

import corpora
import lightning as L
import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import anyformer as af
from anyformer.contracts import SPLITS, Sample
from anyformer.errors import ConfigError, SampleError
from anyformer.testing import check_task
from anyformer.training.mixture import Reference
from anyformer.training.preparation import Preparation
from anyformer_tasks.vision.augmentation import augmentations, varied
from anyformer_tasks.vision.classification import LOGISTIC, ImageClassification, Shown
from anyformer_tasks.vision.dataset import PictureSet
from anyformer_tasks.vision.picture import pixels
from anyformer_tasks.vision.readers import idx_array
from anyformer_tokenizers.image import ImageTokenizer
from anyformer_tokenizers.label import LabelTokenizer

TURNED = {"RandomAffine": {"degrees": 20, "translate": [0.2, 0.2]}}
GREY = ImageTokenizer(patch=4, channels=1)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("sets")
    for write in (corpora.fashion_mnist, corpora.sign_language_digits):
        write(folder, np.random.default_rng(0))
    return str(folder)


def page(folder: Path, **settings) -> PictureSet:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"origin": "ask the author", **settings}))
    return PictureSet.named(str(path), str(folder))


# ── Sets ──


def test_packed_and_unpacked_idx_are_the_same(shelf, tmp_path):
    """Label and picture belong together: the bar stands where the label says."""
    records = PictureSet.named("fashion-mnist", shelf).records("train")
    names = ["top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]
    for record in records:
        assert (record["image"].mean(1).argmax() - 2) // 2 - names.index(record["label"]) in (0, 1, 2)
    packed = Path(shelf) / "fashion-mnist" / "train-images-idx3-ubyte.gz"
    plain = tmp_path / "train-images-idx3-ubyte"
    plain.write_bytes(gzip.decompress(packed.read_bytes()))
    assert np.array_equal(idx_array(packed), idx_array(Path(f"{plain}.gz")))


def test_held_out_pictures_are_not_trained_on(shelf):
    splits = [PictureSet.named("fashion-mnist", shelf).records(split) for split in SPLITS]
    assert [len(records) for records in splits] == [220, 20, 60]
    seen = {record["image"].tobytes() for record in splits[0]}
    assert not seen & {record["image"].tobytes() for record in splits[1]}


def test_folders_are_parted_by_number_within_each_label(shelf):
    """Four fifths of each digit, 1000 behind 999: a participant's pictures stay on one side."""
    train, held_out, test = (PictureSet.named("sign-language-digits", shelf).records(split) for split in SPLITS)
    assert (len(train), len(held_out)) == (80, 20) and held_out == test
    numbers = [[int(Path(record["image"]).stem[4:]) for record in records] for records in (train, held_out)]
    assert set(numbers[0]) == set(range(995, 1003)) and set(numbers[1]) == {1003, 1004}
    assert all(Path(record["image"]).parent.name == record["label"] for record in train)


def test_scikit_learns_digits_are_all_there_once():
    splits = [PictureSet.named("digits").records(split) for split in SPLITS]
    assert sum(map(len, splits)) == 1797 and all(len({r["label"] for r in records}) == 10 for records in splits)
    assert max(int(record["image"].max()) for record in splits[0]) == 255


def test_torchvision_reads_what_is_there_and_says_how_to_get_what_is_not(tmp_path):
    """Without a download; `train` or `split`, as the class has it."""
    cured = r"'cifar10' is not there .*get it \(cifar-10-python.tar.gz of .*data_dir"
    with pytest.raises(ConfigError, match=cured):
        PictureSet.named("cifar10", str(tmp_path)).records("train")
    with pytest.raises(ConfigError, match=r"'CIFAR11'.*Did you mean 'CIFAR10"):
        page(tmp_path, format="torchvision", reader="CIFAR11", files={"train": "train"}).records("train")
    made = page(tmp_path, format="torchvision", reader="FakeData", files={"train": "train"})
    with pytest.raises(ConfigError, match="FakeData has no splits"):  # not a published set
        made.records("train")


def test_a_folder_in_the_hubs_layout_is_read_when_a_picture_is_asked_for(shelf, tmp_path):
    pytest.importorskip("datasets")
    folder = Path(shelf) / "sign-language-digits" / "Dataset"
    hub = {"path": str(folder), "splits": {"train": "train"}, "fields": {"image": "image", "label": "label"}}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"origin": "ask", "hub": hub}))
    records = PictureSet.named(str(path)).records("train")
    assert len(records) == 100 and {record["label"] for record in records} == {str(i) for i in range(10)}
    assert pixels(records[0]["image"]).shape == (100, 100, 3)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x1f\x8bno", "is not a whole gzip file"),
        (b"\0\0\x0d\x01\0\0\0\x01a", "begins with 00000d01; expected IDX of bytes"),
        (b"\0\0\x08\x01\0\0\0\x03ab", r"not what its shape \[3\] takes"),
        (b"\0\0\x08\x03\0\0", "not what its shape"),
        (b"", "expected IDX of bytes"),
    ],
)
def test_damaged_idx_files_are_named(content, said, tmp_path):
    for file in ("image", "label"):
        (tmp_path / file).write_bytes(content)
    with pytest.raises(ConfigError, match=said) as found:
        page(tmp_path, format="idx", files={"train": {"image": "image", "label": "label"}}).records("train")
    assert str(tmp_path) in str(found.value)


def test_a_missing_set_is_told_with_its_origin(tmp_path):
    for name in ("fashion-mnist", "sign-language-digits"):
        with pytest.raises(ConfigError, match=r"is not there .*get it .*github.com.*data_dir"):
            PictureSet.named(name, str(tmp_path)).records("train")


# ── Pictures ──


def test_a_picture_is_read_at_the_size_that_is_wanted(tmp_path):
    """Cut to a square at both ends of its longer side, upright by its EXIF; grey stays grey."""
    wide = Image.new("RGB", (40, 20), "white")
    wide.paste("black", (0, 0, 10, 20))  # what is cut off
    wide.save(tmp_path / "wide.png")
    assert np.array_equal(pixels(str(tmp_path / "wide.png"), 20), np.full((20, 20, 3), 255))
    assert pixels(Image.new("L", (8, 8))).shape == (8, 8) and pixels(Image.new("LA", (8, 8))).shape == (8, 8, 3)
    assert pixels(np.zeros((8, 12, 3), np.uint8), 4).shape == (4, 4, 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    wide.save(tmp_path / "turned.jpg", exif=exif)
    assert pixels(str(tmp_path / "turned.jpg")).shape == (40, 20, 3)


def test_a_damaged_picture_is_a_sample_error(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n")
    for place in (str(tmp_path / "bad.png"), str(tmp_path / "none.png")):
        with pytest.raises(SampleError, match=r"\.png.*cannot be read"):
            pixels(place)


def test_pictures_are_read_when_they_are_asked_for_and_once(shelf, tmp_path):
    """And are not carried into workers."""
    Image.new("RGB", (6, 6), "red").save(tmp_path / "a.png")
    shown = Shown([{"image": str(tmp_path / "a.png"), "label": 3}, {"image": "nowhere.png", "label": 4}], "test", 0)
    assert len(shown) == 2
    first = shown[0]
    (tmp_path / "a.png").unlink()
    assert shown[0].values["image"] is first.values["image"] and (first.id, first.values["label"]) == ("test-0", "3")
    with pytest.raises(SampleError):
        shown[:]
    with pytest.raises(IndexError):
        shown[2]
    task = ImageClassification("fashion-mnist", shelf)
    _ = task.examples("train")[0]
    assert len(pickle.dumps(task)) < 3000


# ── Augmentation ──


@given(st.integers(0, 10**6), st.sampled_from([(8, 8), (8, 8, 3), (9, 7)]))
def test_an_augmentation_is_a_function_of_its_generator(seed, shape):
    """The same for one seed, whatever else was drawn; the process's own generator is left as it was."""
    picture = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    before, transforms = picture.copy(), augmentations([TURNED, "RandomHorizontalFlip"])
    state = torch.random.get_rng_state()
    one = varied(picture, transforms, np.random.default_rng(seed))
    assert torch.equal(torch.random.get_rng_state(), state) and np.array_equal(picture, before)
    torch.rand(3)
    assert np.array_equal(one, varied(picture, transforms, np.random.default_rng(seed)))
    assert one.shape == picture.shape and one.dtype == np.uint8


@pytest.mark.parametrize(
    ("augment", "said"),
    [
        (["RandomHorizontalFlop"], "'RandomHorizontalFlop'.*Did you mean 'RandomHorizontalFlip'"),
        ([{"RandomCrop": {"sizes": 3}}], "RandomCrop cannot be made from"),
        ([{"RandomCrop": {}, "Resize": {}}], "expected a transform's name"),
        (["functional"], "augmentation"),
    ],
)
def test_a_wrong_augmentation_is_refused_at_once(augment, said):
    with pytest.raises(ConfigError, match=said):
        ImageClassification("digits", augment=augment)


@pytest.mark.parametrize("changing", [{"Resize": {"size": [4, 4]}}, {"ToDtype": {"dtype": torch.float32}}])
def test_what_changes_a_pictures_size_or_type_is_refused(changing):
    transforms = augmentations([changing])
    with pytest.raises(ConfigError, match="expected the same"):
        varied(np.zeros((8, 8), np.uint8), transforms, np.random.default_rng(0))


def test_training_alone_varies_and_each_pass_anew(shelf):
    """A function of (seed, split, pass, sample): equal in another process' copy; what is held out is as it is, and an
    example without chance is made once."""

    def made(split: str, epoch: int, augment: list) -> torch.Tensor:
        task = ImageClassification("fashion-mnist", shelf, augment=augment)
        tokenizers = {"image": GREY, "label": LabelTokenizer(names=sorted(set(task.corpus("label"))))}
        preparation = Preparation({"clothes": task}, tokenizers, split, seed=0)
        return preparation.batch([Reference("clothes", 3, epoch)]).streams["image"].values

    assert torch.equal(made("train", 1, [TURNED]), made("train", 1, [TURNED]))
    assert not torch.equal(made("train", 1, [TURNED]), made("train", 2, [TURNED]))
    assert torch.equal(made("validation", 1, [TURNED]), made("validation", 2, []))
    assert torch.equal(made("train", 1, []), made("train", 2, []))


def test_a_task_varies_nothing_by_default():
    sample = Sample("a", {"text": "b"})
    assert af.Task.varied(ImageClassification("digits"), sample, None) is sample  # ty: ignore[invalid-argument-type]


# ── The task ──


def test_digits_fulfil_the_contract():
    check_task(ImageClassification("digits"), {"image": ImageTokenizer(patch=2, channels=1)})


def test_a_bar_is_told_by_where_it_stands(tmp_path, shelf):
    """Learned from pictures that are shifted a little; the baseline learns it too; chance is a tenth."""
    L.seed_everything(0, verbose=False)
    augment = ["RandomHorizontalFlip", {"RandomCrop": {"size": 28, "padding": 1}}]
    chosen = {"dataset": "fashion-mnist", "data_dir": shelf, "augment": augment}
    mixture = af.Mixture(
        tokenizers={"image": {"patch": 7, "channels": 1}, "label": {}},
        tasks={"image_classification": chosen}, token_budget=512,
    )  # fmt: skip
    learner = af.Learner(
        backbone={"dim": 32, "heads": 2, "depth": 2, "init_std": 0.2, "positions": {"type": "learned", "size": 4}},
        lr=1e-2, schedule={"warmup_steps": 10},
    )  # fmt: skip
    trainer = L.Trainer(
        accelerator="cpu", devices=1, max_steps=80, default_root_dir=tmp_path, limit_val_batches=1, logger=False,
        enable_model_summary=False, enable_checkpointing=False, enable_progress_bar=False,
    )  # fmt: skip
    trainer.fit(learner, datamodule=mixture)
    task, model = mixture.tasks["image_classification"], learner.model.eval()
    scores = list(task.score(model, task.examples("test")))
    assert len(scores) == 120
    for metric in ("accuracy", "macro_f1"):
        assert np.mean([score.value for score in scores if score.metric == metric]) > 0.8
    assert task.baselines()["accuracy"][LOGISTIC] > 0.9


COUNTS = {"fashion-mnist": (55000, 5000, 10000), "sign-language-digits": (1313, 331, 331)}


@pytest.mark.parametrize("name", COUNTS)
def test_the_published_files_have_the_published_counts(name):
    if not os.environ.get("ANYFORMER_DATA"):
        pytest.skip("set ANYFORMER_DATA to a folder that holds the published sets")
    data = PictureSet.named(name, os.environ["ANYFORMER_DATA"])
    assert tuple(len(data.records(split)) for split in SPLITS) == COUNTS[name]
