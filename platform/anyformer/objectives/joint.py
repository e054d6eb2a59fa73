"""A text from what is heard, said twice: slot by slot behind the encoder, and value by value by the decoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from anyformer.batch import Example
from anyformer.contracts import Loss
from anyformer.errors import ConfigError
from anyformer.model import ForwardPass, Network
from anyformer.objectives.across import SequenceToSequence
from anyformer.objectives.ctc import blank_of, require_room, spelling
from anyformer.objectives.knowing import Symbols, fraction
from anyformer.sublayers import Memory
from anyformer.tokens import Stream, Tokens


@dataclass
class CTCAndAttention(SequenceToSequence):
    """One encoder learns from both (Watanabe et al. 2017, doi:10.1109/JSTSP.2017.2763455, eq. 13; Kim et al. 2017,
    arXiv:1609.06773): λ · (-ln p_ctc(text)) + (1 - λ) · (-ln p_attention(text)), over the same values, the end among
    them. CTC keeps the alignment from left to right, attention knows what was said before.

    The text has one head, which reads the decoder's states and the encoder's, so both are as wide as each other; the
    blank is a value of the role "blank", or else the one that closes a text.

    weight: λ, 0.3 there.
    """

    target: str = "text"
    weight: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        fraction("ctc_and_attention", weight=self.weight)

    def learn(self) -> None:
        super().learn()
        blank_of(self._symbols.spec)

    def prepare(self, tokens: Mapping[str, Tokens], rng: np.random.Generator) -> Example:
        """SampleError, too, where a text has more values than there are slots to say them in, or none at all."""
        example = super().prepare(tokens, rng)
        if example.targets and example.source is not None:
            said = example.targets[self._symbols.name].values
            ordinary = self._symbols.are_ordinary(said.numpy())
            require_room(self.target, said[torch.from_numpy(ordinary)], example.source.tokens.length)
        return example

    def loss(self, forward: ForwardPass, targets: Mapping[str, Stream]) -> Loss:
        ((name, target),) = targets.items()
        attention, spelled = super().loss(forward, targets), spelled_behind_encoder(forward, name, target)
        total = self.weight * spelled + (1 - self.weight) * attention.sum
        return Loss(total, attention.count, {**attention.parts, "ctc": spelled, "attention": attention.sum})


def spelled_behind_encoder(forward: ForwardPass, name: str, target: Stream) -> Float[Tensor, ""]:
    """`spelling` of the ordinary values of each item of a decoder's target, read from its document's source."""
    if forward.memory is None:
        raise ConfigError("ctc_and_attention reads what an encoder has heard; the batch has no source.")
    sizes = target.items.cpu()[:, 0]
    first = target.slots.cpu()[sizes.cumsum(0) - sizes]
    mask = forward.batch.mask
    heard = forward.memory.select(mask.document_of(mask.queries)[first].tolist())
    symbols = Symbols(forward.model.specs[name])
    ordinary = ~torch.isin(target.values, torch.tensor(symbols.reserved, device=target.values.device))
    item = torch.arange(len(sizes)).repeat_interleave(sizes)
    spoken = torch.bincount(item[ordinary.cpu()], minlength=len(sizes))
    said = told_by_encoder(forward.model, heard, name)
    return spelling(said, torch.tensor(heard.lengths), target.values[ordinary], spoken, blank_of(symbols.spec))


def told_by_encoder(model: Network, memory: Memory, name: str) -> Float[Tensor, "source vocab"]:
    """What the head of a stream says at every slot of the source; ConfigError where it is not as wide as that."""
    width = model.backbone.config.width
    if memory.states.shape[1] != width:
        raise ConfigError(
            f"The encoder is {memory.states.shape[1]} wide and the decoder {width}; expected the same, because one "
            f"head of {name!r} reads both."
        )
    return model.read(name, memory.states)
