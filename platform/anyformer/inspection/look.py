"""What passes the probe's sites while a model reads one example."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from anyformer.batch import Batch, Example, pack
from anyformer.model import Network
from anyformer.sublayers import Probe

ATTENTIONS = ("encoder.attention", "attention", "cross_attention")
"""Where there may be attention: within the source, within the sequence, from the sequence to its source."""

ENCODER = "encoder."


def watch(model: Network, example: Example, sites: Iterable[str]) -> dict[str, list[Any]]:
    """Everything that passes these sites, in the order of the layers; nothing where the model has no such site."""
    seen: dict[str, list[Any]] = {site: [] for site in sites}
    run(model, packed(model, example), {site: _append_to(values) for site, values in seen.items()})
    return seen


def _append_to(values: list[Any]):
    return lambda layer, value: values.append(value)  # it returns None, which leaves the value as it is


@torch.no_grad()
def run(model: Network, batch: Batch, probe: Probe) -> Float[Tensor, "tokens dim"]:
    """Hidden states of one pass without dropout."""
    with evaluating(model):
        return model(batch, probe=probe)


def packed(model: Network, example: Example) -> Batch:
    """The example alone, where the model is."""
    return pack([example], model.rank).to(model.device)


@contextmanager
def evaluating(model: nn.Module) -> Generator[None]:
    """In `eval` mode; every module gets back the mode it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def attention_maps(model: Network, example: Example) -> dict[str, list[Float[Tensor, "heads queries keys"]]]:
    """What each slot attends to, layer by layer, for each kind of attention that the model has.

    Keys of the result: "attention" (within the sequence), "encoder.attention" (within its source),
    "cross_attention" (from the sequence to its source). Hidden keys have exactly 0.
    """
    seen = watch(model, example, [f"{kind}.weights" for kind in ATTENTIONS])
    maps = {kind: [documents[0].cpu() for documents in seen[f"{kind}.weights"]] for kind in ATTENTIONS}
    return {kind: layers for kind, layers in maps.items() if layers}


def feed_forward_keys(
    model: Network, example: Example, site: str = "feed_forward"
) -> list[Float[Tensor, "networks slots hidden"]]:
    """Activations of the hidden units, layer by layer: the coefficients of a key-value memory's values
    (arXiv:2012.14913).

    A layer has as many networks as its recipe has feed-forwards, or experts; a slot that was not given to an expert
    has zeros there. site: "encoder.feed_forward" for those that read the source.
    """
    batch, layers = packed(model, example), {}
    stack, side = (model.encoder, batch.source) if site.startswith(ENCODER) else (model.backbone, batch)
    if stack is None or side is None:
        return []
    slots, experts = side.tokens, getattr(stack.config, "experts", 0)
    waiting: list[Tensor] = []  # the slots of each expert that is still to be called

    def place(layer: int, keys: Float[Tensor, "rows hidden"]) -> None:
        whole = keys.new_zeros(slots, keys.shape[1])
        whole[waiting.pop(0) if waiting else slice(None)] = keys
        layers.setdefault(layer, []).append(whole.cpu())

    def route(layer: int, chosen: Tensor) -> None:
        """Experts are then called one behind the other, each with the slots that take it."""
        waiting.extend((chosen == index).any(-1).nonzero()[:, 0] for index in range(experts))

    run(model, batch, {f"{site}.keys": place, f"{site}.experts": route})
    return [torch.stack(networks) for _, networks in sorted(layers.items())]
