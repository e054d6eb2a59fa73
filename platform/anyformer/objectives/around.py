"""Objectives around another one: they change what it reads, and are that one in all else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from anyformer.contracts import Loss, Objective
from anyformer.errors import ConfigError
from anyformer.model import ForwardPass, Model
from anyformer.registry import objectives
from anyformer.tokens import Stream, StreamSpec


@dataclass
class Around(Objective):
    """objective: `{"type": ..., ...}`, the one inside. stream: of rows, the one that is changed.

    A subclass says in `prepare` what it changes, and by which name it is `called`.
    """

    objective: dict[str, Any] = field(default_factory=dict)
    stream: str = ""

    called: ClassVar[str]

    def __post_init__(self) -> None:
        settings = dict(self.objective)
        self._inner = objectives.create(str(settings.pop("type", "")), settings)

    @property
    def coupled(self) -> bool:  # ty: ignore[incompatible-property-override]
        return self._inner.coupled

    def predicts(self, specs: Mapping[str, Sequence[StreamSpec]]) -> list[str]:
        return self._inner.predicts(specs)

    def ready(self, specs: Mapping[str, Sequence[StreamSpec]]) -> Self:
        streams = {spec.name: spec for each in specs.values() for spec in each}
        if self.stream not in streams or streams[self.stream].is_discrete:
            rows = sorted(name for name, spec in streams.items() if not spec.is_discrete)
            raise ConfigError(
                f"{self.called} has stream={self.stream!r}; expected one of rows, of: {', '.join(rows) or 'none'}."
            )
        twin = copy(self)
        twin._inner = self._inner.ready(specs)
        return twin

    def length(self, lengths: Mapping[str, int]) -> int:
        return self._inner.length(lengths)

    def beside(
        self, model: Model, specs: Mapping[str, Sequence[StreamSpec]], load: Callable[[str], Model]
    ) -> nn.Module | None:
        return self._inner.beside(model, specs, load)

    def read(self, forward: ForwardPass, name: str, target: Stream) -> Tensor:
        return self._inner.read(forward, name, target)

    def loss(self, forward: ForwardPass, targets: Mapping[str, Stream]) -> Loss:
        return self._inner.loss(forward, targets)
