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
    of_values: ClassVar[bool] = False  # whether the stream may be a discrete one too that is not predicted

    def __post_init__(self) -> None:
        settings = dict(self.objective)
        self._inner = objectives.create(str(settings.pop("type", "")), settings)

    @property
    def plain(self) -> Objective:
        return self._inner.plain

    @property
    def coupled(self) -> bool:  # ty: ignore[incompatible-property-override]
        return self._inner.coupled

    def predicts(self, specs: Mapping[str, Sequence[StreamSpec]]) -> list[str]:
        return self._inner.predicts(specs)

    def ready(self, specs: Mapping[str, Sequence[StreamSpec]]) -> Self:
        streams = {spec.name: spec for each in specs.values() for spec in each}
        read = set(streams) - set(self.predicts(specs)) if self.of_values else set()
        taken = sorted(name for name, spec in streams.items() if name in read or not spec.is_discrete)
        if self.stream not in taken:
            kind = "what is read" if self.of_values else "one of rows"
            raise ConfigError(
                f"{self.called} has stream={self.stream!r}; expected {kind}, of: {', '.join(taken) or 'none'}."
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
