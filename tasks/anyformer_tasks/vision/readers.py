"""How sets of pictures are kept, each as a function to records of a picture's place and its label."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from anyformer.errors import ConfigError, unknown
from anyformer_tasks.files import Found, unpacked
from anyformer_tasks.packages import require
from anyformer_tasks.vision.picture import Nth

Reader = Callable[[Path, Any, str], Iterator[Found]]
"""(the set's folder, what its page says of a split, the page's `reader`) → {image, label}; FileNotFoundError for what
is not there, ConfigError for what is not as it should be."""


def idx(folder: Path, files: Any, reader: str) -> Iterator[Found]:
    """LeCun's format (yann.lecun.com/exdb/mnist), packed by gzip or not: a file of pictures and one of labels."""
    if not isinstance(files, Mapping) or not {"image", "label"} <= files.keys():
        raise ConfigError(f"The set in {folder} has files={files!r:.60}; expected two, of image and label.")
    arrays = {name: idx_array(folder / file) for name, file in files.items()}
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        raise ConfigError(f"{folder}: expected as many labels as pictures, got {counts}; download both again.")
    for number, (image, label) in enumerate(zip(arrays["image"], arrays["label"].tolist(), strict=True), 1):
        yield Found(str(folder / files["image"]), number, {"image": image, "label": str(label)}, "picture")


def idx_array(path: Path) -> np.ndarray:
    """uint8[...]. A file may have its published name with `.gz` or without it."""
    found = next((p for p in (path, path.with_suffix(""), Path(f"{path}.gz")) if p.is_file()), None)
    if found is None:
        raise FileNotFoundError(path)
    raw = found.read_bytes()
    raw = unpacked(raw, found) if raw[:2] == b"\x1f\x8b" else raw
    if len(raw) < 4 or raw[:3] != b"\0\0\x08":
        raise ConfigError(f"{found} begins with {raw[:4].hex()}; expected IDX of bytes, 000008. Download it again.")
    head = 4 + 4 * raw[3]
    shape = [int.from_bytes(raw[at : at + 4], "big") for at in range(4, head, 4)]
    if len(raw) != head + math.prod(shape):
        raise ConfigError(f"{found} has {len(raw)} bytes, not what its shape {shape} takes; download it again.")
    return np.frombuffer(raw, np.uint8, offset=head).reshape(shape)


def folders(folder: Path, within: Any, reader: str) -> Iterator[Found]:
    """A folder for each label, as torchvision's ImageFolder reads them; pictures by the numbers in their names."""
    from torchvision.datasets import ImageFolder

    try:
        found = ImageFolder(str(folder / within))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(folder / within) from error
    for number, (path, label) in enumerate(sorted(found.samples, key=lambda one: (one[1], by_number(one[0]))), 1):
        yield Found(str(folder / within), number, {"image": path, "label": found.classes[label]}, "picture")


def by_number(path: str) -> tuple[list[int], str]:
    """A key that puts 9 before 10.

    >>> sorted(["IMG_10.JPG", "IMG_9.JPG"], key=by_number)
    ['IMG_9.JPG', 'IMG_10.JPG']
    """
    name = Path(path).stem
    return [int(digits) for digits in re.findall(r"\d+", name)], name


def scikit_learn(folder: Path, name: Any, reader: str) -> Iterator[Found]:
    """What scikit-learn brings along, `load_<name>`, its grey levels on the scale of 0 to 255."""
    require("scikit-learn", "demo", "The set is a part of")
    from sklearn import datasets

    found = getattr(datasets, f"load_{name}")()
    levels = np.rint(found.images * (255 / found.images.max())).astype(np.uint8)
    for number, (image, label) in enumerate(zip(levels, found.target.tolist(), strict=True), 1):
        values = {"image": image, "label": str(found.target_names[label])}
        yield Found(f"load_{name}", number, values, "picture")


def torchvision(folder: Path, split: Any, reader: str) -> Iterator[Found]:
    """A class of torchvision.datasets over files that are there already. split: what it calls the split; where it has
    `train` instead, "train" is true of that."""
    from torchvision import datasets

    if not hasattr(datasets, reader):
        raise unknown("class of torchvision.datasets", reader, datasets.__all__)
    kind = getattr(datasets, reader)
    known = inspect.signature(kind).parameters
    if not {"train", "split"} & known.keys():
        raise ConfigError(
            f"torchvision's {reader} has no splits; expected a class that takes `train` or `split`. For a folder of "
            "folders, give its path as the data set."
        )
    chosen = {"train": split == "train"} if "train" in known else {"split": split}
    try:
        found = kind(str(folder), **chosen, **({"download": False} if "download" in known else {}))
    except RuntimeError as error:  # "Dataset not found or corrupted"
        raise FileNotFoundError(folder) from error
    targets = next((getattr(found, name) for name in ("targets", "labels", "_labels") if hasattr(found, name)), None)
    names = getattr(found, "classes", None)
    for number in range(len(found)):
        label = int(found[number][1] if targets is None else targets[number])
        values = {"image": Nth(found, number, 0), "label": str(names[label] if names else label)}
        yield Found(reader, number + 1, values, "picture")


READERS: Mapping[str, Reader] = {
    "idx": idx,
    "folders": folders,
    "scikit-learn": scikit_learn,
    "torchvision": torchvision,
}
