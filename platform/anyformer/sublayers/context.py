"""What a sublayer may know besides the vectors it maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor

from anyformer.mask import Mask
from anyformer.sublayers.cache import Cache, rows_of
from anyformer.sublayers.positions import Placement

Hook = Callable[[int, Any], Any]
"""Called with the layer and what is there; what it returns takes its place, None leaves it."""

Probe = Mapping[str, Hook]
"""Hooks by site: where to look inside a pass, or to change it.

entry: what enters the first block, `[tokens, dim]`. block: what leaves each block. hidden: behind the final norm.
attention.weights, cross_attention.weights: a list with `[heads, queries, keys]` for each document (computed for the
hook; what it returns is not used). attention.heads, cross_attention.heads: `[tokens, heads, head_dim]`, before the
output projection. feed_forward.keys: activations of the hidden units, `[tokens, hidden]`, one expert's tokens
after the other's. feed_forward.experts: which experts each token takes, `[tokens, top_k]`, before they are called.
feed_forward.balance: their load-balancing loss.
The encoder's sites are the same behind "encoder.".
"""


@dataclass(frozen=True)
class Memory:
    """The encoded source that a decoder's cross-attention reads: packed states and each document's length."""

    states: Float[Tensor, "source dim"]
    lengths: tuple[int, ...]

    def select(self, rows: Sequence[int]) -> Memory:
        """These documents, in this order, each as often as it is named."""
        where = rows_of(self.lengths, rows).to(self.states.device)
        return Memory(self.states[where], tuple(self.lengths[row] for row in rows))


@dataclass(frozen=True)
class Context:
    """One pass: where tokens stand, who sees whom, what else can be read, who looks on."""

    place: Placement
    mask: Mask
    memory: Memory | None = None
    cache: Cache | None = None
    probe: Probe = field(default_factory=dict)

    def see(self, site: str, layer: int, value: Any) -> Any:
        """The value, or what a hook of this site puts in its place."""
        hook = self.probe.get(site)
        if hook is None:
            return value
        changed = hook(layer, value)
        return value if changed is None else changed
