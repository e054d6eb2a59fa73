"""anyformer: anything that can be tokenized goes through one transformer.

Names are imported when first used, so `import anyformer` costs milliseconds and no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anyformer.contracts import Tokenizer
    from anyformer.model import Model

__version__ = "0.1.0"

_PUBLIC = {
    "anyformer.tokens": ["Stream", "StreamSpec", "Tokens"],
    "anyformer.mask": ["Mask"],
    "anyformer.batch": ["Batch", "Example", "pack"],
    "anyformer.episode": ["Episode"],
    "anyformer.contracts": ["Loss", "Metric", "Objective", "Sample", "Score", "Study", "Task", "Tokenizer", "prepare"],
    "anyformer.registry": ["register_objective", "register_study", "register_task", "register_tokenizer"],
    "anyformer.architecture": ["Architecture", "BackboneConfig", "HeadConfig", "StreamConfig"],
    "anyformer.backbone": ["Backbone"],
    "anyformer.model": ["GREEDY", "Beams", "ForwardPass", "Hypothesis", "Model", "Sampling", "Session"],
    "anyformer.checkpoint": ["load", "save"],
    "anyformer.weights": ["from_pretrained", "to_pretrained"],
    "anyformer.objectives": ["NextToken", "Prefix", "ReturnConditioned"],
    "anyformer.training": [
        "CheckpointDirectory",
        "Checkpoints",
        "Learner",
        "Mixture",
        "ProgressLines",
        "TimeBudget",
    ],
    "anyformer.evaluation": ["Report", "compare", "evaluate"],
    "anyformer.inspection": [
        *("ablate_heads", "attention_maps", "feed_forward_keys", "head_importance", "logit_lens", "look_inside"),
        "memories",
    ],
    "anyformer.testing": ["check_task", "check_tokenizer"],
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = [
    *sorted(_HOME),
    "create_model",
    "list_models",
    "list_objectives",
    "list_studies",
    "list_tasks",
    "list_tokenizers",
]


def list_tokenizers() -> list[str]:
    """Names of every tokenizer that is registered or installed."""
    return import_module("anyformer.registry").tokenizers.names()


def list_tasks() -> list[str]:
    """Names of every task that is registered or installed."""
    return import_module("anyformer.registry").tasks.names()


def list_objectives() -> list[str]:
    """Names of every objective that is registered or installed."""
    return import_module("anyformer.registry").objectives.names()


def list_studies() -> list[str]:
    """Names of every study that is registered or installed."""
    return import_module("anyformer.registry").studies.names()


def list_models() -> list[str]:
    """Names of every published architecture."""
    return import_module("anyformer.architecture").names()


def create_model(name: str, tokenizers: Mapping[str, Tokenizer] | None = None) -> Model:
    """A published architecture with random weights.

    tokenizers: fitted, by name. A stream that they bring takes the place of the architecture's own of that name, so
    that a vocabulary is the tokenizer's.
    """
    home = import_module("anyformer.architecture")
    brought = {stream.name for tokenizer in (tokenizers or {}).values() for stream in tokenizer.streams}
    return import_module("anyformer.model").Model.of(home.without(home.preset(name), brought), tokenizers)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'anyformer' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
