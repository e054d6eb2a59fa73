"""A folder of shards: what it holds, in which order a pass goes through it, and that nothing of it is damaged.

manifest.json                         every file with its size and sha256, and what it was made of; written last
tokenizers/                           those that encoded it, in a checkpoint's layout
TASK/SPLIT-00000.safetensors, …       see `content`
TASK/SPLIT.lengths.safetensors        how long each sample is, so that batches are planned without opening a shard
"""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file

from anyformer.checkpoint import load_tokenizers
from anyformer.checkpoint.content import own_digest
from anyformer.contracts import Sample, Split, Task, Tokenizer
from anyformer.errors import ConfigError, ShardError
from anyformer.training.mixture import keyed
from anyformer.training.shards.content import Shard

FORMAT = 1
MANIFEST, TOKENIZERS = "manifest.json", "tokenizers"
PLACES = ("data_dir",)  # settings of a task that say where its raw data lie, not what they are
TOGETHER = 64
"""Shards among which samples are shuffled: a pass takes one group of so many after the other."""

T = TypeVar("T")

CURE = "Run `anyformer prepare` again with the same --out: it writes what is missing or damaged."


class Prepared:
    """The folder that `anyformer prepare` wrote. ShardError where it is unfinished or damaged."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.tasks: Mapping[str, Any] = read_manifest(self.path)["tasks"]

    def tokenizers(self) -> dict[str, Tokenizer]:
        """Those that encoded the samples."""
        return load_tokenizers(self.path / TOKENIZERS)

    def holds(self, task: str, split: Split) -> bool:
        return split in self.tasks.get(task, {}).get("splits", {})

    def samples(self, task: str, split: Split) -> Samples:
        return Samples(self.path, task, split, self.tasks[task]["splits"][split])

    def check(self, tasks: Mapping[str, Task], tokenizers: Mapping[str, Tokenizer]) -> None:
        """That these are the tasks and tokenizers that it was made with; ShardError says in what they differ."""
        ours = {name: tokenizer.fingerprint() for name, tokenizer in tokenizers.items() if tokenizer.fitted}
        for name, task in tasks.items():
            if name not in self.tasks:
                raise ShardError(f"{self.path}: holds no task {name!r}, only {', '.join(self.tasks)}. {CURE}")
            made, now = self.tasks[name]["settings"], settings_of(task)
            told = [f"{key} was {made.get(key)!r} and is {now.get(key)!r}" for key in now if made.get(key) != now[key]]
            if told:
                raise ShardError(
                    f"{self.path}: was made of another task {name!r}: {'; '.join(told)}. Prepare it anew, elsewhere."
                )
            for kind, fingerprint in self.tasks[name]["tokenizers"].items():
                if ours.get(kind) != fingerprint:
                    raise ShardError(
                        f"{self.path}: tokenizer {kind!r} encodes otherwise than the one that the shards were written "
                        f"with (expected {fingerprint[:12]}…, got {str(ours.get(kind))[:12]}…). Leave `start` out, or "
                        "prepare the data with that checkpoint's tokenizers, elsewhere."
                    )


class _Indexed(Sequence[T]):
    """`len` and `_at` make a sequence, with slices; indices begin at 0."""

    @abstractmethod
    def _at(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(f"{index} of {len(self)}")
        return self._at(index)


class Samples(_Indexed[Sample]):
    """One task's samples of a split, encoded. Shards are opened when first needed, and verified then."""

    def __init__(self, folder: Path, task: str, split: Split, entry: Mapping[str, Any]) -> None:
        self.folder, self.task, self.split, self.entry = folder, task, split, entry
        self.ends = [0, *accumulate(shard["samples"] for shard in entry["shards"])]
        self._open: OrderedDict[int, Shard] = OrderedDict()

    def __len__(self) -> int:
        return self.ends[-1]

    def _at(self, index: int) -> Sample:
        number = bisect_right(self.ends, index) - 1
        return self._shard(number).sample(index - self.ends[number])

    def lengths(self, index: int) -> dict[str, int]:
        """Slots of each field that a sample has, without opening its shard."""
        found = {field: int(lengths[index]) for field, lengths in self._lengths.items()}
        return {field: length for field, length in found.items() if length >= 0}

    def order(self, seed: int, epoch: int) -> Sequence[int]:
        """A pass. Of up to TOGETHER shards it is the one that raw samples have."""
        return Order(self.ends, lambda *more: keyed(seed, "pass", self.task, epoch, *more))

    @cached_property
    def _lengths(self) -> dict[str, np.ndarray]:
        file = self.folder / self.entry["lengths"]["file"]
        verify(file, self.entry["lengths"])
        return {field: lengths.numpy() for field, lengths in load_file(file).items()}

    def _shard(self, number: int) -> Shard:
        if number not in self._open:
            if len(self._open) >= 2 * TOGETHER:
                self._open.popitem(last=False)
            shard = self.entry["shards"][number]
            self._open[number] = opened(self.folder / shard["file"], shard)
        self._open.move_to_end(number)
        return self._open[number]

    def __getstate__(self) -> dict[str, Any]:
        return {**{k: v for k, v in self.__dict__.items() if k != "_lengths"}, "_open": OrderedDict()}


