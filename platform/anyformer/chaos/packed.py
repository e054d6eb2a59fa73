"""The same samples, asked about alone, together, in another order, in packs of other sizes, beside other tasks'."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import torch

from anyformer.batch import Example, pack
from anyformer.chaos.tiny import KINDS, Run
from anyformer.chaos.trial import Outcome, chance
from anyformer.contracts import Sample, Task, prepare
from anyformer.model import ForwardPass, Model
from anyformer.tokens import Tokens

CLOSE = 1e-5  # relative, of a sample's score
TIE = 1e-4  # between the two likeliest values, below which either may be said
STREAM = "characters"


def run(index: int, folder: Path) -> Outcome:
    """Scores and likelihoods are the same, and so is what is written, but where two values are as good as equal."""
    rng, kind = chance("packing", index), list(KINDS)[index % len(KINDS)]
    torch.set_num_threads(1)
    mixture = Run(str(folder), kind=kind).mixture()
    mixture.setup()
    torch.manual_seed(index)
    backbone = {"dim": 32, "heads": 2, "depth": 2, "positions": {"type": rng.choice(["rotary", "sinusoidal", "none"])}}
    model, notes = Model(mixture.tokenizers, backbone, mixture.heads()).eval(), {"of": kind}
    with torch.no_grad():
        tasks = list(mixture.tasks.values())
        failures = [*_scored(model, tasks, rng), *_likely(model, tasks, rng), *_written(model, tasks, rng)]
    return Outcome(" ".join(failures), notes)


def _groups(samples: Sequence[Sample], rng: Random) -> Iterator[tuple[str, list[Sequence[Sample]]]]:
    """Ways to ask: in which order, and how many at once."""
    turned = rng.sample(samples, len(samples))
    cuts = sorted(rng.sample(range(1, len(samples)), 3))
    yield "alone", [[sample] for sample in samples]
    yield "in another order", [turned]
    yield "in other batches", [turned[a:b] for a, b in zip([0, *cuts], [*cuts, len(samples)], strict=True)]


def _scored(model: Model, tasks: Collection[Task], rng: Random) -> Iterator[str]:
    for task in tasks:
        samples = task.examples("test")
        whole = {score.id: score.value for score in task.score(model, samples)}
        for how, groups in _groups(samples, rng):
            found = {score.id: score.value for group in groups for score in task.score(model, group)}
            off = max(_apart(whole[key], found.get(key, math.inf)) for key in whole)
            if off > CLOSE:
                yield f"{task.modality}: asked {how}, scores differ by {off:.1e}."


def _likely(model: Model, tasks: Collection[Task], rng: Random) -> Iterator[str]:
    """Of the examples of all tasks, mixed in packs of any size."""
    examples = [
        prepare("", task, model.tokenizers, sample, np.random.default_rng(0))
        for task in tasks
        for sample in task.examples("test")[:8]
    ]
    whole = [nats for nats, _ in model.log_likelihoods(examples)]
    for budget in (1, rng.randrange(20, 200), rng.randrange(200, 2000)):
        order = rng.sample(range(len(examples)), len(examples))
        found = model.log_likelihoods([examples[place] for place in order], budget)
        off = max(_apart(whole[place], nats) for place, (nats, _) in zip(order, found, strict=True))
        if off > CLOSE:
            yield f"In packs of {budget} tokens likelihoods differ by {off:.1e}."


def _written(model: Model, tasks: Collection[Task], rng: Random) -> Iterator[str]:
    """Greedily, behind a picture, a sound or the beginning of a text."""
    prompts = []
    for task in tasks:
        if STREAM in task.fields.values():
            prompts += [_prompt(model, task, sample, rng) for sample in task.examples("test")[:8]]
    together = _said(model, prompts) if prompts else []
    order = rng.sample(range(len(prompts)), len(prompts))
    turned = _said(model, [prompts[place] for place in order]) if prompts else []
    for place, prompt in enumerate(prompts):
        for other in (_said(model, [prompt])[0], turned[order.index(place)]):
            if other != together[place] and (margin := _margin(model, prompt, together[place], other)) >= TIE:
                yield f"Another value is written, though the likeliest is ahead by {margin:.1e}."


def _prompt(model: Model, task: Task, sample: Sample, rng: Random) -> Example:
    if "text" in sample.values:
        return Example(model.tokenizers[STREAM].encode(sample.values["text"][: rng.randint(1, 5)]), {})
    asked = {name: raw for name, raw in sample.values.items() if task.fields[name] != STREAM}
    return prepare("", task, model.tokenizers, replace(sample, values=asked), np.random.default_rng(0))


def _said(model: Model, prompts: Sequence[Example]) -> list[list[int]]:
    return [said.streams[STREAM].values.tolist() for said in model.generate(prompts, STREAM, 12)]


def _margin(model: Model, prompt: Example, one: Sequence[int], other: Sequence[int]) -> float:
    """How far the likeliest value is ahead of the next one, where two texts part."""
    same = next(i for i, (a, b) in enumerate(zip([*one, -1], [*other, -1], strict=False)) if a != b)
    tokens = Tokens.laid_end_to_end([prompt.tokens, Tokens.of(STREAM, torch.tensor(one[:same], dtype=torch.int64))])
    hidden = ForwardPass(model, pack([Example(tokens, {}, prompt.prefix)], model.rank)).hidden[-1]
    first, second = model.read(STREAM, hidden[None])[0].topk(2).values.tolist()
    return first - second


def _apart(one: float, other: float) -> float:
    return abs(one - other) / max(1e-6, abs(one))
