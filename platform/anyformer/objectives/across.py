"""From a source, which an encoder reads, to a target, which a decoder says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from anyformer.batch import Example
from anyformer.contracts import Loss
from anyformer.errors import ConfigError, SampleError
from anyformer.model import ForwardPass
from anyformer.objectives.knowing import Knowing, Symbols, fraction, frozen, main_stream
from anyformer.objectives.loss import count, read_and_compare
from anyformer.tokens import Stream, StreamSpec, Tokens


def across(source: Tokens, symbols: Symbols, start: int, wanted: Tensor | None) -> Example:
    """An encoder-decoder's example: the target shifted one slot on, behind `start`, so that each of its values is read
    from the slot before it (arXiv:1706.03762 §3.1). None for a prompt.

    wanted: int64[values]. Where it opens with `start` itself, that is given rather than said; where it does not close
    with the stream's end, the end is added.
    """
    read = Example(source, {}, source.length)  # the encoder sees both sides
    if wanted is None:
        return Example(Tokens.of(symbols.name, torch.tensor([start])), {}, source=read)
    said = wanted[1:] if len(wanted) and int(wanted[0]) == start else wanted
    end = symbols.spec.end
    if end is not None and (not len(said) or int(said[-1]) != end):
        said = torch.cat((said, torch.tensor([end])))
    if not len(said):
        raise SampleError(f"A target in stream {symbols.name!r} is empty, and the stream has no end to say.")
    given = torch.cat((torch.tensor([start]), said[:-1]))
    return Example(Tokens.of(symbols.name, given), {symbols.name: Stream.whole(said)}, source=read)


@dataclass
class SequenceToSequence(Knowing):
    """One field from all the others, which stand on the source axis (translation, summaries, T5's every task).

    target: the field that is predicted. start: the role of the value that opens it: "start"; "pad" in T5's
    vocabularies, "end" in BART's. smoothing: the part of the wanted probability that goes to all values alike (0.1
    in arXiv:1706.03762 §5.4).
    """

    target: str = "target"
    start: str = "start"
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        fraction("sequence_to_sequence", smoothing=self.smoothing)

    def predicts(self, specs: Mapping[str, Sequence[StreamSpec]]) -> list[str]:
        return [main_stream(frozen(specs), self.target).name]

    def learn(self) -> None:
        self._symbols = Symbols(main_stream(self.specs, self.target))
        self._start = self._symbols.value(self.start)

    def length(self, lengths: Mapping[str, int]) -> int:
        return sum(lengths.values()) + 1  # a start or an end; a target that brings its own is shorter

    def prepare(self, tokens: Mapping[str, Tokens], rng: np.random.Generator) -> Example:
        _ = self.specs
        source = Tokens.laid_end_to_end([part for name, part in tokens.items() if name != self.target])
        if not source.length:
            raise SampleError(
                f"sequence_to_sequence needs a source for {self.target!r}, but the sample has no other field."
            )
        if self.target not in tokens:
            return across(source, self._symbols, self._start, None)
        return across(source, self._symbols, self._start, tokens[self.target].streams[self._symbols.name].values)

    def loss(self, forward: ForwardPass, targets: Mapping[str, Stream]) -> Loss:
        if not self.smoothing:
            return super().loss(forward, targets)
        parts = [read_and_compare(forward, name, t, self.smoothing) for name, t in targets.items()]
        total, nats = (torch.stack(sums).sum() for sums in zip(*parts, strict=True))
        return Loss(total, count(targets), {"nats": nats})


class OfOneText(Knowing):
    """Objectives that make source and target of one text. text: the field."""

    text: str
    start: str

    def predicts(self, specs: Mapping[str, Sequence[StreamSpec]]) -> list[str]:
        return [main_stream(frozen(specs), self.text).name]

    def learn(self) -> None:
        spec = main_stream(self.specs, self.text)
        self._symbols = Symbols(spec)
        self._start = self._symbols.value(self.start)

    def length(self, lengths: Mapping[str, int]) -> int:
        """Each value on one of the axes, and the target's start or end."""
        return lengths.get(self.text, 0) + 1

    def stream(self, tokens: Mapping[str, Tokens]) -> Stream:
        """The text's own stream; it must be a sequence of values, one a slot, and have an ordinary one."""
        _ = self.specs
        name = self._symbols.name
        if self.text not in tokens or name not in tokens[self.text].streams:
            raise SampleError(f"{type(self).__name__} needs the field {self.text!r}; the sample has {sorted(tokens)}.")
        stream = tokens[self.text].streams[name]
        if len(stream.values) != len(stream.slots):
            raise ConfigError(f"Stream {name!r} has fewer slots than values; it cannot be corrupted value by value.")
        if not self._symbols.are_ordinary(stream.values.numpy()).any():
            raise SampleError(f"A text in the field {self.text!r} has no ordinary value to predict; drop it.")
        return stream

    def example(self, source: np.ndarray, wanted: np.ndarray | None) -> Example:
        """source, wanted: int64[values]"""
        read = Tokens.of(self._symbols.name, torch.from_numpy(source))
        return across(read, self._symbols, self._start, None if wanted is None else torch.from_numpy(wanted))


def inner(values: np.ndarray, ordinary: np.ndarray) -> slice:
    """The text between what its tokenizer's template put around it; `ordinary`: bool[values], one of them true."""
    where = np.flatnonzero(ordinary)
    return slice(int(where[0]), int(where[-1]) + 1)
