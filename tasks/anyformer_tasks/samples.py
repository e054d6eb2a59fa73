"""A split whose samples are made when they are asked for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import overload

from anyformer.contracts import Sample


class MadeSamples(Sequence[Sample]):
    """`len` and `sample` make a sequence, with slices and indices from behind."""

    @abstractmethod
    def sample(self, index: int) -> Sample:
        """The sample at an index from 0 on: the same one at every call."""

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(index, slice):
            return [self.sample(i) for i in range(len(self))[index]]
        return self.sample(range(len(self))[index])
