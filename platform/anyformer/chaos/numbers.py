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
from anyformer.chaos.several import both
from anyformer.chaos.trial import Outcome, chance
from anyformer.contracts import Metric, Objective, Sample, Score, Split, Task
from anyformer.errors import NonFiniteError, SampleError
from anyformer.objectives import NextToken
from anyformer.testing.clause import equal_tokens
from anyformer.training import CheckpointDirectory, Checkpoints, Learner, Mixture

STEPS, SAMPLES = 12, 24
VALUES = (math.nan, math.inf, -math.inf)
PLACES = ("loss", "one sample's loss", "gradient", "one element of a gradient", "raw value", "many gradients")
RANKED = PLACES[:4]
ALONE = 180  # trials of one process
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
    """Spoils one step, on one rank."""

    def __init__(self, place: str, step: int, value: float, pick: int, rank: int = 0) -> None:
        self.place, self.step, self.value, self.pick, self.rank = place, step, value, pick, rank
        self.before: dict[str, torch.Tensor] = {}
        self.after: dict[str, torch.Tensor] = {}
        self.keys: list[str] = []

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        learner = pl_module
        if trainer.global_step != self.step:
            return
        self.before = _copied(learner)
        if trainer.global_rank != self.rank:
            return
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
        if trainer.global_step != self.step or "gradient" not in self.place or trainer.global_rank != self.rank:
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
    """One value that is not finite, in one place, at one step, under one policy; behind `ALONE`, on one rank of two."""
    rng, kinds = chance("numbers", index), len(PLACES) if index < ALONE else len(RANKED)
    place, policy = PLACES[index % kinds], POLICIES[index // kinds % len(POLICIES)]
    value, step = rng.choice(VALUES), rng.randrange(STEPS)
    notes = {"where": place, "policy": policy["type"], "value": str(value)}
    if place == "raw value":
        return Outcome(_raw(value, rng.randrange(1000)), notes)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    registry.tasks._registered["chaos_sentences"] = Sentences
    poison, accumulation = Poison(place, step, value, rng.randrange(10**6), index // 4 % 2), rng.choice((1, 2))
    if index < ALONE:
        poison.rank = 0
        return Outcome(_spoilt_run(policy, poison, folder, accumulate_grad_batches=accumulation), notes)

    def fit(rank: int) -> None:
        torch.set_num_threads(1)
        told = _spoilt_run(policy, poison, folder, accumulate_grad_batches=accumulation, strategy="ddp", devices=2)
        (folder / f"outcome{rank}.txt").write_text(told)

    processes = both(fit, folder)
    statuses = [process.wait() for process in processes]
    files = [folder / f"outcome{rank}.txt" for rank in (0, 1)]
    told = [
        file.read_text() if file.exists() else (folder / f"rank{i}.txt").read_text() for i, file in enumerate(files)
    ]
    wrong = [f"rank {rank}: {said or status}" for rank, (said, status) in enumerate(zip(told, statuses, strict=True))]
    return Outcome(" ".join(wrong) if any(statuses) or any(told) else "", notes | {"ranks": "one of two"})


def _spoilt_run(policy: Mapping[str, Any], poison: Poison, folder: Path, **more: Any) -> str:
    """What promise was broken; empty if none."""
    mixture = Mixture({"characters": {}}, {"chaos_sentences": {}}, token_budget=64)
    learner = Learner({"dim": 16, "heads": 2, "depth": 1}, lr=1e-2, not_finite=dict(policy))
    trainer = L.Trainer(
        accelerator="cpu", max_steps=STEPS, default_root_dir=str(folder),
        callbacks=[Checkpoints(every_n_train_steps=1), poison],
        plugins=[CheckpointDirectory()], logger=False, limit_val_batches=0, enable_model_summary=False,
        enable_progress_bar=False, use_distributed_sampler=False, **more,
    )  # fmt: skip
    try:
        trainer.fit(learner, datamodule=mixture)
        told = " ".join(learner.finite.dropped)
    except NonFiniteError as error:
        told = str(error)
        if policy["type"] != "stop":
            return f"{poison.place} stopped the run: {told}"
    if trainer.world_size > 1 and f"rank {poison.rank}" not in told:
        return f"the rank is not named: {told}"
    return _wrong(told, poison.step, policy["type"], learner, poison, folder)


def _wrong(told: str, step: int, policy: str, learner: Any, poison: Poison, folder: Path) -> str:
    if f"step {step};" not in told:
        return f"it was not found at step {step}: {told!r}"
    here = poison.keys or learner.trainer.world_size == 1
    if "chaos_sentences" not in told or (here and not any(key in told for key in poison.keys)):
        return f"neither task nor sample is named: {told!r}"
    now = _copied(learner) if policy == "stop" else poison.after
    if policy != "roll_back" and any(not torch.equal(now[name], poison.before[name]) for name in now):
        return "the update was applied"
    if policy != "stop" and not any(not torch.equal(t, now[n]) for n, t in learner.state_dict().items()):
        if step < STEPS - 1:
            return "nothing was learned afterwards"
    for path in folder.rglob("manifest.json") if learner.global_rank == 0 else ():
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
