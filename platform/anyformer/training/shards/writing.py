"""Shards are written in parallel, each by one job that nothing but its samples decides: a job can be done anywhere,
again, and by several at once. What is half-written has another name, and no manifest lists it."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from anyformer import checkpoint
from anyformer.checkpoint.content import own_digest, sha256
from anyformer.checkpoint.directory import write_synced
from anyformer.contracts import Split, Task, Tokenizer, encoded
from anyformer.errors import CheckpointError, ConfigError, ShardError
from anyformer.registry import tokenizers as registry
from anyformer.training.preparation import Preparation
from anyformer.training.shards.content import packed
from anyformer.training.shards.directory import (
    FORMAT,
    MANIFEST,
    TOKENIZERS,
    opened,
    settings_of,
    verify,
)

HALF = ".half-"  # before the name of a file that is being written


@dataclass(frozen=True)
class Job:
    """A shard: samples `begin` to `end` of a task's split. made_of: what else decides its bytes."""

    task: str
    split: Split
    number: int
    begin: int
    end: int
    made_of: str

    @property
    def file(self) -> str:
        return f"{self.task}/{self.split}-{self.number:05d}.safetensors"


Record = dict[str, Any]
Run = Callable[[Callable[[Job], Record], Sequence[Job]], Iterable[Record]]
"""Does jobs, in any order and anywhere, and gives what each of them returns."""


def here(work: Callable[[Job], Record], jobs: Sequence[Job]) -> Iterator[Record]:
    """In this process, one after the other."""
    return map(work, jobs)


def write(
    tasks: Mapping[str, Task],
    tokenizers: Mapping[str, Tokenizer],
    out: Path,
    splits: Sequence[Split] = ("train", "validation"),
    size: int = 8192,
    run: Run = here,
    tell: Callable[[int, int], None] = lambda done, of: None,
) -> dict[str, Any]:
    """The manifest of what was written. size: samples of a shard. tell: is told how many are done, of how many.

    Whatever an earlier start has finished is verified and kept.
    """
    if size < 1:
        raise ConfigError(f"A shard of {size} samples: expected at least 1.")
    _check(tasks, splits)
    _keep_tokenizers(tokenizers, out)
    for half in out.rglob(f"{HALF}*"):
        half.unlink(missing_ok=True)
    planned = {(task, split): _jobs(task, split, tasks[task], tokenizers, size) for task in tasks for split in splits}
    jobs = [job for of in planned.values() for job in of]
    records = {job.file: record for job in jobs if (record := _finished(out, job)) is not None}
    tell(len(records), len(jobs))
    parts = {split: Preparation(tasks, tokenizers, split, seed=0) for split in splits}
    for record in run(partial(write_shard, parts, out), [job for job in jobs if job.file not in records]):
        records[record["file"]] = record
        tell(len(records), len(jobs))
    entries = {
        name: {
            "settings": settings_of(task),
            "tokenizers": {kind: tokenizers[kind].fingerprint() for kind in dict.fromkeys(task.fields.values())},
            "splits": {split: _split(out, name, split, planned[name, split], records) for split in splits},
        }
        for name, task in tasks.items()
    }
    manifest = {"format": FORMAT, "tasks": entries}
    manifest["sha256"] = own_digest(manifest)
    _commit(out / MANIFEST, json.dumps(manifest, indent=1).encode())
    return manifest


def write_shard(parts: Mapping[Split, Preparation], out: Path, job: Job) -> Record:
    """One shard, and beside it what the manifest will say of it. SampleError names a sample that cannot be read."""
    part = parts[job.split]
    task, samples = part.tasks[job.task], part.samples(job.task)
    found = [encoded(job.task, task, part.tokenizers, samples[index]) for index in range(job.begin, job.end)]
    record: Record = {"samples": len(found), "tokens": sum(t.length for s in found for t in s.values.values())}
    record = {"file": job.file, **record, **_commit(out / job.file, packed(found)), "made_of": job.made_of}
    _commit(_beside(out / job.file), json.dumps(record).encode())
    return record


def _jobs(name: str, split: Split, task: Task, tokenizers: Mapping[str, Tokenizer], size: int) -> list[Job]:
    used = {kind: tokenizers[kind].fingerprint() for kind in task.fields.values()}
    content = {"format": FORMAT, "task": name, "settings": settings_of(task), "tokenizers": used}
    count = len(task.examples(split))
    jobs = [Job(name, split, n, at, min(at + size, count), "") for n, at in enumerate(range(0, count, size))]
    return [replace(job, made_of=own_digest(content | asdict(job))) for job in jobs]


def _finished(out: Path, job: Job) -> Record | None:
    """What an earlier start wrote for this job, if it is whole."""
    try:
        record = json.loads(_beside(out / job.file).read_text(encoding="utf-8"))
        if record["made_of"] != job.made_of:
            return None
        verify(out / job.file, record)
        return record
    except (OSError, ValueError, KeyError, TypeError, ShardError):
        return None


def _split(out: Path, task: str, split: Split, jobs: Sequence[Job], records: Mapping[str, Record]) -> dict[str, Any]:
    """A split's entry of the manifest, and its file of lengths."""
    shards = [{key: v for key, v in records[job.file].items() if key != "made_of"} for job in jobs]
    found = [opened(out / shard["file"], shard).lengths for shard in shards]
    fields = sorted({field for lengths in found for field in lengths})
    missing = [torch.full((shard["samples"],), -1) for shard in shards]
    lengths = {
        field: torch.cat([of.get(field, none) for of, none in zip(found, missing, strict=True)]).to(torch.int32)
        for field in fields
    }
    file = f"{task}/{split}.lengths.safetensors"
    return {"lengths": {"file": file, **_commit(out / file, save(lengths))}, "shards": shards}


def _check(tasks: Mapping[str, Task], splits: Sequence[Split]) -> None:
    for name, task in tasks.items():
        if not re.fullmatch(r"[\w][\w .-]*", name) or name == TOKENIZERS:
            raise ConfigError(f"A task is called {name!r}; expected a name that its shards' folder may have.")
        if "train" in splits and type(task).varied is not Task.varied:
            raise ConfigError(
                f"Task {name!r} varies its training samples each time they are seen, which shards cannot hold. "
                "Train it on raw data, or prepare its other splits only."
            )


def _keep_tokenizers(tokenizers: Mapping[str, Tokenizer], out: Path) -> None:
    """In a checkpoint's layout, without a model; ConfigError where others have encoded what lies there."""
    place = out / TOKENIZERS
    try:
        there = checkpoint.load_tokenizers(place)
    except CheckpointError:  # none, or half of them
        there = None
    if there is None:
        entries = {
            name: {"type": registry.name_of(type(t)), "config": t.config(), "fingerprint": t.fingerprint()}
            for name, t in tokenizers.items()
        }
        out.mkdir(parents=True, exist_ok=True)
        checkpoint.write(place, {}, {"tokenizers": entries}, checkpoint.tokenizer_files(tokenizers))
    elif {n: t.fingerprint() for n, t in there.items()} != {n: t.fingerprint() for n, t in tokenizers.items()}:
        raise ConfigError(f"{out}: holds shards of other tokenizers. Choose another --out, or delete it.")


def _beside(file: Path) -> Path:
    return file.with_suffix(".json")


def _commit(file: Path, data: bytes) -> Record:
    """Whole or not at all; its size and sha256."""
    half = file.with_name(f"{HALF}{uuid.uuid4().hex[:8]}-{file.name}")
    write_synced(half, data)
    half.replace(file)
    return {"bytes": len(data), "sha256": sha256(data)}
