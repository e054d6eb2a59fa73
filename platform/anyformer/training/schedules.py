"""Learning-rate schedules: step → factor on the base rate. `total_steps` may be moved while training."""

from __future__ import annotations

import inspect
import math
from typing import Any

from anyformer.errors import unknown


class WarmupCosine:
    """Linear warm-up, then half a cosine down to `floor` at `total_steps` (arXiv:1608.03983 eq. 5)."""

    def __init__(self, total_steps: int, warmup_steps: int = 100, floor: float = 0.0) -> None:
        self.total_steps, self.warmup_steps, self.floor = total_steps, warmup_steps, floor

    def __call__(self, step: int) -> float:
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class InverseSquareRoot:
    """Linear warm-up, then proportional to 1/√step (arXiv:1706.03762 eq. 3, scaled to 1 at its peak)."""

    def __init__(self, total_steps: int, warmup_steps: int = 4000) -> None:
        self.total_steps, self.warmup_steps = total_steps, warmup_steps

    def __call__(self, step: int) -> float:
        warmup = max(1, self.warmup_steps)
        return min((step + 1) / warmup, math.sqrt(warmup / (step + 1)))


class Constant:
    """Linear warm-up, then the base rate."""

    def __init__(self, total_steps: int, warmup_steps: int = 0) -> None:
        self.total_steps, self.warmup_steps = total_steps, warmup_steps

    def __call__(self, step: int) -> float:
        return min(1.0, (step + 1) / max(1, self.warmup_steps))


SCHEDULES = {"warmup_cosine": WarmupCosine, "inverse_square_root": InverseSquareRoot, "constant": Constant}


def make_schedule(config: dict[str, Any], total_steps: int):
    """A schedule from data: `{"type": "warmup_cosine", "warmup_steps": 100}`."""
    settings = dict(config)
    kind = settings.pop("type", "warmup_cosine")
    if kind not in SCHEDULES:
        raise unknown("schedule", kind, SCHEDULES)
    accepted = inspect.signature(SCHEDULES[kind]).parameters
    for key in settings:
        if key not in accepted:
            raise unknown(f"setting of the schedule {kind!r}:", key, accepted)
    return SCHEDULES[kind](settings.pop("total_steps", None) or total_steps, **settings)
