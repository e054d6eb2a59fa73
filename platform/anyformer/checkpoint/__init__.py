"""A checkpoint is a directory of tensors and JSON. Nothing in it is code and nothing is unpickled.

    model.safetensors                   weights, each shared tensor once
    config.json                         the model's settings; tokenizers and tasks by registry name
    tokenizers/<name>/<file>            what each tokenizer learned
    trainer.json, trainer.safetensors   optimiser, schedule, loops, callbacks (training checkpoints only)
    manifest.json                       sha256 and size of every file, step, and its own sha256; written last

It is written beside its target, synced and renamed, so a reader sees the old one or the new one. A run keeps the one
before it as well (`.previous-last`), and a reader that finds `last` damaged says so and uses that. A URL is not read:
what it means is downloaded, verified and unpacked first (`download.py`).
"""

from anyformer.checkpoint.content import read_json, read_tensors
from anyformer.checkpoint.directory import (
    FORMAT,
    read_trainer,
    remove,
    resolve,
    sound,
    sweep,
    trainer_of,
    verify,
    write,
)
from anyformer.checkpoint.models import begin_with, describe, load, save
from anyformer.checkpoint.tokenizers import changes, check_tokenizers, load_tokenizers, tokenizer_files

__all__ = [
    "FORMAT",
    "begin_with",
    "changes",
    "check_tokenizers",
    "describe",
    "load",
    "load_tokenizers",
    "read_json",
    "read_tensors",
    "read_trainer",
    "remove",
    "resolve",
    "save",
    "sound",
    "sweep",
    "tokenizer_files",
    "trainer_of",
    "verify",
    "write",
]
