"""A text from a longer sequence that does not say where each of its characters stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from anyformer.batch import Example
from anyformer.contracts import Loss
from anyformer.errors import SampleError
from anyformer.model import ForwardPass
from anyformer.objectives.knowing import Knowing, Symbols, frozen, main_stream
from anyformer.objectives.loss import count
from anyformer.tokens import Stream, StreamSpec, Tokens

BLANK_ROLES = ("blank", "end")
"""What is spelled slot by slot needs no value that closes it: in a vocabulary without a blank, that one serves."""


@dataclass
class CTC(Knowing):
    """A field's ordinary values, in their order, from all others, which are laid as one sequence and seen from both
    sides: connectionist temporal classification (Graves et al. 2006, ICML, §3 and 4).

    At every slot the head says a value or the blank. A path of such answers spells what is left of it when repeats are
    made one and blanks dropped; the loss is -ln of the sum over all paths that spell the text, in nats a value.

    target: the field. Its stream has the blank among its values, by the role "blank" (`special: [blank]`), or else by
    the one that closes a text.
    """

    target: str = "text"

    def predicts(self, specs: Mapping[str, Sequence[StreamSpec]]) -> list[str]:
        return [main_stream(frozen(specs), self.target).name]

    def learn(self) -> None:
        self._symbols = Symbols(main_stream(self.specs, self.target))
        blank_of(self._symbols.spec)

    def length(self, lengths: Mapping[str, int]) -> int:
        """What is heard; the text takes no slots."""
        return sum(length for name, length in lengths.items() if name != self.target)

    def prepare(self, tokens: Mapping[str, Tokens], rng: np.random.Generator) -> Example:
        """The target has fewer values than slots: all of the sequence's are read.

        SampleError where a text has more values than there are slots to say them in, or none at all.
        """
        _ = self.specs
        together = Tokens.laid_end_to_end([part for name, part in tokens.items() if name != self.target])
        if self.target not in tokens:
            return Example(together, {}, together.length)
        said = tokens[self.target].streams[self._symbols.name].values
        values = said[torch.from_numpy(self._symbols.are_ordinary(said.numpy()))]
        require_room(self.target, values, together.length)
        heard = torch.arange(together.length)
        return Example(together, {self._symbols.name: Stream.whole(values, heard)}, together.length)

    def loss(self, forward: ForwardPass, targets: Mapping[str, Stream]) -> Loss:
        ((name, target),) = targets.items()
        sizes, slots = target.items.cpu().unbind(1)
        said = forward.read(name, target)
        return Loss(spelling(said, slots, target.values, sizes, blank_of(forward.model.specs[name])), count(targets))


def spelling(
    said: Float[Tensor, "slots vocab"],
    slots: Int64[Tensor, " documents"],
    values: Int64[Tensor, " values"],
    sizes: Int64[Tensor, " documents"],
    blank: int,
) -> Float[Tensor, ""]:
    """-ln of the sum over all paths that spell each document's values, summed over documents (Graves et al. 2006, eq. 3
    and 8). slots, sizes: how many slots and values each has, on the CPU. They are padded for this one call alone."""
    chances = said.to(torch.promote_types(said.dtype, torch.float32)).log_softmax(-1)
    padded = pad_sequence(list(chances.split(slots.tolist())))
    return F.ctc_loss(padded, values, slots, sizes, blank=blank, reduction="sum")


def blank_of(spec: StreamSpec) -> int:
    """The value that says nothing; ConfigError where the stream has none."""
    return Symbols(spec).first(*BLANK_ROLES)


def require_room(field: str, values: Int64[Tensor, " values"], slots: int) -> None:
    """SampleError for a text that no path of so many slots spells, or that has no value."""
    needed = least_slots(values)
    if not len(values) or needed > slots:
        raise SampleError(
            f"{field!r} has {len(values)} values, which take {needed} slots with a blank between repeats; "
            f"expected 1 to {slots}, as many as the sequence has. Drop the sample, or subsample less."
        )


def least_slots(values: Tensor) -> int:
    """How many slots a text takes at least: one a value, and one for the blank between two equal ones.

    >>> least_slots(torch.tensor([7, 7, 2]))
    4
    """
    return len(values) + int((values[1:] == values[:-1]).sum())
