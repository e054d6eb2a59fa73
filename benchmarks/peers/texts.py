"""Texts, a task that trains on them, and what it costs this process and its workers to make batches of them."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

import anyformer as af
from anyformer.contracts import Metric, Sample, Task, Tokenizer
from anyformer.registry import tokenizers


@cache
def texts(size: int) -> list[str]:
    """So many characters of Python's own library, cut into texts of log-normal lengths, 400 on average."""
    whole, rng, found, at = "", np.random.default_rng(0), [], 0
    for file in sorted(Path(os.__file__).parent.glob("*.py")):
        whole += file.read_text(encoding="utf-8")
        if len(whole) >= size:
            break
    while at < min(size, len(whole)):
        length = max(20, int(rng.lognormal(np.log(400) - 0.18, 0.6)))
        found.append(whole[at : at + length])
        at += length
    return found


class Texts(Task):
    fields: ClassVar = {"text": "text"}
    modality = "text"
    metrics = (Metric("none", True),)

    def __init__(self, size: int) -> None:
        self.size = size

    def default_objective(self):
        return af.NextToken()

    def examples(self, split):
        return [Sample(str(i), {"text": text}) for i, text in enumerate(texts(self.size))]

    def score(self, model, samples):
        return iter(())


@cache
def fitted(vocab: int, size: int) -> Tokenizer:
    tokenizer = tokenizers.create("text", {"name": "text", "vocab_size": vocab})
    tokenizer.fit(texts(size)[:2000])
    return tokenizer


def mixture(tokenizer: Tokenizer, s, **more: Any) -> af.Mixture:
    if "bench_texts" not in af.list_tasks():
        af.register_task("bench_texts")(Texts)
    kinds = {"bench_texts": {"size": s.characters}}
    return af.Mixture({"text": tokenizer}, kinds, token_budget=s.budget, workers=s.workers, **more)


def spent(loader: Iterable, tokens_of: Callable[[Any], int], skipped: int, counted: int, alone: bool) -> float:
    """CPU microseconds a token, of this process and its workers, behind the first tokens: when all have begun, and
    perhaps once through the data. alone: of this process. Linux only."""
    found, seen = (batch for _ in itertools.count() for batch in loader), 0
    while seen <= skipped:
        seen += tokens_of(next(found))
    workers = [] if alone else [worker.pid for worker in multiprocessing.active_children()]
    begun, start = seen, time.process_time() + sum(map(_cpu, workers))
    while seen < begun + counted:
        seen += tokens_of(next(found))
    return (time.process_time() + sum(map(_cpu, workers)) - start) / (seen - begun) * 1e6


def _cpu(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
