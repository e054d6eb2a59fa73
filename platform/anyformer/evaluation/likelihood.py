"""Texts as a language model meets them: how likely a continuation is behind its context, and what it writes there.

One way for both kinds of model. With one axis, context and continuation stand behind each other; with an encoder the
context stands on the source axis, and the continuation behind the value that opens a target:

    TextModel(model).log_likelihoods([("The sky is", " blue"), ("The sky is", " green")])
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F

from anyformer.batch import Example, pack, within
from anyformer.errors import ConfigError, LimitError, SampleError, unknown
from anyformer.model import GREEDY, Model
from anyformer.model.spoken import first_of
from anyformer.tokens import Stream, StreamSpec, Tokens

PROBE = "a"  # any text tells which marks stand around all of them


@dataclass(frozen=True)
class Likelihood:
    """nats: the log probability of each value that was judged. greedy: whether it was the likeliest one."""

    nats: tuple[float, ...]
    greedy: tuple[bool, ...]

    @property
    def total(self) -> float:
        return sum(self.nats)

    @property
    def is_greedy(self) -> bool:
        """Whether greedy decoding would have said just this."""
        return all(self.greedy)


@dataclass(frozen=True)
class TextModel:
    """A model together with the tokenizer of its texts.

    tokenizer: its name; the first of its streams is read and written. context: the most slots of an axis, by default
    what the architecture says it is meant for; older text is left out. start: the value that opens a text without
    context, by default what the tokenizer sets before a text, else the stream's "start", else its end; with an encoder
    the value that opens a target, by default what the published config states, else "start", else "pad" (T5's).
    token_budget: slots that go through the model at once.
    """

    model: Model
    tokenizer: str = "text"
    context: int | None = None
    start: int | None = None
    token_budget: int = 8192

    def __post_init__(self) -> None:
        if self.tokenizer not in self.model.tokenizers:
            raise unknown("tokenizer", self.tokenizer, self.model.tokenizers)
        if self.context is not None and self.context < 1:
            raise ConfigError(f"context={self.context}; expected at least 1 slot.")

    @property
    def spec(self) -> StreamSpec:
        return self.model.tokenizers[self.tokenizer].streams[0]

    @cached_property
    def marks(self) -> tuple[list[int], list[int]]:
        """What the tokenizer sets before and behind every text."""
        ids = self._encoded(PROBE)
        known = {*self.spec.special.values(), self.spec.end}
        first = next((i for i, value in enumerate(ids) if value not in known), len(ids))
        behind = next((i for i, value in enumerate(reversed(ids)) if value not in known), 0)
        return ids[:first], ids[len(ids) - behind :]

    @cached_property
    def opening(self) -> int:
        """The value that a text without context, or a target sequence, begins behind."""
        special = self.spec.special
        if self.model.encoder is None:
            found = [self.start, *self.marks[0][-1:], special.get("start"), self.spec.end]
        else:
            found = [self.start, self.model.opening(self.spec.name), special.get("pad"), self.spec.end]
        opening = next((value for value in found if value is not None), None)
        if opening is None:
            raise ConfigError(f"Tokenizer {self.tokenizer!r} has no value that opens a text; give one as `start`.")
        return opening

    def pieces(self, text: str) -> list[int]:
        """The values of a text, without the marks around it."""
        if not text:
            return []
        before, behind = self.marks
        ids = self._encoded(text)
        return ids[len(before) : len(ids) - len(behind)]

    def pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """The values of both. Spaces that end the context belong to the continuation, where vocabularies have them.

        With one axis both are encoded together and parted at the context's length, so that the continuation is spelled
        as it would be in a running text; where that leaves it nothing, and with an encoder, each is encoded alone.
        """
        kept = context.rstrip()
        continuation = context[len(kept) :] + continuation
        before = self.pieces(kept)
        if self.model.encoder is None:
            together = self.pieces(kept + continuation)
            if len(together) > len(before):
                return before, together[len(before) :]
        return before, self.pieces(continuation)

    def example(self, context: str, continuation: str) -> Example:
        """One example whose targets are the continuation. LimitError if that alone is longer than the model's context,
        SampleError if it has no values."""
        before, said = self.pair(context, continuation)
        if not said:
            raise SampleError(f"The continuation {continuation!r} has no tokens; expected at least one.")
        if self.model.encoder is not None:
            return self._window([self.opening, *said], len(said), self._source(before))
        whole = [*(self.marks[0] if before else []), *before, *said]
        return self._window(whole if before else [self.opening, *said], len(said))

    def left_out(self, context: str, continuation: str) -> int:
        """How many of the context's values `example` leaves out, because the model does not read so many."""
        before, said = self.pair(context, continuation)
        marks = [len(side) for side in self.marks]
        if self.model.encoder is not None:
            longest, whole = self._longest(0), len(before) + sum(marks)
        else:
            longest, whole = self._longest(-1), (marks[0] + len(before) if before else 1) + len(said) - 1
        return 0 if longest is None else max(0, whole - longest)

    def prompt(self, context: str, room: int = 0) -> Example:
        """The context alone, to go on from, with `room` slots left for what will be written."""
        before = self.pieces(context)
        if self.model.encoder is not None:
            return Example(Tokens.of(self.spec.name, torch.tensor([self.opening])), {}, source=self._source(before))
        values = [*self.marks[0], *before] if before else [self.opening]
        longest = self._longest(-1)
        if longest is not None and room >= longest:
            raise LimitError(f"{room} new tokens leave no room for a prompt in a context of {longest}; ask for fewer.")
        return Example(Tokens.of(self.spec.name, torch.tensor(values[-(longest - room) :] if longest else values)), {})

    def windows(self, ids: Sequence[int], stride: int | None = None) -> list[Example]:
        """Examples that together have every value as a target once.

        The first holds a context full of values; each further one is moved by `stride` values, which are judged with
        all that fits before them. The last one is moved by what is left, so it looks back further than its stride. With
        stride = context, the default, these are chunks; without a context, the text is one of them.
        """
        context = self._longest(-1) or max(1, len(ids))
        stride = context if stride is None else stride
        if not 1 <= stride <= context:
            raise ConfigError(f"stride={stride} with a context of {context}; expected 1 to {context}.")
        source = None if self.model.encoder is None else self._source([])
        return [
            self._window([self.opening, *ids][begin : end + 1], end - first, source)
            for begin, first, end in window_edges(len(ids), context, stride)
        ]

    def rolling(self, texts: Sequence[str], stride: int | None = None) -> list[Likelihood]:
        """Each text as a whole, nothing but the opening value given, window by window."""
        parts = [self.windows(self.pieces(text), stride) for text in texts]
        found = iter(self.judge([window for windows in parts for window in windows]))
        return [joined([next(found) for _ in windows]) for windows in parts]

    def log_likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[Likelihood]:
        """Of each (context, continuation), the continuation."""
        return self.judge([self.example(*pair) for pair in pairs])

    @torch.no_grad()
    def judge(self, examples: Sequence[Example]) -> list[Likelihood]:
        """The targets of each example, one by one. Batches are packed up to the token budget."""
        found = []
        for part in within(examples, self.token_budget, lambda example: example.size):
            batch = pack(part, self.model.rank).to(self.model.device)
            hidden = self.model(batch)
            targets = batch.targets[""][self.spec.name]
            logits = self.model.read(self.spec.name, hidden[targets.slots]).float()
            nats = -F.cross_entropy(logits, targets.values, reduction="none")
            greedy = logits.argmax(-1) == targets.values
            sizes = [len(example.targets[self.spec.name].values) for example in part]
            for own, best in zip(nats.split(sizes), greedy.split(sizes), strict=True):
                found.append(Likelihood(tuple(own.tolist()), tuple(best.tolist())))
        return found

    def write(self, contexts: Sequence[str], max_new: int, until: Sequence[str] = ("\n",)) -> list[str]:
        """What the model writes greedily behind each context, before the first of the strings `until`."""
        prompts = [self.prompt(context, max_new) for context in contexts]
        texts = []
        for part in within(prompts, self.token_budget, lambda prompt: prompt.size + max_new):
            said = self.model.generate(part, self.spec.name, max_new, GREEDY, self._end(until))
            texts += [self.model.tokenizers[self.tokenizer].decode(tokens) for tokens in said]
        return [cut(text, until) for text in texts]

    def _end(self, until: Sequence[str]) -> int | None:
        """The value at which writing may stop: one that is a whole string of `until`, else the stream's own end."""
        for text in until:
            ids = self.pieces(text)
            if len(ids) == 1 and self._decoded(ids) == text:
                return ids[0]
        return self.spec.end

    def _encoded(self, text: str) -> list[int]:
        return self.model.tokenizers[self.tokenizer].encode(text).streams[self.spec.name].values.tolist()

    def _decoded(self, ids: Sequence[int]) -> str:
        return self.model.tokenizers[self.tokenizer].decode(Tokens.of(self.spec.name, torch.tensor(ids)))

    def _longest(self, axis: int) -> int | None:
        """Slots that fit on an axis: 0 the source, -1 the target."""
        known = self.model.architecture.context
        return self.context if self.context is not None else known[axis] if known else None

    def _source(self, ids: Sequence[int]) -> Example:
        before, behind = self.marks
        longest = self._longest(0)
        room = None if longest is None else max(1, longest - len(before) - len(behind))
        values = [*before, *(ids if room is None else ids[-room:]), *behind] or [self.opening]
        return Example(Tokens.of(self.model.architecture.source[0], torch.tensor(values)), {}, prefix=len(values))

    def _window(self, values: Sequence[int], judged: int, source: Example | None = None) -> Example:
        """The last `judged` of these values as targets, each read from the slot before it."""
        longest = self._longest(-1)
        if longest is not None and judged > longest:
            raise LimitError(f"A continuation of {judged} tokens does not fit a context of {longest}; shorten it.")
        values = values if longest is None else values[-(longest + 1) :]
        inputs, said = torch.tensor(values[:-1]), torch.tensor(values[len(values) - judged :])
        slots = torch.arange(len(inputs) - judged, len(inputs))
        return Example(Tokens.of(self.spec.name, inputs), {self.spec.name: Stream.whole(said, slots)}, source=source)


def window_edges(count: int, context: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """(begin, first, end) of each window over `count` values behind an opening one: it reads the values before `end`,
    from the one at `begin` of the opened sequence on, and judges those from `first` on.

    >>> list(window_edges(10, context=4, stride=4))
    [(0, 0, 4), (4, 4, 8), (6, 8, 10)]
    >>> list(window_edges(6, context=4, stride=1))
    [(0, 0, 4), (1, 4, 5), (2, 5, 6)]
    """
    first, end = 0, min(context, count)
    while first < count:
        yield end - min(context, end), first, end
        first, end = end, min(end + stride, count)


def joined(parts: Sequence[Likelihood]) -> Likelihood:
    return Likelihood(
        tuple(value for part in parts for value in part.nats), tuple(best for part in parts for best in part.greedy)
    )


def cut(text: str, until: Sequence[str]) -> str:
    """The text before the first of these strings.

    >>> cut("Paris\\nQ: and", ["\\n", "Q:"])
    'Paris'
    """
    return text[: first_of([mark for mark in until if mark], text)]
