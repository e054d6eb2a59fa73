"""Feed-forwards as key-value memories: which of their units answer an input, and what these then promote."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from anyformer.batch import Example
from anyformer.errors import ConfigError
from anyformer.inspection.lens import check_discrete
from anyformer.inspection.look import evaluating, feed_forward_keys
from anyformer.model import Network
from anyformer.sublayers import FeedForward


@dataclass(frozen=True)
class FeedForwardMemory:
    """One hidden unit, with the value vector that it adds to the residual stream.

    network: which of the layer's feed-forwards, or experts. strength: |activation| · ‖value‖ where that is largest
    (arXiv:2203.14680). triggers: slots and the key's activation there, strongest first. promoted: values of the
    stream and how much the head's score for each rises, along the direction in which the strongest slot was pushed
    (a gated unit's activation may be negative, and then it is the value's opposite).
    """

    layer: int
    network: int
    unit: int
    strength: float
    triggers: list[tuple[int, float]]
    promoted: list[tuple[int, float]]


def memories(
    model: Network, example: Example, layer: int, stream: str, top_k: int = 8, tokens: int = 6
) -> list[FeedForwardMemory]:
    """The `top_k` units of a layer that add most to the residual stream on this input, strongest first.

    tokens: so many triggers and promoted values of each. Empty for a layer without feed-forwards.
    """
    check_discrete(model, stream)
    keys = feed_forward_keys(model, example)
    if not keys:
        return []
    if not 0 <= layer < len(keys):
        raise ConfigError(f"layer={layer}; expected one from 0 to {len(keys) - 1}.")
    values = _values(model, layer)
    activations = keys[layer].transpose(1, 2)  # [networks, hidden, slots]
    strengths = (activations.abs().amax(-1) * values.norm(dim=1)).flatten()
    best = strengths.topk(min(top_k, int((strengths > 0).sum())))
    if not len(best.indices):
        return []
    hidden = values.shape[2]
    places = [(int(i) // hidden, int(i) % hidden) for i in best.indices]
    fired = [_strongest(activations[network, unit], tokens) for network, unit in places]
    pushed = [values[n, :, u] * (1 if slots[0][1] > 0 else -1) for (n, u), slots in zip(places, fired, strict=True)]
    said = promotion(model, stream, torch.stack(pushed)).topk(min(tokens, model.specs[stream].width), dim=-1)
    return [
        FeedForwardMemory(
            layer, *places[i], float(best.values[i]), fired[i],
            list(zip(said.indices[i].tolist(), said.values[i].tolist(), strict=True)),
        )
        for i in range(len(places))
    ]  # fmt: skip


@torch.no_grad()
def promotion(model: Network, stream: str, directions: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows vocab"]:
    """How a direction of the residual stream moves a head's scores: what the head says of it beyond what it says of
    nothing. For a linear head that is the output table times the direction (arXiv:2203.14680)."""
    directions = directions.to(model.device)
    with evaluating(model):
        return (model.read(stream, directions) - model.read(stream, torch.zeros_like(directions[:1]))).float().cpu()


def _values(model: Network, layer: int) -> Float[Tensor, "networks dim hidden"]:
    """The columns of the output maps: unit u of network n adds its activation times `[n, :, u]`."""
    block = [*model.backbone.get_submodule("blocks").children()][layer]
    networks = [part for part in block.modules() if isinstance(part, FeedForward)]
    return torch.stack([network.down.weight.detach().cpu() for network in networks])


def _strongest(activations: Float[Tensor, " slots"], count: int) -> list[tuple[int, float]]:
    order = activations.abs().argsort(descending=True, stable=True)[:count].tolist()
    return [(slot, float(activations[slot])) for slot in order if activations[slot] != 0]
