"""Training by Lightning: a mixture of tasks, a learner, checkpoint directories, progress.

Names are imported when first used: a data worker needs neither a learner nor Lightning.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from anyformer.imports import lean

if TYPE_CHECKING:
    from anyformer.training.checkpointing import CheckpointDirectory, Checkpoints
    from anyformer.training.data import Mixture, fit_tokenizers, make_tokenizers
    from anyformer.training.learner import Learner
    from anyformer.training.progress import Odometer, ProgressLines, TimeBudget

lean()

_HOME = {
    "CheckpointDirectory": "checkpointing",
    "Checkpoints": "checkpointing",
    "Learner": "learner",
    "Mixture": "data",
    "Odometer": "progress",
    "ProgressLines": "progress",
    "TimeBudget": "progress",
    "fit_tokenizers": "data",
    "make_tokenizers": "data",
}

__all__ = [
    "CheckpointDirectory",
    "Checkpoints",
    "Learner",
    "Mixture",
    "Odometer",
    "ProgressLines",
    "TimeBudget",
    "fit_tokenizers",
    "make_tokenizers",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'anyformer.training' has no attribute {name!r}")
    return getattr(import_module(f"anyformer.training.{_HOME[name]}"), name)
