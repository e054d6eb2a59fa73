"""Parts of a model by name: to freeze them, to begin with another's, to adapt them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from anyformer.errors import ConfigError, unknown
from anyformer.model.network import Network, module_key
from anyformer.sublayers.normalisation import RMSNorm

NORMS = (nn.LayerNorm, RMSNorm, nn.GroupNorm, nn.BatchNorm1d)
PER_STREAM = {"embed": "embedders", "head": "heads"}


def in_parts(name: str, parts: Sequence[str]) -> bool:
    """Whether a weight of this name lies in one of the parts: `backbone`, `encoder`, `embed`, `head`, the last two also
    of one stream, `embed.text`; or what lies within, `backbone.blocks.0`.

    >>> [in_parts(f"embedders.{name}.table.weight", ["embed.text"]) for name in ("text", "text2")]
    [True, False]
    """
    return any(name == place or name.startswith(f"{place}.") for place in map(_place, parts))


def check_parts(model: Network, parts: Sequence[str]) -> None:
    """ConfigError for a part that the model has not."""
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    streams = [f"{part}.{name}" for part in PER_STREAM for name in model.specs]
    known = [one for one in ("backbone", "encoder", *PER_STREAM, *streams) if any(in_parts(n, [one]) for n in names)]
    for part in parts:
        if not any(in_parts(name, [part]) for name in names):
            raise unknown("part of the model", part, known)


def freeze(model: Network, parts: Sequence[str], norms: bool = False) -> None:
    """Let nothing in these parts be trained, except norms unless `norms` says so: scales and shifts are few, and enough
    to fit a frozen stack to what it never saw (arXiv:2103.05247 §2.2). A head that shares a frozen table is frozen too.

    ConfigError for an unknown part, and where nothing is left to train.
    """
    check_parts(model, parts)
    spared = set() if norms else {id(parameter) for parameter in norm_parameters(model)}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if in_parts(name, parts) and id(parameter) not in spared:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(f"freeze={list(parts)} leaves nothing of the model to train; leave a part out.")


def norm_parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    """Scales and shifts of all norms."""
    for module in model.modules():
        if isinstance(module, NORMS):
            yield from module.parameters(recurse=False)


def _place(part: str) -> str:
    """Where a part's weights are: the beginning of their names."""
    kind, _, stream = part.partition(".")
    if kind not in PER_STREAM:
        return part
    return f"{PER_STREAM[kind]}.{module_key(stream)}" if stream else PER_STREAM[kind]
