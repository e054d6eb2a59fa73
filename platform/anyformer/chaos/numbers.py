"""NaN and infinity in a short run: found at their step, on the samples that have them, and never committed."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import lightning as L
import numpy as np
import torch

from anyformer import checkpoint, registry
from anyformer.chaos.trial import Outcome, chance
from anyformer.contracts import Metric, Objective, Sample, Score, Split, Task
from anyformer.errors import NonFiniteError, SampleError
from anyformer.objectives import NextToken
from anyformer.testing.clause import equal_tokens
from anyformer.training import CheckpointDirectory, Checkpoints, Learner, Mixture

STEPS, SAMPLES = 12, 24
VALUES = (math.nan, math.inf, -math.inf)
PLACES = ("loss", "one sample's loss", "gradient", "one element of a gradient", "raw value", "many gradients")
POLICIES: tuple[dict[str, Any], ...] = (
    {"type": "stop"},
    {"type": "skip", "most": 3},
    {"type": "roll_back", "every": 4, "most": 3},
)


@dataclass
class Sentences(Task):
    """Texts to continue."""

    fields: ClassVar[Mapping[str, str]] = {"text": "characters"}
    modality: ClassVar[str] = "text"
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("nothing", higher_is_better=True),)

    def default_objective(self) -> Objective:
        return NextToken()

    def examples(self, split: Split) -> Sequence[Sample]:
        words = ("seven", "quick", "brown", "foxes", "jump", "over")
        return [Sample(f"{split}-{i}", {"text": " ".join(words[i % 3 : 3 + i % 4])}) for i in range(SAMPLES)]

    def score(self, model: Any, samples: Sequence[Sample]) -> Iterator[Score]:
        return iter(())


class Poison(L.Callback):
    """Spoils one step."""

    def __init__(self, place: str, step: int, value: float, pick: int) -> None:
        self.place, self.step, self.value, self.pick = place, step, value, pick
        self.before: dict[str, torch.Tensor] = {}
        self.after: dict[str, torch.Tensor] = {}
        self.keys: list[str] = []

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        learner = pl_module
        if trainer.global_step != self.step:
            return
        self.before = _copied(learner)
        self.keys += batch.keys
        if self.place in ("loss", "one sample's loss"):
            plain = learner.losses

            def spoilt(forward: Any) -> Any:
                learner.losses = plain
                if self.place == "loss":
                    return {name: _with_sum(loss, loss.sum * self.value) for name, loss in plain(forward).items()}
                forward.hidden[self.pick % len(forward.hidden)] *= self.value
                return plain(forward)

            learner.losses = spoilt

    def on_after_backward(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trainer.global_step != self.step or "gradient" not in self.place:
            return
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        for gradient in gradients if self.place == "many gradients" else [gradients[self.pick % len(gradients)]]:
            if self.place == "one element of a gradient":
                gradient.view(-1)[self.pick % gradient.numel()] = self.value
            else:
                gradient.fill_(self.value)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step + 1 and self.before and not self.after:
            self.after = _copied(pl_module)


def _with_sum(loss: Any, total: torch.Tensor) -> Any:
    from dataclasses import replace

    return replace(loss, sum=total)


def _copied(learner: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in learner.state_dict().items()}


def run(index: int, folder: Path) -> Outcome:
    """One value that is not finite, in one place, at one step, under one policy."""
    rng = chance("numbers", index)
    place, policy = PLACES[index % len(PLACES)], POLICIES[index // len(PLACES) % len(POLICIES)]
    value, step = rng.choice(VALUES), rng.randrange(STEPS)
    notes = {"where": place, "policy": policy["type"], "value": str(value)}
    if place == "raw value":
        return Outcome(_raw(value, rng.randrange(1000)), notes)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    registry.tasks._registered["chaos_sentences"] = Sentences
    mixture = Mixture({"characters": {}}, {"chaos_sentences": {}}, token_budget=64)
    learner = Learner({"dim": 16, "heads": 2, "depth": 1}, lr=1e-2, not_finite=policy)
    poison, kept = Poison(place, step, value, rng.randrange(10**6)), Checkpoints(every_n_train_steps=1)
    trainer = L.Trainer(
        accelerator="cpu", max_steps=STEPS, default_root_dir=str(folder), callbacks=[kept, poison],
        plugins=[CheckpointDirectory()], logger=False, limit_val_batches=0, enable_model_summary=False,
        enable_progress_bar=False, use_distributed_sampler=False, accumulate_grad_batches=rng.choice((1, 2)),
    )  # fmt: skip
    try:
        trainer.fit(learner, datamodule=mixture)
        told = " ".join(learner.finite.dropped)
    except NonFiniteError as error:
        told = str(error)
        if policy["type"] != "stop":
            return Outcome(f"{place} stopped the run: {told}", notes)
    return Outcome(_wrong(told, step, policy["type"], learner, poison, folder), notes)


def _wrong(told: str, step: int, policy: str, learner: Any, poison: Poison, folder: Path) -> str:
    """What promise was broken; empty if none."""
    if f"step {step};" not in told:
        return f"it was not found at step {step}: {told!r}"
    if "chaos_sentences" not in told or not any(key in told for key in poison.keys):
        return f"neither task nor sample is named: {told!r}"
    now = _copied(learner) if policy == "stop" else poison.after
    if policy != "roll_back" and any(not torch.equal(now[name], poison.before[name]) for name in now):
        return "the update was applied"
    if policy != "stop" and not any(not torch.equal(t, now[n]) for n, t in learner.state_dict().items()):
        if step < STEPS - 1:
            return "nothing was learned afterwards"
    for path in folder.rglob("manifest.json"):
        state, weights = checkpoint.read_trainer(path.parent)
        moments = [t for s in state["optimizer_states"][0]["state"].values() for t in s.values()]
        if not all(bool(tensor.isfinite().all()) for tensor in [*weights.values(), *moments]):
            return f"{path.parent} holds what is not finite"
    return ""


def _raw(value: float, pick: int) -> str:
    """A sound, a reward, a state or a return with the value in it is refused by its tokenizer, by name."""
    rng = np.random.default_rng(pick)
    for name in ("audio", "rl"):
        tokenizer = registry.tokenizers.create(name)
        examples = [tokenizer.example(rng) for _ in range(4)]
        tokenizer.fit(examples)
        for spoilt in _spoilt(examples[0], value, pick):
            try:
                tokens = tokenizer.encode(spoilt)
            except SampleError:
                continue
            if not equal_tokens(tokens, tokenizer.encode(examples[0])):  # it may lie where nothing is read
                return f"the tokenizer {name!r} takes {value} for a number"
    return ""


def _spoilt(raw: Any, value: float, pick: int) -> Iterator[Any]:
    """The raw value with one number of each of its arrays replaced."""
    from dataclasses import fields, is_dataclass, replace

    if is_dataclass(raw) and not isinstance(raw, type):
        for part in fields(raw):
            content = getattr(raw, part.name)
            if isinstance(content, np.ndarray) and content.dtype.kind == "f" and content.size:
                try:
                    yield replace(raw, **{part.name: _with(content, value, pick)})
                except SampleError:
                    continue
        return
    samples, rate = cast(tuple, raw)
    yield _with(np.asarray(samples), value, pick), rate


def _with(array: np.ndarray, value: float, pick: int) -> np.ndarray:
    spoilt = array.copy()
    spoilt.reshape(-1)[pick % spoilt.size] = value
    return spoilt
