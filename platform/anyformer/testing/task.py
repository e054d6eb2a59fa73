"""The task contract, clause by clause."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch

from anyformer.batch import Example, pack
from anyformer.contracts import (
    SPLITS,
    Metric,
    Sample,
    Score,
    Split,
    Task,
    Tokenizer,
    encode_fields,
    encoded,
    prepare,
    ready,
)
from anyformer.model import Model
from anyformer.registry import tasks, tokenizers
from anyformer.testing.clause import Clause, equal, equal_tokens, shown
from anyformer.testing.encoding import require_well_formed
from anyformer.tokens import StreamSpec, spec_table

FITTED = 256  # training samples that unfitted tokenizers learn from
TINY = {"dim": 32, "heads": 2, "depth": 1}  # the untrained backbone that is scored


def check_task(
    task: str | Task,
    tokenizers: Mapping[str, Tokenizer] | None = None,
    samples: int = 3,
    seed: int = 0,
    name: str | None = None,
) -> None:
    """Hold a task to its contract; ContractError names the first clause that it breaks.

    task: a registered name, or an object, whose errors then call it `name` (its class by default).
    tokenizers: by name, fitted; by default the registered ones its fields name, fitted on its training split.
    samples: how many of each split are prepared and scored.

    The clauses: fields, modality and metrics are declared; settings are JSON and rebuild a task of the same
    samples; splits are not empty, keep their order and share no id; samples prepare alike for one key, as
    long as their tokenizers and at most as long as the objective say, with targets inside and a head for each;
    a sample without the predicted field is a prompt; an untrained model gets one finite score a sample and
    metric; baselines are of its metrics.
    """
    case = Case.of(task, name, tokenizers, samples, seed)
    for check in CLAUSES:
        check(case)


@dataclass(frozen=True)
class Case:
    """The task, fitted tokenizers, each split, and how many samples of it go through every clause."""

    plugin: str
    name: str
    task: Task
    tokenizers: Mapping[str, Tokenizer]
    splits: Mapping[Split, Sequence[Sample]]
    count: int
    seed: int

    @classmethod
    def of(
        cls,
        task: str | Task,
        name: str | None,
        given: Mapping[str, Tokenizer] | None,
        count: int,
        seed: int,
    ) -> Case:
        name = name or (task if isinstance(task, str) else type(task).__name__)
        task, plugin = tasks.create(task) if isinstance(task, str) else task, f"task {name!r}"
        clause = Clause(plugin, "is a task", "Derive it from anyformer's Task.")
        clause.require(isinstance(task, Task), "a Task", type(task).__name__)
        _require_declarations(plugin, task)
        clause = Clause(plugin, "gives samples", "examples(split) makes them without any set-up by the user.")
        with clause.sound("samples of each split"):
            splits = {split: task.examples(split) for split in SPLITS}
        fitted = dict(given or {})
        for kind in task.fields.values():
            if kind not in fitted:
                fitted[kind] = _fitted(task, kind, splits["train"])
        return cls(plugin, name, task, fitted, splits, count, seed)

    def clause(self, title: str, cure: str) -> Clause:
        return Clause(self.plugin, title, cure)

    @property
    def each(self) -> list[Sample]:
        return [sample for split in SPLITS for sample in self.splits[split][: self.count]]

    @property
    def specs(self) -> dict[str, Sequence[StreamSpec]]:
        """Each field's streams."""
        return {field: self.tokenizers[kind].streams for field, kind in self.task.fields.items()}

    def prepared(self, sample: Sample) -> Example:
        return prepare(self.name, self.task, self.tokenizers, sample, np.random.default_rng(self.seed))

    def heads(self) -> list[str]:
        clause = self.clause("its objective fits its fields", "objective.predicts names streams of the fields.")
        streams = [spec.name for specs in self.specs.values() for spec in specs]
        with clause.sound(f"some of the streams {streams}"):
            objective = self.task.objective
            heads = objective.predicts(self.specs)
            enough = bool(heads) or objective.coupled  # hidden states that are compared need no head
            clause.require(enough and set(heads) <= set(streams), f"some of the streams {streams}", heads)
        return heads or streams


def _require_declarations(plugin: str, task: Task) -> None:
    clause = Clause(plugin, "declares itself", "State fields, modality and metrics in the class.")
    with clause.sound("fields, modality and metrics"):
        fields, metrics = dict(task.fields), tuple(task.metrics)
        named = all(isinstance(part, str) for pair in fields.items() for part in pair)
        clause.require(bool(fields) and named, "field names to tokenizer names", fields)
        clause.require(isinstance(task.modality, str) and bool(task.modality), "a modality label", task.modality)
        names = [metric.name for metric in metrics if isinstance(metric, Metric)]
        clause.require(bool(names) and len(set(names)) == len(metrics), "metrics of different names", metrics)


