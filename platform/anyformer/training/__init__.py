"""Training by Lightning: a mixture of tasks, a learner, checkpoint directories, progress."""

from anyformer.training.checkpointing import CheckpointDirectory, Checkpoints
from anyformer.training.data import Mixture, fit_tokenizers, make_tokenizers
from anyformer.training.learner import Learner
from anyformer.training.progress import Odometer, ProgressLines, TimeBudget

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
