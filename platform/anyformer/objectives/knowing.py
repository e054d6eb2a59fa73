"""What an objective must know of the streams it acts on, learned once from their specs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np

from anyformer.errors import ConfigError, nearest, unknown
from anyformer.objectives.loss import FromHidden
from anyformer.tokens import StreamSpec

Specs = Mapping[str, tuple[StreamSpec, ...]]


class Knowing(FromHidden):
    """Objectives that act by their streams' specs. `ready` gives a copy that holds them, the same one for equal specs
    and settings."""

    _made: ClassVar[tuple[Any, Any] | None] = None
    _specs: ClassVar[Specs | None] = None

    def ready(self, specs: Mapping[str, Sequence[StreamSpec]]) -> Self:
        key = ({field: tuple(streams) for field, streams in specs.items()}, self.config())
        if self._made is None or self._made[0] != key:
            twin = copy(self)
            twin._made, twin._specs = None, key[0]  # ty: ignore[invalid-attribute-access]
            twin.learn()
            self._made = (key, twin)  # ty: ignore[invalid-attribute-access]
        return self._made[1]

    def learn(self) -> None:
        """Take what is needed from `self.specs`; ConfigError names what they lack."""

    @property
    def specs(self) -> Specs:
        """Each field's streams."""
        if self._specs is None:
            raise ConfigError(
                f"{type(self).__name__} must know its fields' streams before it prepares a sample; "
                "call objective.ready({field: streams}) and use what it gives, as anyformer.prepare does."
            )
        return self._specs


@dataclass(frozen=True)
class Symbols:
    """The values of one discrete stream: which of them have a role, and which are ordinary."""

    spec: StreamSpec

    @property
    def name(self) -> str:
        return self.spec.name

    @cached_property
    def roles(self) -> dict[str, int]:
        """Values by role; what closes a run has the role "end"."""
        end = {} if self.spec.end is None else {"end": self.spec.end}
        return {**self.spec.special, **end}

    @cached_property
    def reserved(self) -> list[int]:
        """Every value with a role."""
        return sorted({*self.roles.values(), *self.spec.special.values()})

    def value(self, role: str) -> int:
        if role not in self.roles:
            raise ConfigError(
                f"Stream {self.name!r} has no value of the role {role!r}; its roles are: "
                f"{', '.join(self.roles) or 'none'}.{nearest(role, self.roles)} "
                "Let its tokenizer reserve one (special: [mask, …]), or use a vocabulary that has one."
            )
        return self.roles[role]

    def first(self, *roles: str) -> int:
        """The value of the first of these roles that the stream has."""
        return self.value(next((role for role in roles if role in self.roles), roles[0]))

    @cached_property
    def sentinels(self) -> list[int]:
        """sentinel_0, sentinel_1, …, as many as there are without a gap."""
        found: list[int] = []
        while f"sentinel_{len(found)}" in self.spec.special:
            found.append(self.spec.special[f"sentinel_{len(found)}"])
        return found

    @cached_property
    def ordinary(self) -> np.ndarray:
        """int64: every value without a role."""
        return np.setdiff1d(np.arange(self.spec.width), self.reserved)

    def are_ordinary(self, values: np.ndarray) -> np.ndarray:
        """bool[values]"""
        return ~np.isin(values, self.reserved)

    def drawn(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """So many ordinary values, each as likely as another."""
        return self.ordinary[rng.integers(len(self.ordinary), size=count)]


def is_said(spec: StreamSpec) -> bool:
    """Whether a stream is a text of its own: discrete, not laid over another, with more than values of a role (a class
    token alone tells nothing)."""
    return spec.is_discrete and not spec.overlay and len(Symbols(spec).reserved) < spec.width


def main_stream(specs: Specs, field: str, discrete: bool = True) -> StreamSpec:
    """A field's own stream: the first that is not laid over another. ConfigError where there is none."""
    if field not in specs:
        raise unknown("field", field, specs)
    own = [spec for spec in specs[field] if (is_said(spec) if discrete else not spec.overlay)]
    if not own:
        kind = "discrete stream" if discrete else "stream"
        raise ConfigError(f"The field {field!r} has no {kind} of its own; it has {[s.name for s in specs[field]]}.")
    return own[0]


def frozen(specs: Mapping[str, Sequence[StreamSpec]]) -> Specs:
    return {field: tuple(streams) for field, streams in specs.items()}


def fraction(where: str, **settings: float) -> None:
    """ConfigError unless each setting is a number from 0 to 1."""
    for name, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise ConfigError(f"{where} has {name}={value!r}; expected a number from 0 to 1.")


def made(kind: str, choices: Mapping[str, type], settings: Any) -> Any:
    """An object by plain data, `{"type": ..., ...}`."""
    if not isinstance(settings, Mapping):
        raise ConfigError(f"A {kind} is {settings!r}; expected a mapping with a type, one of {', '.join(choices)}.")
    rest = dict(settings)
    name = rest.pop("type", None)
    if name not in choices:
        raise unknown(kind, str(name), choices)
    try:
        return choices[name](**rest)
    except TypeError as error:
        raise ConfigError(f"The {kind} {name!r} cannot be made from {rest}: {error}.") from error