def _fitted(task: Task, kind: str, samples: Sequence[Sample]) -> Tokenizer:
    """A registered tokenizer, fitted on what the task's training split has for it."""
    tokenizer = tokenizers.create(kind, {"name": kind})
    if not tokenizer.fitted:
        fields = [field for field, of in task.fields.items() if of == kind]
        values = (s.values[f] for s in samples for f in fields if f in s.values)
        tokenizer.fit(islice(values, FITTED))
    return tokenizer


def splits_are_sound(case: Case) -> None:
    """Not empty, each id once over all splits, the same order at every call, no unknown field."""
    clause = case.clause("splits are sound", "Cut the data once, by a fixed key, and build ids from it.")
    seen: set[str] = set()
    for split in SPLITS:
        first, second = case.splits[split], case.task.examples(split)
        clause.require(len(first) > 0, f"samples in {split!r}", "none")
        same = [sample.id for sample in first] == [sample.id for sample in second]
        clause.require(same, f"one order of {split!r} at every call", "another order")
        for sample in first:
            clause.require(isinstance(sample.id, str), "ids that are str", sample.id)
            clause.require(sample.id not in seen, f"the id {sample.id!r} once", f"it again in {split!r}")
            seen.add(sample.id)
            strange = [field for field in sample.values if field not in case.task.fields]
            clause.require(not strange and bool(sample.values), f"fields of {list(case.task.fields)}", strange)


def rebuilds(case: Case) -> None:
    """`config()` is JSON and makes a task of the same samples."""
    clause = case.clause("rebuilds from config", "Settings are plain fields; randomness comes from a seed field.")
    with clause.sound("plain JSON settings that make an equal task"):
        twin = type(case.task)(**json.loads(json.dumps(case.task.config())))
        for split in SPLITS:
            pair = (twin.examples(split)[: case.count], case.splits[split][: case.count])
            same = equal(*([_plain(sample) for sample in samples] for samples in pair))
            clause.require(same, f"the same samples of {split!r}", "others")


def _plain(sample: Sample) -> tuple[str, dict[str, Any], str]:
    return sample.id, dict(sample.values), sample.cluster


def prepares(case: Case) -> None:
    """Samples become examples: alike for one key, of the announced length, targets inside; their tokens stay as they
    were, because a run keeps them from one pass to the next."""
    clause = case.clause("prepares its samples", "The task's fields, tokenizers and objective must fit each other.")
    heads = case.heads()
    for sample in case.each:
        with clause.sound(f"an example from sample {sample.id!r}"):
            kept = encoded(case.name, case.task, case.tokenizers, sample)
            example, again, later = (case.prepared(each) for each in (sample, kept, kept))
        _require_lengths(clause, case, sample, example)
        clause.require(_alike(example, again), f"sample {sample.id!r} twice alike for one key", "a difference")
        clause.require(_alike(again, later), f"the tokens of sample {sample.id!r} as they were", "changed ones")
        specs = [spec for streams in case.specs.values() for spec in streams]
        for axis in _sequences(example):
            require_well_formed(case.plugin, specs, axis.tokens, f"sample {sample.id!r}")
        _require_targets(clause, sample, example, heads)
    pack([case.prepared(sample) for sample in case.each])


def _require_lengths(clause: Clause, case: Case, sample: Sample, example: Example) -> None:
    """Fields are as long as their tokenizers say, and the example at most as long as the objective says."""
    encoded = encode_fields(case.task.fields, case.tokenizers, sample.values)
    lengths = {f: case.tokenizers[case.task.fields[f]].length(raw) for f, raw in sample.values.items()}
    found = {field: tokens.length for field, tokens in encoded.items()}
    clause.require(found == lengths, f"fields of {lengths} slots in sample {sample.id!r}", f"{found}")
    most, slots = ready(case.task, case.tokenizers).length(lengths), example.size
    clause.require(slots <= most, f"at most {most} slots from sample {sample.id!r}, as objective.length says", slots)


def _sequences(example: Example) -> list[Example]:
    """It and what is apart from it, on both axes."""
    each = [example, *example.apart]
    return [axis for one in each for axis in ([one] if one.source is None else [one, one.source])]


