"""The data module: a mixture of tasks as packed batches, in an order fixed by (seed, step)."""

from __future__ import annotations

import inspect
import pickle
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import lightning as L
from torch.utils.data import DataLoader, DistributedSampler

from anyformer.batch import Batch
from anyformer.checkpoint import load_tokenizers
from anyformer.contracts import Split, Task, Tokenizer
from anyformer.errors import ConfigError, LimitError, nearest, unknown
from anyformer.registry import make_task, tasks, tokenizers
from anyformer.training.ahead import Ahead
from anyformer.training.mixture import Plan, Ramp, Reference, Source
from anyformer.training.preparation import Preparation, Windows
from anyformer.training.shards.directory import Prepared, Samples
from anyformer.training.unreadable import Unreadable
from anyformer.training.workers import PREFETCHED, Loader


class WindowSampler(DistributedSampler):
    """This rank's requests from a given optimiser step on.

    It is a DistributedSampler only so that Lightning knows the order to be split among ranks already.
    """

    def __init__(self, plan: Plan, trainer: L.Trainer | None, epoch_steps: int | None) -> None:
        self.plan, self.trainer, self.epoch_steps = plan, trainer, epoch_steps

    def __iter__(self) -> Iterator[tuple[list[list[Reference]], int]]:
        ranks, rank = _ranks(self.trainer), _rank(self.trainer)
        micro = _accumulation(self.trainer)
        step = self.trainer.global_step if self.trainer else 0
        left = self.epoch_steps - step % self.epoch_steps if self.epoch_steps else None
        batches = self.plan.batches(start=step * micro * ranks)
        while left is None or left > 0:
            mine = [[next(batches) for _ in range(ranks)][rank] for _ in range(micro)]
            yield from ((mine, index) for index in range(micro))
            left = None if left is None else left - 1

    def __len__(self) -> int:
        if self.epoch_steps is None:
            raise TypeError("the mixture has no end; give epoch_steps to have epochs")
        return self.epoch_steps * _accumulation(self.trainer)

    def set_epoch(self, epoch: int) -> None:
        """The order follows from the step; an epoch's number adds nothing."""


def _accumulation(trainer: L.Trainer | None) -> int:
    return trainer.accumulate_grad_batches if trainer else 1


MIXING = ("type", "weight", "loss_weight", "objective", "samples")  # settings of a task that are the mixture's to read