class Order(_Indexed[int]):
    """All indices of a list of shards, in an order that is looked up a group of shards at a time, so that a pass
    through any number of samples needs the memory of one group. draw: a generator for these keys."""

    def __init__(self, ends: Sequence[int], draw: Callable[..., np.random.Generator]) -> None:
        self._ends, self._draw, self._group = ends, draw, -1
        shards = len(ends) - 1
        order = np.arange(shards) if shards <= TOGETHER else draw("shards").permutation(shards)
        self._groups = [order[at : at + TOGETHER] for at in range(0, shards, TOGETHER)]
        sizes = (sum(ends[shard + 1] - ends[shard] for shard in group) for group in self._groups)
        self._group_ends = [0, *accumulate(sizes)]
        self._indices = np.zeros(0, dtype=np.int64)

    def __len__(self) -> int:
        return self._ends[-1]

    def _at(self, index: int) -> int:
        number = bisect_right(self._group_ends, index) - 1
        if number != self._group:
            of = np.concatenate([np.arange(self._ends[s], self._ends[s + 1]) for s in self._groups[number]])
            keys = (number,) if len(self._groups) > 1 else ()
            self._group, self._indices = number, of[self._draw(*keys).permutation(len(of))]
        return int(self._indices[index - self._group_ends[number]])


def settings_of(task: Task) -> dict[str, Any]:
    """What decides which samples a task has, as JSON gives it back."""
    return json.loads(json.dumps({key: value for key, value in task.config().items() if key not in PLACES}))


def opened(file: Path, expected: Mapping[str, Any]) -> Shard:
    verify(file, expected)
    try:
        return Shard(file)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ShardError(f"{file}: cannot be read as a shard ({error}). {CURE}") from error


def verify(file: Path, expected: Mapping[str, Any]) -> None:
    """ShardError names the file, what was expected of it and what was found."""
    if ".." in file.parts:
        raise ShardError(f"{file}: expected a file of the folder, got one outside. {CURE}")
    try:
        size = file.stat().st_size
        if size != expected["bytes"]:
            raise ShardError(f"{file}: expected {expected['bytes']} bytes, got {size}. {CURE}")
        with open(file, "rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise ShardError(
            f"{file}: expected {expected['bytes']} bytes, got nothing ({error.strerror}). {CURE}"
        ) from error
    if found != expected["sha256"]:
        raise ShardError(f"{file}: expected sha256 {expected['sha256'][:12]}…, got {found[:12]}…. {CURE}")


def read_manifest(folder: Path) -> dict[str, Any]:
    file = folder / MANIFEST
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; expected one that `anyformer prepare --out` wrote.")
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ShardError(f"{folder}: expected {MANIFEST}, got none: it is not finished. {CURE}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ShardError(f"{file}: expected JSON, got something else ({error}). {CURE}") from error
    if not isinstance(manifest, dict) or manifest.get("sha256") != own_digest(manifest):
        raise ShardError(f"{file}: expected what its own sha256 says, got something else: it is damaged. {CURE}")
    if manifest.get("format") != FORMAT:
        raise ShardError(f"{file}: expected format {FORMAT}, got {manifest.get('format')}. Prepare the data anew.")
    return manifest
