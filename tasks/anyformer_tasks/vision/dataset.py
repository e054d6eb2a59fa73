"""Published sets of pictures as data: a page of configs/datasets/vision says where they are and how they are parted.

    PictureSet.named("fashion-mnist", "data/fashion-mnist").records("train")[0]
        →  {"image": uint8[28, 28], "label": "ankle boot"}

Without a page, a folder of folders is a set, and so is what torchvision has a class for: `named` says how.

A picture is what `pixels` takes: an array, or the place of one that is read when it is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from anyformer.errors import ConfigError
from anyformer_tasks.files import Found
from anyformer_tasks.language import hub
from anyformer_tasks.language.dataset import Dataset
from anyformer_tasks.vision.picture import Nth
from anyformer_tasks.vision.readers import READERS

SPLIT_FOLDERS = {"train": ("train",), "validation": ("validation", "valid", "val"), "test": ("test",)}
"""What the folders of a set's splits are called."""


@dataclass
class PictureSet(Dataset):
    """The records {image, label} of a set of pictures; what is not said here is as for a set of texts.

    format: one of READERS. files: by split, what the format's reader is told: a file of pictures and one of labels
    (idx), a folder of folders (folders), a name (scikit-learn), or what the class `reader` calls the split
    (torchvision).
    parts: as there, but of each label's pictures, so that every split has every label. order: the seed by which they
    are shuffled before that; without one, they stay in the order of the set.
    hub: its columns are `fields`, {image, label} by default.
    """

    format: str = "folders"
    reader: str = ""
    order: int | None = None

    shelf: ClassVar[str] = "datasets/vision"
    formats: ClassVar[Mapping[str, Any]] = READERS

    @classmethod
    def named(cls, name: str, data_dir: str = "") -> Self:
        """The set of that name on the shelf, or the one that the YAML file at that path describes; a folder's; or that
        of a class of torchvision.datasets (`CIFAR100`), over the files that it has downloaded into `data_dir`."""
        if Path(name).is_dir():
            return cls.of_folder(Path(name))
        if name[:1].isupper() and name.isidentifier():
            splits = {"train": "train", "test": "test"}
            told = f"torchvision.datasets.{name}(root, download=True), and the root as data_dir"
            return cls(
                name, told, data_dir or ".", ".", splits, "torchvision", reader=name,
                held_out={"validation": {"of": "train", "every": 10}},
            )  # fmt: skip
        return super().named(name, data_dir)

    @classmethod
    def of_folder(cls, folder: Path) -> Self:
        """A folder for each label, as torchvision's ImageFolder has it: in one folder for each split, or all in one, of
        which eight tenths are for training, one for validation and one for the test."""
        there = {split: [n for n in names if (folder / n).is_dir()] for split, names in SPLIT_FOLDERS.items()}
        files = {split: found[0] for split, found in there.items() if found}
        if "train" not in files:
            parts = {"train": [0, 0.8], "validation": [0.8, 0.9], "test": [0.9, 1]}
            return cls(folder.name, f"put it into {folder}", str(folder), ".", ".", "folders", parts=parts, order=0)
        held_out = {} if "validation" in files else {"validation": {"of": "train", "every": 10}}
        return cls(folder.name, f"put it into {folder}", str(folder), ".", files, "folders", held_out=held_out)

    def _read(self, given: Any) -> Iterator[Found]:
        try:
            yield from READERS[self.format](self._folder, given, self.reader)
        except FileNotFoundError as error:
            raise ConfigError(f"The data set {self.name!r} is not there ({error}); {self._cure()}") from error

    def _part(self, found: list[Found], begin: float, end: float) -> list[Found]:
        if self.order is not None:
            found = [found[i] for i in np.random.default_rng(self.order).permutation(len(found))]
        by_label: dict[str, list[Found]] = {}
        for one in found:
            by_label.setdefault(one.values["label"], []).append(one)
        return [one for _, own in sorted(by_label.items()) for one in own[int(begin * len(own)) : int(end * len(own))]]

    def _loaded(self, split: str) -> list[Found]:
        if not hub.is_installed():
            raise ConfigError(f"The data set {self.name!r} needs its files; {self._cure()}")
        settings = {key: self.hub[key] for key in ("config", "revision") if key in self.hub}
        image, label = (self.hub.get("fields", {}).get(name, name) for name in ("image", "label"))
        try:
            table = hub.opened(self.hub["path"], split, **settings)
        except hub.Unreachable as error:
            raise ConfigError(f"The data set {self.name!r} could not be loaded ({error}); {self._cure()}") from error
        for column in (image, label):
            if column not in table.column_names:
                raise ConfigError(
                    f"{self.hub['path']} has no column {column!r}; expected one of: {', '.join(table.column_names)}."
                )
        said = [hub.published(value, table.features[label]) for value in table[label]]
        return [
            Found(self.hub["path"], number + 1, {image: Nth(table, number, image), label: str(name)}, "record")
            for number, name in enumerate(said)
        ]
