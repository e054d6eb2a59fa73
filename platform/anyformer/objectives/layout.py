"""Texts laid one behind the other, with values between them that say where one ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from anyformer.errors import ConfigError
from anyformer.objectives.knowing import Specs, Symbols, is_said
from anyformer.tokens import Stream, StreamSpec, Tokens


@dataclass(frozen=True)
class Layout:
    """`open A between B close`, or `open A close`: each text without what its tokenizer's template put around it.

    symbols: of the texts' stream. overlays: streams in which each slot says which text it belongs to (BERT's token
    types): open, A and what closes it are 0, B and what closes it 1.
    """

    symbols: Symbols
    open: int
    between: int
    close: int
    overlays: tuple[StreamSpec, ...] = ()

    @classmethod
    def of(cls, specs: Specs, texts: Sequence[str], roles: Sequence[Sequence[str]]) -> Layout | None:
        """The layout of these fields; None where none of them is of discrete values, which are then laid as they are.

        roles: for open, between and close, the roles that may do it, the best first.
        """
        if not texts:
            raise ConfigError(f"There is nothing to read: of the fields {sorted(specs)} all are predicted.")
        streams = [spec for field in texts for spec in specs[field]]
        own = [spec for spec in streams if is_said(spec)]
        if not own:
            return None
        symbols = Symbols(own[0])
        overlays = {spec.name: spec for spec in streams if spec.overlay and spec.is_discrete}
        return cls(symbols, *(symbols.first(*each) for each in roles), overlays=tuple(overlays.values()))

    def laid(self, texts: Sequence[Tokens]) -> tuple[Tokens, list[range]]:
        """The sequence, and the slots of each text in it."""
        bare = [self.bare(text) for text in texts]
        parts, slots, of, at = [self._value(self.open)], [], [0], 1
        for number, text in enumerate(bare):
            last = number + 1 == len(bare)
            parts += [text, self._value(self.close if last else self.between)]
            slots.append(range(at, at + text.length))
            of += [number] * (text.length + 1)
            at += text.length + 1
        together = Tokens.laid_end_to_end(parts)
        for spec in self.overlays:
            together.streams[spec.name] = Stream.whole(torch.tensor(of).clamp(max=spec.width - 1))
        return together, slots

    def _value(self, value: int) -> Tokens:
        return Tokens.of(self.symbols.name, torch.tensor([value]))

    def bare(self, text: Tokens) -> Tokens:
        """The text alone: overlays are made anew, and what stands around it is the layout's."""
        overlays = {spec.name for spec in self.overlays}
        own = {name: stream for name, stream in text.streams.items() if name not in overlays}
        if list(own) != [self.symbols.name] or len(own[self.symbols.name].values) != text.length:
            return Tokens(own, text.length, text.positions)
        where = self.symbols.are_ordinary(own[self.symbols.name].values.numpy()).nonzero()[0].tolist()
        return cut(text, self.symbols.name, where[0], where[-1] + 1) if where else cut(text, self.symbols.name, 0, 0)


def cut(text: Tokens, name: str, first: int, last: int) -> Tokens:
    """Slots first to last - 1 of a text of one stream with a value a slot, its items cut with it."""
    stream = text.streams[name]
    ends = stream.items[:, 0].cumsum(0).clamp(first, last)
    sizes = ends.diff(prepend=torch.tensor([first]))
    sizes = sizes[sizes > 0]
    positions = text.positions[first:last]
    kept = Stream(stream.values[first:last], torch.arange(last - first), torch.stack((sizes, sizes), 1))
    return Tokens({name: kept}, last - first, positions - positions[:1])


def pooled(name: str, value: torch.Tensor, slot: int, slots: int = 1) -> dict[str, Stream]:
    """A target of one value, read at one slot or at so many from it on. value: the tokens of a label's field."""
    return {name: Stream.whole(value[:1], torch.arange(slot, slot + slots))}
