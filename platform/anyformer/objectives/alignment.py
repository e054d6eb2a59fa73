"""Two fields of a sample brought to one place, so that either finds the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar
from zlib import crc32

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from anyformer.batch import Example
from anyformer.contracts import Loss
from anyformer.errors import ConfigError, SampleError
from anyformer.model import ForwardPass, Model
from anyformer.model.network import pooled
from anyformer.objectives.knowing import Knowing, frozen, main_stream
from anyformer.tokens import Stream, StreamSpec, Tokens

STEEPEST = 100.0
"""The most that cosines are multiplied by (CLIP, arXiv:2103.00020 §2.5)."""


class Steepness(nn.Module):
    """What cosines are multiplied by: the inverse of a temperature, learned as its logarithm (§2.3)."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor(-float(np.log(temperature))))

    def forward(self) -> Tensor:
        return self.log.exp().clamp(max=STEEPEST)


@dataclass
class ContrastivePairs(Knowing):
    """Each sample's first field is to find its second among those of the batch, and the other way round (CLIP,
    arXiv:2103.00020 figure 3): symmetric cross-entropy of cosines over a learned temperature.

    Both fields go through the same model as sequences of their own, seen from both sides, and are compared by the mean
    of their hidden states. Samples that share one of the fields are right for each other (UniCL, arXiv:2204.03610
    equations 2 and 3), so labels may stand for texts. The negatives are those of a micro-batch on all ranks: more
    ranks make the task harder, accumulation does not.

    first, second: the fields. temperature: at the beginning (§2.5).
    """

    first: str = "image"
    second: str = "text"
    temperature: float = 0.07
    steepness: Steepness | None = field(default=None, init=False, repr=False, compare=False)

    coupled: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.first == self.second or self.temperature <= 0:
            raise ConfigError(
                f"contrastive has first={self.first!r}, second={self.second!r}, temperature={self.temperature}; "
                "expected two fields and a temperature above 0."
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "steepness": None}  # it stays where it is trained

    def predicts(self, specs: Mapping[str, Sequence[StreamSpec]]) -> list[str]:
        """Nothing: hidden states are compared as they are."""
        for name in (self.first, self.second):
            main_stream(frozen(specs), name, discrete=False)
        return []

    def learn(self) -> None:
        self._name = main_stream(self.specs, self.first, discrete=False).name

    def beside(
        self, model: Model, specs: Mapping[str, Sequence[StreamSpec]], load: Callable[[str], Model]
    ) -> nn.Module | None:
        self.steepness = Steepness(self.temperature)
        return self.steepness

    def prepare(self, tokens: Mapping[str, Tokens], rng: np.random.Generator) -> Example:
        """The first field's sequence and, apart from it, the second's; of a sample that lacks one, the other alone."""
        _ = self.specs
        there = [tokens[name] for name in (self.first, self.second) if name in tokens and tokens[name].length]
        if not there:
            raise SampleError(f"contrastive needs the field {self.first!r} or {self.second!r}; got {sorted(tokens)}.")
        if len(there) == 1:
            return Example(there[0], {}, there[0].length)
        first, second = (Example(part, self._whole(part), part.length) for part in there)
        return Example(first.tokens, first.targets, first.prefix, apart=(second,))

    def _whole(self, tokens: Tokens) -> dict[str, Stream]:
        """All slots of a sequence as one item, whose value tells equal contents from others."""
        values = [stream.values.numpy().tobytes() for stream in tokens.streams.values()]
        return {self._name: Stream.whole(torch.tensor([crc32(b"".join(values))]), torch.arange(tokens.length))}

    def loss(self, forward: ForwardPass, targets: Mapping[str, Stream]) -> Loss:
        """Summed over both directions and divided by both together: the mean of the two (§2.3)."""
        if self.steepness is None:
            raise ConfigError("contrastive has no temperature yet: a Learner makes it.")
        hidden = forward.hidden
        vectors, contents = hidden[:0], torch.zeros(0, dtype=torch.int64, device=hidden.device)
        for target in targets.values():  # one, or none where only other ranks have pairs
            vectors, contents = pooled(hidden, target), target.values
        both, of = _in_pairs(F.normalize(vectors.float(), dim=-1)), _in_pairs(contents)
        everyones = gathered if forward.model.training else _here
        (one, other), (ones, others) = both.unbind(1), everyones(both).unbind(1)
        (of_one, of_other), (of_ones, of_others) = of.unbind(1), everyones(of).unbind(1)
        right = (of_one[:, None] == of_ones[None]) | (of_other[:, None] == of_others[None])
        steepness = self.steepness()
        found = towards(steepness * one @ others.T, right), towards(steepness * other @ ones.T, right)
        return Loss(found[0] + found[1], float(len(contents)))


def _in_pairs(rows: Tensor) -> Tensor:
    """[2 pairs, …], all firsts before all seconds, as [pairs, 2, …]."""
    return rows.unflatten(0, (2, len(rows) // 2)).transpose(0, 1)


def towards(logits: Float[Tensor, "rows columns"], right: Tensor) -> Tensor:
    """Cross-entropy, summed over rows, towards all that is right alike. right: bool[rows, columns]."""
    shares = right.float() / right.sum(1, keepdim=True).clamp(min=1)
    return -(shares * F.log_softmax(logits, -1)).sum()


def gathered(rows: Tensor) -> Tensor:
    """The rows of all ranks, in the ranks' order; gradients go back to where a row came from."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return rows
    return _Gathered.apply(rows, _group())


@lru_cache(maxsize=1)
def _group_beside(world: Any) -> Any:
    return torch.distributed.new_group()


def _group() -> Any:
    """A process group of its own: gradients are exchanged in the other one meanwhile, in whichever order."""
    return _group_beside(torch.distributed.group.WORLD)


def _here(rows: Tensor) -> Tensor:
    """Held-out batches are not in step over ranks, so each has its own negatives."""
    return rows


class _Gathered(torch.autograd.Function):
    """Ranks may have different numbers of rows, or none."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, group: Any) -> Tensor:
        count = torch.tensor([len(rows)], device=rows.device)
        counts = [torch.zeros_like(count) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(counts, count, group=group)
        ctx.sizes, ctx.group = [int(each) for each in counts], group
        padded = rows.new_zeros(max(1, *ctx.sizes), *rows.shape[1:])
        padded[: len(rows)] = rows
        found = [torch.empty_like(padded) for _ in ctx.sizes]
        torch.distributed.all_gather(found, padded, group=group)
        return torch.cat([each[:size] for each, size in zip(found, ctx.sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        whole = grads[0].contiguous().clone()
        torch.distributed.all_reduce(whole, group=ctx.group)
        return whole.split(ctx.sizes)[torch.distributed.get_rank()], None
