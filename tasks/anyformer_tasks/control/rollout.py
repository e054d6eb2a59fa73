"""Acting in gymnasium environments with a session: many episodes side by side, each with a return it should reach.

Each step appends what is new to every sequence (the last action, the return still wanted, the state) and samples
the next action (Decision Transformer, arXiv:2106.01345, Algorithm 1). The model never sees more steps than it was
trained on: when the context is full, a fresh session reads the last half of it again, because a cut cache is not
a shorter context.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from anyformer.episode import Episode
from anyformer.errors import ConfigError
from anyformer.tokens import Tokens
from anyformer_tasks.environments.attempts import Attempt, one_by_one

if TYPE_CHECKING:
    from anyformer.contracts import Tokenizer
    from anyformer.model import Model


Instead = Callable[[Callable[[], Any]], Any]
"""What is done in the place of what the model meant, which it is told when it asks."""

Step = Callable[[Mapping[Attempt, Any]], None]
"""Lets each attempt go on by its action."""


def play(
    model: Model,
    tokenizer: Tokenizer,
    stream: str,
    attempts: Sequence[Attempt],
    context: int,
    instead: Sequence[Instead] = (),
    step: Step = one_by_one,
) -> list[Episode]:
    """Act greedily in all attempts until each is over.

    stream: the action stream. context: the most steps the model may see, at least 2. instead: for each attempt, what
    is done rather than what the model meant; by default that. step: how the environments go on.
    """
    if context < 2:
        raise ConfigError(f"A rollout has context={context}; expected at least 2 steps.")
    hands = dict(zip(attempts, instead or [_as_meant] * len(attempts), strict=True))
    going = [attempt for attempt in attempts if attempt.going]
    while going:
        _play_until_full(model, tokenizer, stream, {attempt: hands[attempt] for attempt in going}, context, step)
        going = [attempt for attempt in going if attempt.going]
    return [attempt.episode() for attempt in attempts]


def _as_meant(meant: Callable[[], Any]) -> Any:
    return meant()


def _play_until_full(
    model: Model, tokenizer: Any, stream: str, hands: Mapping[Attempt, Instead], context: int, step: Step
) -> None:
    """One session: what its attempts remember, then as many steps as the context still holds."""
    attempts = list(hands)
    session = model.session(len(attempts))
    remembered = min(context // 2, len(attempts[0]))
    news = [_remembered(tokenizer, attempt, remembered) for attempt in attempts]
    for _ in range(context - remembered):
        session.append(
            [
                _behind(before, tokenizer.observe(one.wanted, one.observations[-1], len(one))) if one.going else None
                for one, before in zip(attempts, news, strict=True)
            ]
        )
        meant = [partial(tokenizer.action, row) for row in session.sample(stream).split(1)]
        actions = {one: hands[one](meant[index]) for index, one in enumerate(attempts) if one.going}
        news = [tokenizer.act(actions[one], len(one)) if one in actions else None for one in attempts]
        step(actions)
        if not any(attempt.going for attempt in attempts):
            return


def _remembered(tokenizer: Any, attempt: Attempt, steps: int) -> Tokens | None:
    """The last steps, with the returns that were wanted when they were taken."""
    if not steps:
        return None
    return tokenizer.encode(replace(attempt.episode(len(attempt) - steps), return_after=attempt.wanted))


def _behind(before: Tokens | None, tokens: Tokens) -> Tokens:
    """`tokens` after `before`, both at their own positions."""
    if before is None:
        return tokens
    streams = dict(before.streams)
    for name, stream in tokens.streams.items():
        moved = stream.shifted(before.length)
        streams[name] = type(stream).joined([streams[name], moved]) if name in streams else moved
    positions = torch.cat([before.positions, tokens.positions])
    return Tokens(streams, before.length + tokens.length, positions)
