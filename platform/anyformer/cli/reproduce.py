"""`anyformer reproduce NAME`: a published result in small, as one line of JSON on stdout; everything else on stderr."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import warnings
from contextlib import redirect_stdout
from pathlib import Path

import torch

from anyformer import presets
from anyformer.errors import ConfigError
from anyformer.matrix import Matrix, fill
from anyformer.reproduction import Reproduction, reproduce


def run(arguments: argparse.Namespace) -> int:
    if arguments.threads < 1 or arguments.seed < 0:
        raise ConfigError(
            f"--threads {arguments.threads} --seed {arguments.seed}: expected at least 1, and at least 0."
        )
    chosen = _named(arguments.name)
    out = Path(arguments.out or f"runs/reproduce/{chosen.name}-{arguments.seed}")
    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore", module=r"lightning|torch")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # its advice is for those who configure it
    with redirect_stdout(sys.stderr):  # whatever a library prints, stdout holds the result alone
        if isinstance(chosen, Matrix):
            result = fill(chosen, out, arguments.data_dir, arguments.seed, say=_say)
        else:
            result = reproduce(chosen, out, arguments.data_dir, arguments.seed, say=_say)
    print(json.dumps(result))
    return 0


def _named(name: str) -> Reproduction | Matrix:
    """A row of a table of results, or a whole table: a file of `configs/matrices`, or another that has columns."""
    path = Path(name) if name.endswith(".yaml") else presets.root() / "matrices" / f"{name}.yaml"
    if path.is_file() and "columns" in presets.read_mapping(path, "The reproduction"):
        return Matrix.of(path)
    return Reproduction.named(name)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
