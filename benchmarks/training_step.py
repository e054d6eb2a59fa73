"""Tokens per second of one training step on each task of the quickstart mixture, and on all of them together.

    python benchmarks/training_step.py [--threads 2] [--rounds 5]

Every round times each mixture once, in turn, so a drift of the machine's speed falls on all alike; printed are the
median and the range over rounds. Preparation on the worker's side is timed apart from the step.
"""

from __future__ import annotations

import argparse
import statistics
import time
from itertools import islice

import torch

import anyformer as af
from anyformer import presets, registry
from anyformer.training.experiment import Experiment, read


class Contender:
    """A mixture, its model and its next batches."""

    def __init__(self, experiment: Experiment, tasks: list[str], steps: int) -> None:
        kinds = {kind for name in tasks for kind in registry.tasks.get(name).fields.values()}
        self.mixture = af.Mixture(
            **{
                **experiment.data,
                "tokenizers": {k: v for k, v in experiment.data["tokenizers"].items() if k in kinds},
                "tasks": {k: v for k, v in experiment.data["tasks"].items() if k in tasks},
            }
        )
        self.mixture.setup()
        torch.manual_seed(0)
        self.model = af.Model(self.mixture.tokenizers, experiment.model["backbone"], self.mixture.heads())
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        batches = iter(self.mixture.train_dataloader())
        next(batches)  # the first one reads the data and measures lengths
        start = time.perf_counter()
        self.batches = list(islice(batches, steps))
        self.preparing = sum(b.tokens for b in self.batches) / (time.perf_counter() - start)
        self.step(self.batches[0])

    def step(self, batch: af.Batch) -> None:
        forward = af.ForwardPass(self.model, batch)
        losses = [
            self.mixture.tasks[name].objective.loss(forward, targets).sum / batch.counts[name]
            for name, targets in batch.targets.items()
        ]
        torch.stack(losses).sum().backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def tokens_per_second(self) -> float:
        start = time.perf_counter()
        for batch in self.batches:
            self.step(batch)
        return sum(batch.tokens for batch in self.batches) / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="batches per round")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    experiment = read(presets.find("experiments", "quickstart"))
    names = list(experiment.data["tasks"])
    contenders = {
        label: Contender(experiment, tasks, arguments.steps)
        for label, tasks in [*((name, [name]) for name in names), ("all together", names)]
    }
    seen: dict[str, list[float]] = {label: [] for label in contenders}
    for _ in range(arguments.rounds):
        for label, contender in contenders.items():
            seen[label].append(contender.tokens_per_second())
    print(f"| mixture | step, tokens/s (median, range) | preparation, tokens/s |   {arguments.threads} threads")
    print("|---|---|---|")
    for label, speeds in seen.items():
        spread = f"{statistics.median(speeds):,.0f} ({min(speeds):,.0f} to {max(speeds):,.0f})"
        print(f"| {label} | {spread} | {contenders[label].preparing:,.0f} |")


if __name__ == "__main__":
    main()
