"""The logit lens: what a model would say if it stopped after each block."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from anyformer.backbone import Backbone
from anyformer.batch import Example
from anyformer.errors import unknown
from anyformer.inspection.look import evaluating, watch
from anyformer.model import Network


@dataclass(frozen=True)
class Lens:
    """The likeliest values of a stream at every depth and slot, likeliest first.

    Depth 0 is what enters the first block, depth n what leaves the n-th; the last is what the model says.
    """

    stream: str
    values: Int64[Tensor, "depths slots top"]
    probabilities: Float[Tensor, "depths slots top"]

    def __len__(self) -> int:
        return len(self.values)


def logit_lens(model: Network, example: Example, stream: str, top_k: int = 5) -> Lens | None:
    """Every block's output through the final norm and the stream's head (nostalgebraist, "interpreting GPT: the
    logit lens", 2020); None for a stack whose states are not what its heads read, as a recurrent one's."""
    check_discrete(model, stream)
    if not isinstance(model.backbone, Backbone):
        return None
    seen, final_norm = watch(model, example, ["entry", "block"]), model.backbone.final_norm
    values, probabilities = [], []
    with torch.no_grad(), evaluating(model):
        for states in (*seen["entry"], *seen["block"]):
            said = model.read(stream, final_norm(states)).float().softmax(-1)
            best = said.topk(min(top_k, said.shape[-1]), dim=-1)
            values.append(best.indices.cpu())
            probabilities.append(best.values.cpu())
    return Lens(stream, torch.stack(values), torch.stack(probabilities))


def discrete_heads(model: Network) -> list[str]:
    """Streams that the model predicts as one of several values."""
    return [name for name in model.architecture.heads if model.specs[name].is_discrete]


def check_discrete(model: Network, stream: str) -> None:
    if stream not in discrete_heads(model):
        raise unknown("predicted discrete stream", stream, discrete_heads(model))
