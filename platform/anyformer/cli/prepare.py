"""`anyformer prepare`: an experiment's data as shards, for `fit --data.shards=DIR`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from anyformer.contracts import SPLITS
from anyformer.errors import unknown
from anyformer.training.experiment import read
from anyformer.training.shards.cluster import on_ray
from anyformer.training.shards.writing import here, write


def run(arguments: argparse.Namespace) -> int:
    for split in arguments.splits:
        if split not in SPLITS:
            raise unknown("split", split, SPLITS)
    chosen = {} if arguments.data_dir is None else {"data_dir": arguments.data_dir}
    mixture = read(Path(arguments.config)).mixture(**chosen)
    manifest = write(
        mixture.tasks,
        mixture.tokenizers,
        Path(arguments.out),
        arguments.splits,
        arguments.samples,
        on_ray(arguments.workers, arguments.address) if arguments.workers else here,
        _tell,
    )
    for task, entry in manifest["tasks"].items():
        for split, of in entry["splits"].items():
            samples, tokens, size = (sum(s[key] for s in of["shards"]) for key in ("samples", "tokens", "bytes"))
            print(f"{task} {split}: {samples} samples, {tokens} tokens, {size} bytes in {len(of['shards'])} shards")
    return 0


def _tell(done: int, of: int) -> None:
    """Each twentieth, so that a log stays short."""
    if done == of or done % max(1, of // 20) == 0:
        print(f"{done} of {of} shards", file=sys.stderr, flush=True)
