"""A step that does not fit into the device's memory ends the run with the batch size that does."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch

from anyformer.batch import Batch
from anyformer.errors import MemoryLimitError


class Room:
    """largest: tokens of the largest micro-batch that has passed."""

    def __init__(self) -> None:
        self.largest = 0

    def fitted(self, batch: Batch) -> None:
        self.largest = max(self.largest, batch.tokens)

    @contextmanager
    def needed(self, batch: Batch) -> Generator[None]:
        """MemoryLimitError instead of the device's own. Other ranks end too: they see that this one has failed."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            known = 0 < self.largest < batch.tokens
            budget = self.largest if known else max(1, batch.tokens // 2)
            why = (
                f"the largest that has fitted has {self.largest}"
                if known
                else "none has fitted yet, so half of it is worth a try"
            )
            raise MemoryLimitError(
                f"A micro-batch of {batch.tokens} tokens does not fit into the device's memory; {why}. "
                f"Set token_budget={budget}, and accumulate_grad_batches higher to keep the step's size. "
                f"({' '.join(str(error).split())[:200]})"
            ) from error