def _alike(one: Example, other: Example) -> bool:
    sequences = _sequences(one), _sequences(other)
    if [each.prefix for each in sequences[0]] != [each.prefix for each in sequences[1]]:
        return False
    return all(
        equal_tokens(a.tokens, b.tokens)
        and equal_tokens(*(replace(each.tokens, streams=each.targets) for each in (a, b)))
        for a, b in zip(*sequences, strict=True)
    )


def _require_targets(clause: Clause, sample: Sample, example: Example, heads: Sequence[str]) -> None:
    clause.require(bool(example.targets), f"something to predict in sample {sample.id!r}", "no targets")
    lengths = [one.tokens.length for one in (example, *example.apart)]
    _require_inside(clause, sample, example, sum(lengths), heads)
    for one, length in zip(example.apart, lengths[1:], strict=True):
        _require_inside(clause, sample, one, length, heads)


def _require_inside(clause: Clause, sample: Sample, example: Example, length: int, heads: Sequence[str]) -> None:
    """Targets lie in the `length` slots that they may be read from."""
    own = example.tokens.length
    clause.require(0 <= example.prefix <= own, f"a prefix within {own} slots", example.prefix)
    for name, target in example.targets.items():
        clause.require(name in heads, f"targets of the streams that predicts() names, {heads}", repr(name))
        slots = target.slots
        inside = len(slots) > 0 and 0 <= int(slots.min()) and int(slots.max()) < length
        clause.require(inside, f"target slots in [0, {length}) of {sample.id!r}", slots.tolist())


def prompts(case: Case) -> None:
    """A sample without the field to be predicted is a prompt, or one of anyformer's errors says why not."""
    clause = case.clause("prompts", "objective.prepare gives the same example without targets.")
    heads = set(case.task.objective.predicts(case.specs))
    predicted = {field for field, specs in case.specs.items() if heads & {spec.name for spec in specs}}
    for sample in case.each:
        kept = {field: raw for field, raw in sample.values.items() if field not in predicted}
        if len(kept) == len(sample.values):  # what is predicted is drawn from the rest
            continue
        with clause.accepts_or_refuses(f"sample {sample.id!r} without {sorted(predicted)}"):
            prompt = case.prepared(replace(sample, values=kept))
            clause.require(not prompt.targets, "no targets in a prompt", f"targets {list(prompt.targets)}")


def scores(case: Case) -> None:
    """An untrained model gets one finite score for each sample and metric."""
    clause = case.clause("scores", "score yields one Score a sample and metric, whatever the model answers.")
    samples = case.splits["test"][: case.count]
    with torch.random.fork_rng(devices=[]), torch.no_grad(), clause.sound("scores of an untrained model"):
        torch.manual_seed(case.seed)
        model = _tiny(case).eval()
        found = list(case.task.score(model, samples))
    names = {metric.name for metric in case.task.metrics}
    for score in found:
        clause.require(isinstance(score, Score), "Score objects", type(score).__name__)
        clause.require(score.metric in names, f"a metric of {sorted(names)}", repr(score.metric))
        finite = math.isfinite(score.value) and math.isfinite(score.weight) and score.weight >= 0
        clause.require(finite, f"a finite value and weight for {score.id!r}", f"{score.value}, {score.weight}")
    wanted = sorted((sample.id, name) for sample in samples for name in names)
    got = sorted((score.id, score.metric) for score in found)
    clause.require(got == wanted, f"one score each of {wanted}", f"{got}")


def _tiny(case: Case) -> Model:
    """With an encoder where samples have a source."""
    heads = case.task.objective.predicts(case.specs)
    if all(case.prepared(sample).source is None for sample in case.each):
        return Model(case.tokenizers, TINY, heads)
    streams = [
        spec.name for spec in spec_table(s for specs in case.specs.values() for s in specs).values() if spec.input
    ]
    recipe = ["attention", "cross_attention", "feed_forward"]
    return Model(case.tokenizers, {**TINY, "recipe": recipe}, heads, encoder=TINY, source=streams)


def has_baselines_of_its_metrics(case: Case) -> None:
    """Baselines are finite numbers by metric and method."""
    clause = case.clause("baselines", "Return {metric: {method: value}}.")
    names = {metric.name for metric in case.task.metrics}
    with clause.sound("finite values by metric and method"):
        found = case.task.baselines()
        clause.require(set(found) <= names, f"metrics of {sorted(names)}", sorted(found))
        for methods in found.values():
            finite = bool(methods) and all(math.isfinite(value) for value in methods.values())
            clause.require(finite, "finite values by method", shown(dict(methods)))


CLAUSES: tuple[Callable[[Case], None], ...] = (
    splits_are_sound,
    rebuilds,
    prepares,
    prompts,
    scores,
    has_baselines_of_its_metrics,
)
