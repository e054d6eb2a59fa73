"""What is lost when attention heads are silenced, through the probe and never by editing weights."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from anyformer.backbone import NO_PROBE
from anyformer.batch import Batch, Example
from anyformer.errors import ConfigError
from anyformer.inspection.lens import discrete_heads
from anyformer.inspection.look import ATTENTIONS, ENCODER, evaluating, packed, watch
from anyformer.model import Network
from anyformer.sublayers import Probe
from anyformer.tokens import Stream

Heads = Collection[tuple[int, int]]
"""(layer, head) pairs, both from 0."""


@dataclass(frozen=True)
class Importance:
    """The change that silencing each head makes, by the kind of attention; positive: the model needs it here.

    measure: what changes, in words. intact: its value with every head at work.
    """

    measure: str
    intact: float
    changes: dict[str, Float[Tensor, "layers heads"]]


def without_heads(heads: Heads, site: str = "attention") -> Probe:
    """The probe that zeroes these heads' outputs before the output projection."""

    def silence(layer: int, mixed: Float[Tensor, "tokens heads head_dim"]) -> Tensor | None:
        silenced = [head for at, head in heads if at == layer]
        if not silenced:
            return None
        kept = torch.ones(mixed.shape[1], 1, dtype=mixed.dtype, device=mixed.device)
        kept[silenced] = 0
        return mixed * kept

    return {f"{site}.heads": silence}


def ablate_heads(
    model: Network, example: Example, heads: Heads, site: str = "attention", stream: str | None = None
) -> float:
    """How much worse the example is predicted with these heads silenced together (Michel et al.,
    arXiv:1905.10650); see `head_importance` for what is measured."""
    _check(heads, site, _head_counts(model, example))
    return _Judge(model, example, stream).change(without_heads(heads, site))


def head_importance(model: Network, example: Example, stream: str | None = None) -> Importance:
    """`ablate_heads` for each head by itself: one pass a head.

    Measured is the example's loss. Where it has no targets, it is the loss of the answers that the intact model gives
    itself, by the head of `stream` (by default the first head); a model without any head is measured by its hidden
    states, as the squared change in proportion to their square.
    """
    judge = _Judge(model, example, stream)
    changes = {
        site: torch.tensor(
            [[judge.change(without_heads([(at, h)], site)) for h in range(count)] for at, count in enumerate(counts)]
        )
        for site, counts in _head_counts(model, example).items()
    }
    return Importance(judge.measure, judge.intact, changes)


def _head_counts(model: Network, example: Example) -> dict[str, list[int]]:
    """Heads in each layer, for each kind of attention that shows them."""
    seen = watch(model, example, [f"{site}.heads" for site in ATTENTIONS])
    counts = {site: [mixed.shape[1] for mixed in seen[f"{site}.heads"]] for site in ATTENTIONS}
    return {site: layers for site, layers in counts.items() if layers}


def _check(heads: Heads, site: str, counts: dict[str, list[int]]) -> None:
    layers = counts.get(site, [])
    for layer, head in heads:
        if not (0 <= layer < len(layers) and 0 <= head < layers[layer]):
            have = f"{len(layers)} layers of {layers[0]} heads" if layers else "no heads"
            raise ConfigError(f"There is no head {head} in layer {layer} of {site!r}, which has {have}.")


class _Judge:
    """One example, and how well a pass predicts it."""

    def __init__(self, model: Network, example: Example, stream: str | None) -> None:
        self.model, self.batch = model, packed(model, example)
        with torch.no_grad(), evaluating(model):
            self.memory = None if self.batch.source is None else model.encode(self.batch.source)
            hidden = self._hidden(NO_PROBE)
            self.measure, self.error = _yardstick(model, self.batch, hidden, stream)
            self.intact = self.error(hidden)

    def change(self, probe: Probe) -> float:
        with torch.no_grad(), evaluating(self.model):
            return self.error(self._hidden(probe)) - self.intact

    def _hidden(self, probe: Probe) -> Float[Tensor, "tokens dim"]:
        """The source is read again only where the probe reaches into its encoder."""
        inside = any(site.startswith(ENCODER) for site in probe)
        memory = self.model.encode(self.batch.source, probe) if inside and self.batch.source else self.memory
        return self.model.decode(self.batch, memory, probe=probe)


def _yardstick(
    model: Network, batch: Batch, hidden: Float[Tensor, "tokens dim"], stream: str | None
) -> tuple[str, Callable[[Tensor], float]]:
    """What is measured, in words, and how, from hidden states."""
    targets = [
        (name, target)
        for named in batch.targets.values()
        for name, target in named.items()
        if name in model.architecture.heads and len(target.values) == len(target.slots)
    ]
    if targets:
        return "loss per target", lambda states: _error(model, targets, states)
    names = [stream] if stream else [*discrete_heads(model), *model.architecture.heads][:1]
    if names:
        said = model.read(names[0], hidden)
        answers = said.argmax(-1) if model.specs[names[0]].is_discrete else said
        own = [(names[0], Stream.whole(answers, torch.arange(len(hidden), device=hidden.device)))]
        return f"loss per slot of the model's own answers ({names[0]})", lambda states: _error(model, own, states)
    square = float(hidden.pow(2).mean())
    return (
        "relative squared change of the hidden states",
        lambda states: float((states - hidden).pow(2).mean()) / square,
    )


def _error(model: Network, targets: list[tuple[str, Stream]], hidden: Tensor) -> float:
    """Cross-entropy (nats) of discrete targets, squared error of continuous ones, per target."""
    total, count = 0.0, 0
    for name, target in targets:
        said = model.read(name, hidden[target.slots]).float()
        if target.values.is_floating_point():
            total += float((said - target.values).pow(2).flatten(1).mean(1).sum())
        else:
            total += float(F.cross_entropy(said, target.values, reduction="sum"))
        count += len(target.values)
    return total / count
