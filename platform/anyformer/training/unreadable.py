"""What a run does about a training sample that cannot be read: stop, or take another one instead, up to a share.

What is taken instead follows from the seed and the sample alone, and what was found is written into the checkpoint, so
that a resumed run passes over the same samples, even if a file was mended in between.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from anyformer.errors import ConfigError, SampleError, unknown

TYPES = ("stop", "skip")
SHARE = 0.001

Found = tuple[str, int, str]
"""Task, index among its training samples, and what is wrong with it."""


class Unreadable:
    """Samples that were passed over, by task and index. share: how many of a task's may be; 0 stops at the first."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        settings = dict(config)
        kind = settings.pop("type", "stop")
        if kind not in TYPES:
            raise unknown("type of unreadable", str(kind), TYPES)
        share = settings.pop("share", SHARE) if kind == "skip" else 0.0
        for key in settings:
            raise unknown(f"setting of unreadable {kind!r}:", key, ["share"] if kind == "skip" else [])
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share < 1:
            raise ConfigError(f"unreadable has {share=}; expected a share from 0 to less than 1.")
        self.share = float(share)
        self.sizes: dict[str, int] = {}
        self.found: dict[str, dict[int, str]] = {}

    @property
    def skips(self) -> bool:
        return self.share > 0

    def knows(self, task: str, index: int) -> bool:
        return index in self.found.get(task, {})

    def note(self, found: Iterable[Found]) -> None:
        """Write down; SampleError where they are more than the task's share."""
        for task, index, reason in found:
            if self.knows(task, index):
                continue
            known = self.found.setdefault(task, {})
            known[index] = reason
            size = self.sizes[task]
            most = int(self.share * size)
            told = f"{len(known)} of at most {most} ({self.share:g} of {size})"
            if len(known) > most:
                raise SampleError(f"{reason} Unreadable samples of task {task!r}: {told}. Mend them, or raise share.")
            warnings.warn(f"Passed over: {reason} Unreadable samples of task {task!r}: {told}.", stacklevel=2)

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {task: dict(sorted(known.items())) for task, known in sorted(self.found.items())}

    def restore(self, state: Mapping[str, Mapping[int, str]]) -> None:
        self.found = {task: dict(known) for task, known in state.items()}
