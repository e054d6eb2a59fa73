"""The position-wise network of a block, one for all tokens or several that share them out."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from anyformer.architecture import BackboneConfig
from anyformer.errors import unknown
from anyformer.sublayers.context import Context
from anyformer.sublayers.projection import Linear, Projection

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,  # exact, by erf
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "tanh": torch.tanh,
}


def activation_named(name: str) -> Callable[[Tensor], Tensor]:
    if name not in ACTIVATIONS:
        raise unknown("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]


class FeedForward(nn.Module):
    """Two linear maps around an activation (arXiv:1706.03762 eq. 2); gated adds a second, linear branch
    that is multiplied in (arXiv:2002.05202 eq. 6)."""

    def __init__(self, config: BackboneConfig, layer: int = 0) -> None:
        super().__init__()
        self.activation, self.gated, self.layer = activation_named(config.activation), config.gated, layer
        hidden, bias = config.hidden_width, config.feed_forward_bias
        parts = {"gate": hidden, "value": hidden} if config.gated else {"whole": hidden}
        self.up = Projection(config.dim, parts, parts if bias else ())
        self.down = Linear(hidden, config.dim, bias=bias)

    def forward(self, x: Float[Tensor, "tokens dim"], context: Context) -> Float[Tensor, "tokens dim"]:
        x = self.up(x)
        if self.gated:
            gate, x = x.chunk(2, dim=-1)
            x = self.activation(gate) * x
        else:
            x = self.activation(x)
        if context.probe:
            x = context.see("feed_forward.keys", self.layer, x)
        return self.down(x)


class Experts(nn.Module):
    """A mixture of feed-forwards: each token is mapped by the `top_k` that a router likes best, weighted by its
    softmax over them (arXiv:2401.04088 §2.1).

    No token is ever dropped, so a sequence's outputs do not depend on its neighbours in the batch. The balancing loss
    is experts · Σ share of tokens · mean probability (arXiv:2101.03961 eq. 4), 1 · balance when all get equally many.
    """

    def __init__(self, config: BackboneConfig, layer: int = 0) -> None:
        super().__init__()
        self.top_k, self.balance, self.layer = config.top_k, config.balance, layer
        self.router = nn.Linear(config.dim, config.experts, bias=False)
        self.experts = nn.ModuleList(FeedForward(config, layer) for _ in range(config.experts))

    def forward(self, x: Float[Tensor, "tokens dim"], context: Context) -> Float[Tensor, "tokens dim"]:
        logits = self.router(x).float()
        best, chosen = logits.topk(self.top_k, dim=-1)
        context.see("feed_forward.experts", self.layer, chosen)
        weights = best.softmax(-1).to(x.dtype)
        mixed = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            tokens, place = (chosen == index).nonzero(as_tuple=True)
            mixed = mixed.index_add(0, tokens, expert(x[tokens], context) * weights[tokens, place, None])
        if "feed_forward.balance" in context.probe:
            context.see("feed_forward.balance", self.layer, self.balance * _imbalance(logits, chosen))
        return mixed


def _imbalance(logits: Float[Tensor, "tokens experts"], chosen: Tensor) -> Float[Tensor, ""]:
    count = logits.shape[-1]
    share = F.one_hot(chosen, count).float().mean((0, 1))
    return count * (share * logits.softmax(-1).mean(0)).sum()


def make_feed_forward(config: BackboneConfig, layer: int = 0) -> nn.Module:
    """One network, or as many as `experts` says."""
    return (Experts if config.experts else FeedForward)(config, layer)
