"""From references to packed batches: what a data worker holds and does, for which it needs no Lightning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
from torch.utils.data import Dataset

from anyformer.batch import Batch, Example, counts_together, pack
from anyformer.contracts import Objective, Sample, Split, Task, Tokenizer, encode_fields, laid, named, ready
from anyformer.errors import AnyformerError, SampleError, unknown
from anyformer.tokens import Tokens
from anyformer.training.measured import Given, Held, Made, Place, Told, packed, size, unpacked
from anyformer.training.mixture import Chance, Reference, keyed, lot
from anyformer.training.shards.directory import Prepared, Samples
from anyformer.training.unreadable import Found, Unreadable

TRIES = 100  # other samples that are tried in the place of one that cannot be read

MOST_HELD = 2**28
"""Bytes that a process keeps because they are the same at every pass."""


@dataclass
class Preparation:
    """From references to packed batches; what a data worker holds.

    window: the micro-batches of one optimiser step; each of them is stamped with the counts of them all.
    unreadable: whether training goes on without a sample that cannot be read; held-out samples must all be sound.
    few: of which tasks only some of the training samples take part, see `lot`.
    prepared: shards that stand for the splits that they hold.
    """

    tasks: Mapping[str, Task]
    tokenizers: Mapping[str, Tokenizer]
    split: Split
    seed: int
    unreadable: Unreadable = field(default_factory=lambda: Unreadable({}))
    few: Mapping[str, int | None] = field(default_factory=dict)
    prepared: Prepared | None = None
    _latest: tuple = field(default=((), ()), repr=False)
    _held: int = 0

    def batch(self, references: Sequence[Reference]) -> Batch:
        """Equal shapes stand side by side, so that attention can take them in one call."""
        found: list[Found] = []
        prepared = [self._sound(reference, found) for reference in references]
        examples = [example for example in prepared if example is not None]
        if not examples:
            raise SampleError(f"{found[-1][2]} No other sample fits in its place. Mend it, or leave it out.")
        examples.sort(key=lambda example: (example.task, example.tokens.length, example.prefix))
        return replace(pack(examples), unreadable=tuple(found))

    def micro_batch(
        self, window: Sequence[Sequence[Reference]], index: int, encoded: Mapping[Place, bytes] | None = None
    ) -> Batch:
        """encoded: of the window's samples, by others."""
        key = tuple(map(tuple, window))
        if self._latest[0] != key:
            for place, fields in (encoded or {}).items():
                self._measured.put(place, unpacked(fields), len(fields))
            self._latest = (key, tuple(self.batch(references) for references in window))
        return replace(self._latest[1][index], counts=counts_together(self._latest[1]))

    def made(self, window: Sequence[Sequence[Reference]], index: int, given: Given) -> Made:
        """A micro-batch of a worker, which measures what will be needed."""
        batch = self.micro_batch(window, index, given.encoded)
        return Made(batch, {place: told for place in given.ahead if (told := self._tell(*place)) is not None})

    def measures_by_encoding(self, task: str) -> bool:
        return any(self.tokenizers[kind].measures_by_encoding for kind in self.tasks[task].fields.values())

    def samples(self, task: str) -> Sequence[Sample]:
        if task not in self._samples:
            there = self.prepared is not None and self.prepared.holds(task, self.split)
            source = self.prepared.samples if there else lambda name, split: self.tasks[name].examples(split)
            self._samples[task] = source(task, self.split)
        return self._samples[task]

    def length(self, task: str, index: int) -> int:
        """The most slots that a sample's example fills. What is encoded to know it is held until that is prepared."""
        told = self.told.get((task, index))
        if told is not None:
            return told[0]
        samples, fields = self.samples(task), self.tasks[task].fields
        if isinstance(samples, Samples):
            return self._objectives[task].length(samples.lengths(index))
        sample = samples[index]
        for name in sample.values:
            if name not in fields:
                raise unknown(f"field of task {task!r}, sample {sample.id!r}:", name, fields)
        tokenizers = {name: self.tokenizers[fields[name]] for name in sample.values}
        with named(task, sample):
            made = {n: t.encode(sample.values[n]) for n, t in tokenizers.items() if t.measures_by_encoding}
            lengths = {n: made[n].length if n in made else t.length(sample.values[n]) for n, t in tokenizers.items()}
            if made:
                self._measured.put((task, index), made, size(made))
            return self._objectives[task].length(lengths)

    def _tell(self, task: str, index: int) -> Told | None:
        """None for what is wrong with a sample: the plan will come upon it and say so."""
        try:
            length = self.length(task, index)
        except AnyformerError:
            return None
        return length, packed(self._measured.take((task, index)) or {})

    def _sound(self, reference: Reference, found: list[Found]) -> Example | None:
        """A reference's example, or another sample's where that cannot be read, which is then `found`."""
        skips, place = self.unreadable.skips and self.split == "train", (reference.task, reference.index)
        try:
            if not (skips and self.unreadable.knows(*place)):
                return self._example(reference)
        except SampleError as error:
            if not skips:
                raise
            found.append((*place, str(error)))
        return self._instead(reference)

    def _instead(self, reference: Reference) -> Example | None:
        """Another sample of the task that is no longer; which one follows from the seed and the reference."""
        task, room = reference.task, self.length(reference.task, reference.index)
        there = lot(task, len(self.samples(task)), self.seed, self.few.get(task))
        rng = keyed(self.seed, "instead", task, reference.epoch, reference.index)
        for index in (there[place] for place in rng.integers(len(there), size=TRIES).tolist()):
            try:
                if not self.unreadable.knows(task, index) and self.length(task, index) <= room:
                    return self._example(replace(reference, index=index))
            except SampleError:
                continue
        return None

    def _example(self, reference: Reference) -> Example:
        """Encoded once, but where chance varies the sample; prepared once, but where chance has a part in that."""
        name, place = reference.task, (reference.task, reference.index)
        kept = self._constant.get(place)
        if isinstance(kept, Example):
            return kept
        chance = Chance(lambda: keyed(self.seed, self.split, name, reference.epoch, reference.index))
        rng = cast(np.random.Generator, chance)
        sample = kept or self._encoded(reference, rng)
        is_another_each_time = chance.was_asked
        example = laid(name, sample, self._objectives[name], rng)
        if not chance.was_asked:
            self._keep(place, example, example.bytes)
        elif kept is None and not is_another_each_time:
            self._keep(place, sample, size(sample.values))
        return example

    def _encoded(self, reference: Reference, rng: np.random.Generator) -> Sample:
        """The sample's tokens, of what chance makes of it in this pass."""
        name, task = reference.task, self.tasks[reference.task]
        raw = self.samples(name)[reference.index]
        sample = task.varied(raw, rng) if self.split == "train" else raw
        made = self._measured.take((name, reference.index)) or {}
        known = {field: made[field] for field in made if sample.values.get(field) is raw.values[field]}
        with named(name, raw):
            return replace(sample, values=encode_fields(task.fields, self.tokenizers, {**sample.values, **known}))

    def _keep(self, place: Place, made: Sample | Example, taken: int) -> None:
        """taken: its bytes."""
        if self._held < MOST_HELD:
            self._constant[place] = made
            self._held += taken

    @cached_property
    def told(self) -> Held[Told]:
        """By workers, of samples that are not prepared yet."""
        return Held()

    @cached_property
    def _measured(self) -> Held[Mapping[str, Tokens]]:
        """Here, of samples that are not prepared yet."""
        return Held()

    @cached_property
    def _samples(self) -> dict[str, Sequence[Sample]]:
        return {}

    @cached_property
    def _objectives(self) -> dict[str, Objective]:
        """Told their streams once, for all that is planned."""
        objectives = {name: task.objective for name, task in self.tasks.items()}
        used = objectives if self.split == "train" else {name: one.plain for name, one in objectives.items()}
        return {name: ready(task, self.tokenizers, used[name]) for name, task in self.tasks.items()}

    @cached_property
    def _constant(self) -> dict[Place, Sample | Example]:
        """What no chance had a part in: examples, or samples of which each example is another. The same at every
        pass."""
        return {}

    def __getstate__(self) -> dict[str, Any]:
        own = ("_objectives", "_constant", "_measured", "told")
        state = {name: value for name, value in self.__dict__.items() if name not in own}
        return {**state, "_samples": {}, "_latest": ((), ()), "_held": 0}  # workers read their own


class Windows(Dataset):
    """Requests (window, index) to batches, and (window, index, given) to what a worker gives back; a map-style set, so
    the order is the sampler's alone."""

    def __init__(self, preparation: Preparation) -> None:
        self.preparation = preparation

    def __getitem__(self, index: tuple) -> Batch | Made:
        return self.preparation.micro_batch(*index) if len(index) == 2 else self.preparation.made(*index)
