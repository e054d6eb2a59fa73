"""Values for every parameter and persistent buffer of a reference model, so that none can be forgotten unseen."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from references.setting import Setting

GAIN = 1.6
"""A linear map's output is this times its input: attention is neither flat nor one-hot."""

TABLE = 0.3
"""Spread of embedding tables. A tied head over 48 normalised features then has logits around 2."""

POSITIONS = {r"wpe|positions?_embed|embed_positions|pos_embed": 3.0}
"""Learned positions are louder than pieces, so that no two steps of a repeated piece are alike."""


@torch.no_grad()
def fill(
    model: nn.Module,
    setting: Setting,
    scale: Iterable[tuple[str, float]] = (),
    keep: Sequence[str] = (),
    signed: Sequence[str] = (),
) -> None:
    """Overwrite all float tensors that a checkpoint holds.

    `scale`: (pattern, factor), for names in which it is found. `keep`: patterns of constants, which stay as built.
    `signed`: patterns of tensors whose elements take both signs.
    """
    for name, module, tensor in _stored(model):
        if _any(keep, name):
            continue
        own = name.rpartition(".")[2]
        values = _values(module, own, setting.parameter(name, tensor.shape))
        if _any(signed, name):
            values *= setting.parameter(f"the signs of {name}", tensor.shape).sign()
        factor = math.prod(f for pattern, f in scale if re.search(pattern, name))
        tensor.copy_(values * (factor**2 if own == "running_var" else factor))


def _stored(model: nn.Module) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Parameters and persistent buffers of floats, tied ones once."""
    state, seen = model.state_dict(), set()
    for path, module in model.named_modules():
        for own, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            name = f"{path}.{own}" if path else own
            if name in state and tensor.is_floating_point() and id(tensor) not in seen:
                seen.add(id(tensor))
                yield name, module, tensor


def _any(patterns: Sequence[str], name: str) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)


def _values(module: nn.Module, own: str, noise: Tensor) -> Tensor:
    """Standard normal noise made into plausible values of the tensor that `module` calls `own`."""
    if own == "running_var":
        return 0.5 + noise.abs()
    if noise.ndim < 2:  # a norm's weight, or a bias, or a running mean
        return 1 + noise / 4 if own == "weight" else noise / 4
    broadcast = noise.shape[0] == 1 and not isinstance(module, nn.Linear)  # such as a class token
    if isinstance(module, nn.Embedding) or broadcast:
        return TABLE * noise
    return GAIN * noise / math.sqrt(_fan_in(module, noise.shape))


def _fan_in(module: nn.Module, shape: torch.Size) -> int:
    if isinstance(module, nn.modules.conv._ConvNd):
        return math.prod(shape[1:])
    return shape[0] if type(module).__name__ == "Conv1D" else shape[-1]  # GPT's Conv1D holds [in, out]
