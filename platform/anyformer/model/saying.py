"""Answers: what is said behind prompts, round by round, by whichever strategy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import EllipsisType
from typing import Protocol

import torch

from anyformer.batch import Example
from anyformer.errors import SampleError, unknown
from anyformer.model.network import Network
from anyformer.model.sampling import Said
from anyformer.model.session import Session, begun
from anyformer.tokens import StreamSpec, Tokens


class Answer:
    """What is said behind one prompt in one stream: at most `room` values, up to and including `end`.

    history: the prompt's values of the stream, then those said.
    """

    def __init__(self, prompt: Example, stream: str, room: int, end: int | None) -> None:
        self.prompt = prompt
        self.start, self.history = behind(prompt.tokens, stream)
        self.stream, self.end, self.room = stream, end, room
        self.given = len(self.history)

    @property
    def said(self) -> list[int]:
        return self.history[self.given :]

    @property
    def done(self) -> bool:
        return self.room == 0 or (len(self.history) > self.given and self.history[-1] == self.end)

    def take(self, said: Sequence[Said]) -> list[Said]:
        """Say these, as far as the answer goes; what was taken."""
        taken = []
        for one in said:
            if self.done:
                break
            self.history.append(one.value)
            self.room -= 1
            taken.append(one)
        return taken

    def following(self, values: Sequence[int], first: int) -> Tokens:
        """Of these values behind the prompt, those from the `first` on."""
        return run_of(self.stream, values[first:], self.start + first)


class Strategy(Protocol):
    """How the next values are found: `Sampling`, `Contrastive`, `Speculative`."""

    def speak(self, session: Session, answers: Sequence[Answer]) -> Iterator[list[list[Said]]]:
        """Round by round what each answer has taken, until all are done. The session has read the prompts."""
        ...


def behind(prompt: Tokens, stream: str) -> tuple[int, list[int]]:
    """Where what follows a prompt stands, and the prompt's values of the stream."""
    had = prompt.streams.get(stream)
    return int(prompt.positions.max()) + 1, [] if had is None else had.values.tolist()


def run_of(stream: str, values: Sequence[int], position: int) -> Tokens:
    """Values of one stream from this position on."""
    laid = Tokens.of(stream, torch.tensor(values, dtype=torch.int64))
    return replace(laid, positions=laid.positions + position)


def asked(
    network: Network, prompts: Sequence[Example], stream: str, end: int | EllipsisType | None
) -> tuple[StreamSpec, int | None]:
    """The stream, and where an answer in it ends; an error for what cannot be answered."""
    spec = network.specs.get(stream)
    if spec is None or not spec.is_discrete:
        raise unknown("discrete stream", stream, [s.name for s in network.specs.values() if s.is_discrete])
    if not all(prompt.tokens.length for prompt in prompts):
        raise SampleError("A prompt is empty; expected at least one token to go on from.")
    if any(prompt.apart for prompt in prompts):
        raise SampleError(
            "A prompt is of several sequences; expected one, to go on from. Its label can be read, not said."
        )
    return spec, spec.end if isinstance(end, EllipsisType) else end


def say(
    network: Network,
    prompts: Sequence[Example],
    stream: str,
    max_new: int,
    strategy: Strategy,
    end: int | EllipsisType | None = ...,
) -> Iterator[list[list[Said]]]:
    """Round by round what is said behind each prompt. See `Model.generate`."""
    _, end = asked(network, prompts, stream, end)
    if not prompts or max_new < 1:
        return iter(())
    answers = [Answer(prompt, stream, max_new, end) for prompt in prompts]
    return _rounds(network, prompts, strategy, answers)


def _rounds(
    network: Network, prompts: Sequence[Example], strategy: Strategy, answers: Sequence[Answer]
) -> Iterator[list[list[Said]]]:
    """Without gradients while it works; whoever listens keeps their own mode in between."""
    with torch.inference_mode():
        rounds = strategy.speak(begun(network, prompts), answers)
    while True:
        with torch.inference_mode():
            found = next(rounds, None)
        if found is None:
            return
        yield found
