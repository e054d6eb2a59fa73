"""What a run tells of its tokens counts both axes: what an encoder reads is read."""

from __future__ import annotations

import torch

from anyformer.batch import Example, pack
from anyformer.tokens import Tokens
from anyformer.training.tally import Tally


def example(task: str, length: int, source: int | None = None) -> Example:
    tokens = Tokens.of("text", torch.zeros(length, dtype=torch.int64))
    return Example(tokens, {}, source=None if source is None else example("", source), task=task)


def test_tokens_of_the_source_are_their_tasks():
    tally = Tally()
    tally.add(pack([example("told", 2, source=6), example("said", 4)], pad_to=10), {})
    assert tally.tokens == 16 and tally.task_tokens == {"told": 8, "said": 4}
    assert tally.share("told") == 2 * tally.share("said") == 0.5
