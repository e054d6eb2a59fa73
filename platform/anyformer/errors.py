"""Every error a user can cause, as a sentence: what was expected, what came, how to mend it.

One base class, one type per domain. Anything else that escapes a public door is a defect.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class AnyformerError(Exception):
    """Base of every error that names something a user can mend."""


class ConfigError(AnyformerError, ValueError):
    """A name, field or setting is unknown or out of range."""


class PluginError(AnyformerError, ImportError):
    """A plugin could not be loaded, or two packages claim one name."""


class TokenizerError(AnyformerError, ValueError):
    """A tokenizer cannot do what was asked: not fitted, unreadable state, ids out of range."""


class SampleError(AnyformerError, ValueError):
    """One raw value is unusable: a corrupt image, empty audio, an action outside its space."""


class LimitError(SampleError):
    """A raw value is larger than the stated limit."""


class CheckpointError(AnyformerError, RuntimeError):
    """A checkpoint directory is missing, damaged, or belongs to other tokenizers."""


class ShardError(AnyformerError, RuntimeError):
    """A prepared shard, or the manifest that lists it, is missing, damaged, or made of something else."""


class WeightsError(AnyformerError, RuntimeError):
    """Published weights are missing, misshaped, of an unknown family, or say what is not built here."""


class MaskError(AnyformerError, ValueError):
    """An attention back end was asked for a mask it cannot honour."""


class NonFiniteError(AnyformerError, ArithmeticError):
    """A loss or gradient is NaN or infinite; the step was not applied."""


class ProcessError(AnyformerError, RuntimeError):
    """Another process of the run died or does not answer: a data worker, a rank."""


class MemoryLimitError(AnyformerError, RuntimeError):
    """A training step does not fit into the device's memory."""


class EvaluationError(AnyformerError, RuntimeError):
    """A task could not be scored, and nothing else was asked for."""


class ContractError(AnyformerError, AssertionError):
    """A plugin breaks its contract."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """`" Did you mean 'text'?"`, or an empty string when nothing is near.

    >>> nearest("txt", ["audio", "text"])
    " Did you mean 'text'?"
    """
    close = get_close_matches(name, list(choices), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def unknown(kind: str, name: str, choices: Iterable[str]) -> ConfigError:
    """The error for a name that is not among `choices`."""
    known = sorted(choices)
    listed = ", ".join(known) if known else "none"
    return ConfigError(f"Unknown {kind} {name!r}; expected one of: {listed}.{nearest(name, known)}")
