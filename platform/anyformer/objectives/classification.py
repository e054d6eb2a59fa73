"""What a text is, what each of its words is, and where in it an answer stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from anyformer.batch import Example
from anyformer.contracts import Loss
from anyformer.errors import ConfigError, SampleError, unknown
from anyformer.model import ForwardPass
from anyformer.objectives.causal import from_slot_before
from anyformer.objectives.knowing import Knowing, frozen, is_said, main_stream
from anyformer.objectives.layout import Layout, pooled
from anyformer.objectives.loss import error, sum_of_means
from anyformer.tokens import Stream, StreamSpec, Tokens

CLASS_ROLES = (("class", "start"), ("separator", "end"), ("separator", "end"))
"""`[CLS] A [SEP] B [SEP]` (BERT, arXiv:1810.04805 figure 4); start and end in vocabularies without them."""

TRAVERSAL_ROLES = (("start",), ("delimiter", "separator"), ("extract", "class", "end"))
"""`start A delimiter B extract` (GPT, Radford et al. 2018 §3.3)."""

POOLINGS = ("first", "mean")

NOWHERE = -1
"""The place of an answer that there is not."""


class OfTexts(Knowing):
    """Objectives that predict a field from all the others, laid as one sequence that is seen from both sides."""

    target: str
    roles: Sequence[Sequence[str]] = CLASS_ROLES

    def predicts(self, specs: Mapping[str, Sequence[StreamSpec]]) -> list[str]:
        return [main_stream(frozen(specs), self.target, discrete=False).name]

    def learn(self) -> None:
        self._name = main_stream(self.specs, self.target, discrete=False).name
        self._layout = Layout.of(self.specs, [field for field in self.specs if field != self.target], self.roles)

    def length(self, lengths: Mapping[str, int]) -> int:
        """The texts, one value before them and one behind each; a text that brings its own is shorter."""
        texts = [length for name, length in lengths.items() if name != self.target]
        return sum(texts) + (0 if self._layout is None else len(texts) + 1)

    def laid(self, tokens: Mapping[str, Tokens]) -> tuple[Tokens, dict[str, range]]:
        """Everything but the target in one sequence, and the slots of each field."""
        _ = self.specs
        texts = {name: part for name, part in tokens.items() if name != self.target}
        if not sum(part.length for part in texts.values()):
            raise SampleError(f"There is nothing to tell {self.target!r} from: the sample has no other field.")
        if self._layout is not None:
            together, slots = self._layout.laid(list(texts.values()))
        else:
            together, ends = Tokens.laid_end_to_end(list(texts.values())), accumulate(t.length for t in texts.values())
            slots = [range(end - text.length, end) for end, text in zip(ends, texts.values(), strict=True)]
        return together, dict(zip(texts, slots, strict=True))


@dataclass
class Classification(OfTexts):
    """A label of what one field or several together hold; regression where the label is a row.

    target: the label's field; all others are read, in the task's order. pooling: where it is read, "first", the first
    slot, where a class value stands (BERT, arXiv:1810.04805 §4.1; ViT, arXiv:2010.11929 equations 1 and 4), or "mean",
    from the mean of all slots (ViT without a class token, arXiv:2205.01580).
    """

    target: str = "label"
    pooling: str = "first"

    def __post_init__(self) -> None:
        if self.pooling not in POOLINGS:
            raise unknown("pooling", self.pooling, POOLINGS)

    def prepare(self, tokens: Mapping[str, Tokens], rng: np.random.Generator) -> Example:
        together, _ = self.laid(tokens)
        if self.target not in tokens:
            return Example(together, {}, together.length)
        label = tokens[self.target].streams[self._name].values
        slots = 1 if self.pooling == "first" else together.length
        return Example(together, pooled(self._name, label, 0, slots), together.length)


@dataclass
class Traversal(OfTexts):
    """A label read behind the last of one text or several, and each text's next values as well (GPT's fine-tuning,
    Radford et al. 2018 §3.2 and 3.3): L = L(label) + weight · L(language model), equation 5; causal.

    target: the label's field. weight: λ, 0.5 there (§4.1); 0 leaves the language model out.
    """

    target: str = "label"
    weight: float = 0.5

    roles = TRAVERSAL_ROLES

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise ConfigError(f"traversal has weight={self.weight}; expected 0 or more.")

    def predicts(self, specs: Mapping[str, Sequence[StreamSpec]]) -> list[str]:
        label = super().predicts(specs)
        if not self.weight:
            return label
        read = [spec for name, streams in specs.items() if name != self.target for spec in streams]
        return [*label, *dict.fromkeys(spec.name for spec in read if spec.input and is_said(spec))]

    def prepare(self, tokens: Mapping[str, Tokens], rng: np.random.Generator) -> Example:
        texts = self.texts(tokens)
        if self.target not in tokens:
            first, *others = (Example(text, {}) for text in texts)
            return replace(first, apart=tuple(others))
        first, *others = (Example(text, self._next(text) if self.weight else {}) for text in texts)
        ends = torch.tensor([text.length for text in texts]).cumsum(0) - 1
        label = {self._name: Stream.whole(self.label(tokens), ends)}
        return replace(first, targets=label | first.targets, apart=tuple(others))

    def texts(self, tokens: Mapping[str, Tokens]) -> list[Tokens]:
        """The sequences that go through the model, each by itself; the label is read behind the last slots of all."""
        return [self.laid(tokens)[0]]

    def label(self, tokens: Mapping[str, Tokens]) -> Tensor:
        """The one value that is to be told."""
        return tokens[self.target].streams[self._name].values[:1]

    def _next(self, text: Tokens) -> dict[str, Stream]:
        own = {s.name for streams in self.specs.values() for s in streams if s.input and is_said(s)}
        return from_slot_before({name: stream for name, stream in text.streams.items() if name in own}, first=1)

    def loss(self, forward: ForwardPass, targets: Mapping[str, Stream]) -> Loss:
        sums = {name: error(self.read(forward, name, target), target.values) for name, target in targets.items()}
        label = next(iter(targets))  # as `prepare` puts it
        return sum_of_means(sums, targets, {name: 1.0 if name == label else self.weight for name in targets})


@dataclass
class TokenClassification(OfTexts):
    """A label for each word of a text, read at the word's first piece (BERT, arXiv:1810.04805 §5.3).

    target: the labels' field. Words are the items of the text's stream.
    """

    target: str = "labels"

    def prepare(self, tokens: Mapping[str, Tokens], rng: np.random.Generator) -> Example:
        together, places = self.laid(tokens)
        if self.target not in tokens:
            return Example(together, {}, together.length)
        labels = tokens[self.target].streams[self._name].values
        starts = torch.tensor([slot for slots in places.values() for slot in items_in(together, slots)[0]])
        if len(starts) != len(labels):
            raise SampleError(
                f"There are {len(labels)} labels for {len(starts)} words; expected one each. Let the text's tokenizer "
                "make each word an item (items: words), and count words as it does."
            )
        return Example(together, {self._name: Stream.whole(labels, starts)}, together.length)


@dataclass
class ExtractiveAnswer(OfTexts):
    """Where an answer begins and ends in a text: each slot of the text gets a number, and the softmax over them all
    is the probability of the first and of the last (BERT, arXiv:1810.04805 §4.2; SQuAD). The loss is −log P(start) less
    log P(end).

    target: the answer's field, with two streams of one feature, start and end. context: the text's field.
    unanswerable: whether a text may hold no answer. The first slot, where a class value stands, then competes with the
        text's, and stands for none (§4.3; SQuAD 2.0).
    """

    target: str = "answer"
    context: str = "context"
    unanswerable: bool = False

    def predicts(self, specs: Mapping[str, Sequence[StreamSpec]]) -> list[str]:
        for field in (self.target, self.context):
            if field not in specs:
                raise unknown("field", field, specs)
        names = [spec.name for spec in specs[self.target]]
        if [spec.features for spec in specs[self.target]] != [1, 1]:
            raise ConfigError(
                f"The field {self.target!r} has the streams {names}; expected two of one feature, a start and an end."
            )
        return names

    def learn(self) -> None:
        super().learn()
        self._ends = self.predicts(self.specs)

    def prepare(self, tokens: Mapping[str, Tokens], rng: np.random.Generator) -> Example:
        if self.context not in tokens:
            raise SampleError(f"extractive_answer needs the field {self.context!r}; the sample has {sorted(tokens)}.")
        together, places = self.laid(tokens)
        if self.target not in tokens:
            return Example(together, {}, together.length)
        slots = places[self.context]
        read = [0, *slots] if self.unanswerable else [*slots]
        targets = {}
        for name, found in zip(self._ends, items_in(together, slots), strict=True):
            place = self._place(int(tokens[self.target].streams[name].values), found)
            targets[name] = Stream.whole(torch.tensor([read.index(place)]), torch.tensor(read))
        return Example(together, targets, together.length)

    def _place(self, item: int, found: Sequence[int]) -> int:
        """The slot of an item, or the first of all where there is no answer."""
        if item == NOWHERE and self.unanswerable:
            return 0
        if item == NOWHERE:
            raise SampleError("A question has no answer in its text; leave it out, or set unanswerable: true.")
        if item >= len(found):
            raise SampleError(
                f"The answer stands at word {item} of {len(found)}, counted from 0. Let the context's tokenizer "
                "make each word an item (items: words), and count words as it does."
            )
        return found[item]


def items_in(tokens: Tokens, slots: range) -> tuple[list[int], list[int]]:
    """First and last slot of each item that stands in this range of slots."""
    found = []
    for stream in tokens.streams.values():
        ends = stream.items[:, 1].cumsum(0).tolist()
        for first, last in zip([0, *ends[:-1]], ends, strict=True):
            if last > first:
                edge = int(stream.slots[first]), int(stream.slots[last - 1])
                if edge[0] in slots and edge[1] in slots:
                    found.append(edge)
    found = sorted(set(found))
    return [first for first, _ in found], [last for _, last in found]