class Mixture(L.LightningDataModule):
    """Tokenizers and tasks by registry name, mixed by tokens.

    tokenizers: `{name: settings}`; `type` in the settings names the plugin when it is not `name` itself. A tokenizer
    that exists already, such as those of a loaded model, may stand instead of its settings.
    tasks: `{name: settings}` likewise; beside the task's own settings, `weight` is its share of each batch's tokens, a
    number or one that changes by step (`{from: 4, to: 1, until: 1000}`, see Ramp), `loss_weight` its factor in the
    total loss, `samples` how many of its training samples there are to be, drawn by lot (few labels), and `objective`
    (`{"type": ..., ...}`) replaces its default objective.
    token_budget: the most tokens in a micro-batch. modality_budgets: by modality of tasks, the most of these that are
    theirs; a batch is smaller where that is less than their share.
    temperature: instead of `weight`, shares proportional to each task's training tokens to the power 1/temperature (1
    proportional, larger flatter).
    seed: of the weights, of the order and of every random choice; by default 0, and on the command line that of
        `seed_everything`. workers: processes that encode.
    patience: seconds after which a worker that has not handed over a batch is given up, with an error that names it.
    epoch_steps: optimiser steps called an epoch; None for a single endless one (use max_steps or max_time).
    validation_tokens: how much of each task's validation split is looked at.
    data_dir: where tasks that read files find them, unless a task's own settings say.
    unreadable: what training does about a sample that cannot be read: `{"type": "stop"}` (default), or
    `{"type": "skip", "share": 0.001}`: it takes another one, until more than that share of a task's samples are bad.
    start: a checkpoint whose tokenizers take the place of those of the same name here, for a Learner with that `start`.
    shards: a folder that `anyformer prepare` wrote from these tasks; the splits that it holds are read there, in the
    order and with the tokenizers of raw data.
    """

    def __init__(
        self,
        tokenizers: dict[str, Any],
        tasks: dict[str, Any],
        token_budget: int = 4096,
        temperature: float | None = None,
        seed: int | None = None,
        workers: int = 0,
        patience: float = 120.0,
        epoch_steps: int | None = None,
        validation_tokens: int = 20_000,
        start: str | None = None,
        data_dir: str | None = None,
        unreadable: dict[str, Any] | None = None,
        modality_budgets: dict[str, int] | None = None,
        shards: str | None = None,
    ) -> None:
        super().__init__()
        self.prepared = None if shards is None else Prepared(shards)
        self.unreadable = Unreadable(unreadable or {})
        self.data_dir = data_dir
        there = {} if self.prepared is None else self.prepared.tokenizers()
        there |= {} if start is None else load_tokenizers(start)
        self.tokenizers: dict[str, Tokenizer] = make_tokenizers({n: there.get(n, s) for n, s in tokenizers.items()})
        self.tasks: dict[str, Task] = {}
        self.weights: dict[str, Ramp] = {}
        self.samples: dict[str, int | None] = {}
        self.loss_weights: dict[str, float] = {}
        for name, settings in tasks.items():
            self._add(name, _settings("task", name, settings))
        if not self.tasks:
            raise ConfigError("A mixture needs at least one task.")
        if self.prepared is not None:
            self.prepared.check(self.tasks, self.tokenizers)
        if temperature is not None and temperature <= 0:
            raise ConfigError(f"A mixture has {temperature=}; expected more than 0, or None to use the weights.")
        self.modality_budgets = modality_budgets or {}
        for modality, most in self.modality_budgets.items():
            there = [task.modality for task in self.tasks.values()]
            if modality not in there:
                raise unknown("modality of a task", modality, dict.fromkeys(there))
            if most < 1:
                raise ConfigError(f"modality_budgets has {modality}: {most}; expected a number of tokens, at least 1.")
        self.token_budget, self.temperature, self.seed = token_budget, temperature, seed or 0
        self.workers, self.patience = workers, patience
        self.epoch_steps, self.validation_tokens = epoch_steps, validation_tokens

    def setup(self, stage: str | None = None) -> None:
        """Fit what needs fitting, on the training split of every task that uses it."""
        fit_tokenizers(self.tokenizers, self.tasks)

    def heads(self) -> list[str]:
        """Every stream that some task predicts."""
        found: dict[str, None] = {}
        for task in self.tasks.values():
            specs = {name: self.tokenizers[kind].streams for name, kind in task.fields.items()}
            found |= dict.fromkeys(task.objective.predicts(specs))
        return list(found)

    def train_dataloader(self) -> DataLoader:
        preparation = self._preparation("train")
        sources = [
            Source(
                name,
                len(preparation.samples(name)),
                _length_of(preparation, name),
                self.seed,
                self.unreadable,
                self.samples[name],
                self._order(preparation, name),
            )
            for name in self.tasks
        ]
        self.unreadable.sizes = {source.task: source.size for source in sources}
        every, ranks = _accumulation(self.trainer), _ranks(self.trainer)
        kinds = [task.modality for task in self.tasks.values()]
        plan = Plan(sources, self._weights(sources), self.token_budget, every * ranks, self.modality_budgets, kinds)
        ahead = Ahead(preparation, sources, self.workers * PREFETCHED, every, ranks)
        return self._loader(preparation, WindowSampler(plan, self.trainer, self.epoch_steps), ahead)

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        self.unreadable.note(batch.unreadable)
        return batch

    def state_dict(self) -> dict[str, Any]:
        return {"unreadable": self.unreadable.state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.unreadable.restore(state_dict["unreadable"])

    def val_dataloader(self) -> DataLoader:
        return self._in_order("validation")

    def test_dataloader(self) -> DataLoader:
        return self._in_order("test")

    def predict_dataloader(self) -> DataLoader:
        return self._in_order("test")

    def _add(self, name: str, settings: dict[str, Any]) -> None:
        kind = settings.pop("type", name)
        accepted = [*inspect.signature(tasks.get(kind)).parameters, *MIXING]
        for key in settings:
            if key not in accepted:
                raise ConfigError(
                    f"The task {name!r} has no setting {key!r}; "
                    f"expected one of: {', '.join(accepted)}.{nearest(key, accepted)}"
                )
        self.samples[name] = settings.pop("samples", None)
        self.weights[name] = Ramp.of(name, settings.pop("weight", 1.0))
        self.loss_weights[name] = _number(name, settings, "loss_weight")
        chosen = settings.pop("objective", None)
        chosen = None if chosen is None else _settings("objective of task", name, chosen)
        task = make_task(kind, settings, chosen, self.data_dir)
        for kind in task.fields.values():
            if kind not in self.tokenizers:
                raise ConfigError(f"Task {name!r} needs a tokenizer: {unknown('tokenizer', kind, self.tokenizers)}")
        self.tasks[name] = task

    def _preparation(self, split: Split) -> Preparation:
        return Preparation(self.tasks, self.tokenizers, split, self.seed, self.unreadable, self.samples, self.prepared)

    def _order(self, preparation: Preparation, task: str) -> Callable[[int], Sequence[int]] | None:
        """Shards say in which order they are read; a lot drawn from them is read in the order of a lot."""
        samples = preparation.samples(task)
        known = isinstance(samples, Samples) and self.samples[task] is None
        return partial(samples.order, self.seed) if known else None

    def _weights(self, sources: Sequence[Source]) -> Sequence[float | Ramp]:
        if self.temperature is None:
            return [self.weights[source.task] for source in sources]
        totals = [sum(source.length(i) or 0 for i in source.indices) for source in sources]
        return [total ** (1 / self.temperature) for total in totals]

    def _in_order(self, split: Split) -> DataLoader:
        """The beginning of each task's split, in its own order, packed within the budget."""
        preparation = self._preparation(split)
        requests: list[tuple[list[list[Reference]], int]] = []
        for name in self.tasks:
            references, tokens, seen = [], 0, 0
            for index in range(len(preparation.samples(name))):
                length = preparation.length(name, index)
                if length > self.token_budget:
                    raise LimitError(f"Task {name!r}, sample {index}: {length} tokens exceed {self.token_budget=}.")
                if tokens + length > self.token_budget:
                    requests.append(([references], 0))
                    references, tokens = [], 0
                if seen + length > self.validation_tokens and seen and split == "validation":
                    break
                references.append(Reference(name, index, 0))
                tokens, seen = tokens + length, seen + length
            if references:
                requests.append(([references], 0))
        return self._loader(preparation, InOrder(requests, _rank(self.trainer), _ranks(self.trainer)))

    def _loader(self, preparation: Preparation, sampler, ahead: Ahead | None = None) -> DataLoader:
        workers = self.workers if self.workers and _picklable(preparation) else 0
        named = partial(_named, preparation)
        pinned = _on_cuda(self.trainer)
        # by name: for predictions Lightning makes the loader again, with a sampler of its own in the place of this one
        return Loader(Windows(preparation), workers, named, self.patience, ahead, sampler=sampler, pin_memory=pinned)


class InOrder(DistributedSampler):
    """This rank's part of a fixed list of requests: every so-many-th, none twice.

    own: how many they are. A rank that has fewer than others takes the first again and does not count it, because all
    ranks must meet: when losses are added up, and where weights that are kept in parts are gathered.
    """

    def __init__(self, requests: Sequence, rank: int, ranks: int) -> None:
        mine, most = requests[rank::ranks], -(-len(requests) // ranks)
        self.own = len(mine)
        self.requests = [*mine, *([requests[0]] * (most - self.own))]

    def __iter__(self) -> Iterator:
        return iter(self.requests)

    def __len__(self) -> int:
        return len(self.requests)

    def set_epoch(self, epoch: int) -> None:
        """Always the same order."""


def make_tokenizers(config: Mapping[str, Any]) -> dict[str, Tokenizer]:
    """Tokenizers from `{name: settings}`; one that exists already stays as it is."""
    made = {}
    for name, settings in config.items():
        if isinstance(settings, Tokenizer):
            made[name] = settings
            continue
        if not re.fullmatch(r"[^/\\\0.][^/\\\0]*", name):  # a checkpoint has a folder of that name
            raise ConfigError(f"A tokenizer is called {name!r}; expected a name that a folder may have.")
        settings = _settings("tokenizer", name, settings)
        made[name] = tokenizers.create(settings.pop("type", name), {"name": name, **settings})
    return made


def fit_tokenizers(tokenizers: Mapping[str, Tokenizer], tasks: Mapping[str, Task]) -> None:
    """Fit each unfitted tokenizer on the training values of every field that uses it."""
    for name, tokenizer in tokenizers.items():
        if tokenizer.fitted:
            continue
        fields = [(task, field) for task in tasks.values() for field, kind in task.fields.items() if kind == name]
        if not fields:
            raise ConfigError(
                f"Tokenizer {name!r} must be fitted, but no task uses it. Remove it, or add a task with such a field."
            )
        tokenizer.fit(value for task, field in fields for value in task.corpus(field))


def _settings(kind: str, name: str, given: Mapping[str, Any] | None) -> dict[str, Any]:
    if given is not None and not isinstance(given, Mapping):
        raise ConfigError(f"The settings of {kind} {name!r} are {given!r}; expected names with values, or nothing.")
    return dict(given or {})


def _number(task: str, settings: dict[str, Any], key: str) -> float:
    """A positive factor taken out of a task's settings; 1 by default."""
    given = settings.pop(key, 1.0)
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not 0 < given < float("inf"):
        raise ConfigError(f"Task {task!r} has {key}={given!r}; expected a number above 0.")
    return float(given)


def _named(preparation: Preparation, request: tuple) -> list[str]:
    """The samples that a worker prepares for a request: those of the whole window, and those that it encodes ahead."""
    window, _, *given = request
    places = [(r.task, r.index) for batch in window for r in batch] + [place for one in given for place in one.ahead]
    return [f"{task} {preparation.samples(task)[index].id!r}" for task, index in places]


def _length_of(preparation: Preparation, task: str):
    return lambda index: preparation.length(task, index)


def _picklable(preparation: Preparation) -> bool:
    """A plugin defined in a notebook cannot travel into a worker; then the main process encodes, saying so."""
    parts = [*preparation.tasks.values(), *preparation.tokenizers.values()]
    stuck = [type(part).__qualname__ for part in parts if type(part).__module__ == "__main__"]
    try:
        pickle.dumps(preparation)
    except Exception as error:
        stuck.append(str(error))
    if stuck:
        warnings.warn(
            f"Data is prepared in the main process, because workers cannot import {', '.join(stuck)}. "
            "Move it to an importable module to use workers.",
            stacklevel=2,
        )
    return not stuck


def _ranks(trainer: L.Trainer | None) -> int:
    return trainer.world_size if trainer else 1


def _rank(trainer: L.Trainer | None) -> int:
    return trainer.global_rank if trainer else 0


def _on_cuda(trainer: L.Trainer | None) -> bool:
    return bool(trainer) and trainer.strategy.root_device.type == "cuda"
