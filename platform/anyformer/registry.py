"""Plugins by name: tokenizers, tasks, objectives and studies, from decorators and from installed packages.

Listing reads package metadata only. A plugin is imported when it is first used; one that fails to import is
reported by name and leaves the others alone; a name claimed twice is refused, naming both claimants.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from anyformer.errors import ConfigError, PluginError, nearest, unknown

T = TypeVar("T")


class Registry:
    """Names to classes for one kind of plugin.

    >>> shapes = Registry("shape", group="example.shapes")
    >>> @shapes.register("round")
    ... class Round: ...
    >>> shapes.names()
    ['round']
    """

    def __init__(self, kind: str, group: str) -> None:
        self.kind = kind
        self.group = group
        self._registered: dict[str, type] = {}
        self._installed: dict[str, list[EntryPoint]] | None = None

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Decorator for notebooks and local code. Re-running a cell replaces the class it defined before."""

        def add(plugin: type[T]) -> type[T]:
            present = self._registered.get(name)
            if present is not None and _where(present) != _where(plugin):
                raise PluginError(self._twice(name, [_where(present), _where(plugin)]))
            installed = [point for point in self.installed().get(name, []) if point.value != _where(plugin)]
            if installed:
                raise PluginError(self._twice(name, [*map(_origin, installed), _where(plugin)]))
            self._registered[name] = plugin
            return plugin

        return add

    def installed(self) -> dict[str, list[EntryPoint]]:
        """Entry points by name; nothing is imported."""
        if self._installed is None:
            found: dict[str, list[EntryPoint]] = {}
            for point in entry_points(group=self.group):
                claims = found.setdefault(point.name, [])
                if all(point.value != claim.value for claim in claims):  # one package seen on two paths
                    claims.append(point)
            self._installed = found
        return self._installed

    def names(self) -> list[str]:
        """Every known name, sorted; nothing is imported."""
        return sorted({*self._registered, *self.installed()})

    def origin(self, name: str) -> str:
        """Where a name comes from: `module:Class`, with the package for an installed plugin."""
        if name in self._registered:
            return _where(self._registered[name])
        return ", ".join(_origin(point) for point in self._claims(name))

    def name_of(self, plugin: type) -> str:
        """The name a class is known by: what a checkpoint writes instead of an import path."""
        for name, registered in self._registered.items():
            if registered is plugin:
                return name
        for name, claims in self.installed().items():
            if any(_already_loaded(claim) is plugin for claim in claims):
                return name
        raise PluginError(
            f"{_where(plugin)} is not a registered {self.kind}, so nothing could load it again by name. "
            f"Decorate the class with @register_{self.kind}(name) or give its package an entry point."
        )

    def get(self, name: str) -> type:
        """The class, imported on first use."""
        if name in self._registered:
            return self._registered[name]
        claims = self._claims(name)
        if len(claims) > 1:
            raise PluginError(self._twice(name, [_origin(point) for point in claims]))
        try:
            with contextlib.redirect_stdout(sys.stderr):  # what a plugin prints at import is no command's answer
                return claims[0].load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin may even call sys.exit at import
            raise PluginError(
                f"The {self.kind} {name!r} from {_origin(claims[0])} could not be imported "
                f"({type(error).__name__}: {error}). Mend or uninstall that package; other plugins are unaffected."
            ) from error

    def create(self, name: str, config: dict[str, Any] | None = None) -> Any:
        """An instance of plugin `name`, its settings checked against the constructor first."""
        plugin = self.get(name)
        config = dict(config or {})
        accepted = inspect.signature(plugin).parameters
        for key in config:
            if key not in accepted:
                raise ConfigError(
                    f"The {self.kind} {name!r} has no setting {key!r}; "
                    f"expected one of: {', '.join(accepted) or 'none'}.{nearest(key, accepted)}"
                )
        try:
            return plugin(**config)
        except TypeError as error:
            raise ConfigError(f"The {self.kind} {name!r} cannot be made from {config}: {error}.") from error

    def _claims(self, name: str) -> list[EntryPoint]:
        claims = self.installed().get(name)
        if not claims:
            raise unknown(self.kind, name, self.names())
        return claims

    def _twice(self, name: str, claimants: list[str]) -> str:
        return (
            f"The {self.kind} name {name!r} is claimed by {' and by '.join(claimants)}; "
            "expected one. Rename one of them or uninstall its package."
        )


def _where(plugin: type) -> str:
    return f"{plugin.__module__}:{plugin.__qualname__}"


def _already_loaded(point: EntryPoint) -> object:
    """What an entry point gives, if its module has been imported; nothing is imported for the question."""
    try:
        return point.load() if point.module in sys.modules else None
    except Exception:  # that plugin is broken; the question was about another one
        return None


def _origin(point: EntryPoint) -> str:
    package = f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown package"
    return f"{point.value} ({package})"


tokenizers = Registry("tokenizer", "anyformer.tokenizers")
tasks = Registry("task", "anyformer.tasks")
objectives = Registry("objective", "anyformer.objectives")
studies = Registry("study", "anyformer.studies")


def make_task(
    kind: str, settings: Mapping[str, Any], objective: Mapping[str, Any] | None = None, data_dir: str | None = None
) -> Any:
    """A task. objective: another one than its own, `{"type": ..., ...}`. data_dir: for a task that has such a setting,
    and is given none of its own."""
    here = data_dir and "data_dir" in inspect.signature(tasks.get(kind)).parameters
    task = tasks.create(kind, {"data_dir": data_dir, **settings} if here else dict(settings))
    if objective is not None:
        chosen = dict(objective)
        task.objective = objectives.create(str(chosen.pop("type", "")), chosen)
    return task


register_tokenizer = tokenizers.register
register_task = tasks.register
register_objective = objectives.register
register_study = studies.register
