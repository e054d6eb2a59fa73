"""What a causal model tells of several sequences of one sample (GPT's fine-tuning, Radford et al. 2018 figure 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from anyformer.errors import ConfigError, SampleError, unknown
from anyformer.model import ForwardPass
from anyformer.objectives.classification import Traversal
from anyformer.tokens import Stream, StreamSpec, Tokens


@dataclass
class Similarity(Traversal):
    """How alike two texts are, which have no order: both orders go through the model, and what stands behind the last
    slot of either is added before it is read (§3.3); regression where the label is a row.

        start A delimiter B extract        start B delimiter A extract

    target, weight: as for `traversal`; the language model's loss is of both orders.
    """

    target: str = "label"
    weight: float = 0.5

    def length(self, lengths: Mapping[str, int]) -> int:
        return 2 * super().length(lengths)

    def texts(self, tokens: Mapping[str, Tokens]) -> list[Tokens]:
        pair = [name for name in tokens if name != self.target]
        if len(pair) != 2:
            raise SampleError(
                f"similarity compares two texts; the sample has {len(pair)}: {', '.join(pair) or 'none'}."
            )
        return [self.laid({name: tokens[name] for name in order})[0] for order in (pair, pair[::-1])]

    def read(self, forward: ForwardPass, name: str, target: Stream) -> Tensor:
        """A label from the sum of the hidden states of both orders, all else at its own slot."""
        if len(target.values) == len(target.slots):
            return super().read(forward, name, target)
        return forward.model.read(name, forward.hidden[target.slots].unflatten(0, (-1, 2)).sum(1))


@dataclass
class Choice(Traversal):
    """Which of several answers is the right one: each goes through the model behind what is given, what stands behind
    its last slot is made one number, and a softmax over the answers makes them probabilities (§3.3).

        start given delimiter answer 1 extract        start given delimiter answer 2 extract        …

    answers: the fields of which each may hold one; a sample need not have all. Of the others, what is given: texts one
    behind the other without a value between them (a document and a question). target: the field that tells the place
    of the right one among those there are, from 0; its stream has one feature. weight: as for `traversal`.
    """

    target: str = "choice"
    weight: float = 0.5
    answers: Sequence[str] = field(default_factory=lambda: ["first", "second"])

    def predicts(self, specs: Mapping[str, Sequence[StreamSpec]]) -> list[str]:
        for name in self.answers:
            if name not in specs:
                raise unknown("field", name, specs)
        own, *others = super().predicts(specs)
        (spec,) = (spec for spec in specs[self.target] if spec.name == own)
        if spec.features != 1:
            raise ConfigError(
                f"Field {self.target!r} has the stream {own!r} of {spec.width} values; expected one of one feature, "
                "a number for each answer, as a tokenizer of type choice has."
            )
        return [own, *others]

    def length(self, lengths: Mapping[str, int]) -> int:
        given = self._given(lengths)
        before = {"": sum(lengths[name] for name in given)} if given else {}
        return sum(super(Choice, self).length(before | {name: lengths[name]}) for name in self._answers(lengths))

    def texts(self, tokens: Mapping[str, Tokens]) -> list[Tokens]:
        answers, given = self._answers(tokens), [tokens[name] for name in self._given(tokens)]
        if not answers:
            raise SampleError(
                f"choice needs answers in the fields {list(self.answers)}; the sample has {sorted(tokens)}."
            )
        if self._layout is not None:
            given = [self._layout.bare(text) for text in given]
        before = {"": Tokens.laid_end_to_end(given)} if given else {}
        return [self.laid(before | {name: tokens[name]})[0] for name in answers]

    def label(self, tokens: Mapping[str, Tokens]) -> Tensor:
        place, count = int(tokens[self.target].streams[self._name].values), len(self._answers(tokens))
        if not place < count:
            raise SampleError(f"The right answer is number {place} of {count}, counted from 0; expected one there is.")
        return torch.tensor([place])

    def _answers(self, fields: Mapping[str, object]) -> list[str]:
        return [name for name in self.answers if name in fields]

    def _given(self, fields: Mapping[str, object]) -> list[str]:
        return [name for name in fields if name not in self.answers and name != self.target]
