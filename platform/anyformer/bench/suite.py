"""What is compared, as data, and where the files are that say it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from anyformer import presets
from anyformer.errors import ConfigError, unknown

OURS = "anyformer"
PEERS = "the best peer"
CPU = "cpu"  # where CPU seconds count; anywhere else it is the clock's
ACCELERATOR = "cuda"

Settings = SimpleNamespace
"""A suite's sizes and one case's settings, as attributes."""


@dataclass(frozen=True)
class Work:
    """What is done over and over.

    run: does it once and says how many units that were; where the suite measures an amount, the amount. answer:
    numbers that all contenders who give any must agree on, from before anything was timed.
    """

    run: Callable[[], float]
    answer: Sequence[float] | None = None


@dataclass(frozen=True)
class Contender:
    """make: imports what it needs, and prepares the work. needs: installed packages, by distribution. cases: those of
    the suite that it can do; by default all."""

    name: str
    make: Callable[[Settings], Work]
    needs: tuple[str, ...] = ()
    cases: tuple[str, ...] | None = None

    @property
    def ours(self) -> bool:
        return self.name.startswith(OURS)

    def lacks(self) -> list[str]:
        """Packages that are not installed."""
        return [name for name in self.needs if installed(name) is None]


@dataclass(frozen=True)
class Bar:
    """What ours is to reach in a case. at_least: of our rate over that of `beside`, a contender's name or the best
    peer's. at_most: of our amount; with `beside`, over that one's."""

    case: str
    at_least: float | None = None
    at_most: float | None = None
    beside: str | None = None

    def __str__(self) -> str:
        bound = f"≥ {self.at_least:g}" if self.at_least is not None else f"≤ {self.at_most:g}"
        return f"{self.case}: {bound}" + (f" of {self.beside}" if self.beside else "")


@dataclass(frozen=True)
class Suite:
    """contenders: the first is ours; its name, like those of our other forms, begins with `anyformer`.

    unit: of which a contender does as many as it can in a CPU second; with `amount`, of which less is better. cases:
    their settings, by name; `threads` and `rounds` among them are for the bench: of how many threads each contender is,
    and the most turns that it takes. full, toy: sizes, of the real measurement and of a test that it works.
    accelerated: what differs on an accelerator, where the suite's work can be done on `device`. flops: of one unit,
    forward and backward, for the share of the limit; its docstring is the formula. tolerance: how far answers may lie
    apart, relative to the largest. seconds: that one turn takes, at least. notes: what a reader of the table must know.
    """

    title: str
    unit: str
    contenders: Sequence[Contender]
    cases: Mapping[str, Mapping[str, Any]]
    full: Mapping[str, Any]
    toy: Mapping[str, Any]
    amount: bool = False
    accelerated: Mapping[str, Any] | None = None
    flops: Callable[[Settings], float] | None = None
    tolerance: float = 1e-3
    seconds: float = 2.0
    rounds: int = 5
    bars: Sequence[Bar] = ()
    notes: str = ""
    file: Path = field(default=Path(), compare=False)

    def settings(self, case: str, toy: bool, device: str = CPU) -> Settings:
        sizes = self.toy if toy else {} if device == CPU else self.accelerated or {}
        return Settings(case=case, toy=toy, device=device, **{**self.full, **self.cases[case], **sizes})


def folder() -> Path:
    """The suites that come with a checkout; ConfigError where there is none."""
    found = presets.root().parent / "benchmarks" / "suites"
    if not found.is_dir():
        raise ConfigError(
            "The suites are in the repository's benchmarks/suites, which is not part of the installed package. "
            "Work in a checkout, or name a suite's file."
        )
    return found


def names() -> list[str]:
    return sorted(file.stem.replace("_", "-") for file in folder().glob("*.py"))


def find(name: str) -> Suite:
    """A suite by its name, or by its file's path; ConfigError for one that there is not, or that has no SUITE."""
    file = Path(name)
    if file.suffix != ".py":
        if name not in names():
            raise unknown("suite", name, names())
        file = folder() / f"{name.replace('-', '_')}.py"
    return read(file)


def read(file: Path) -> Suite:
    spec = spec_from_file_location(f"suite_{file.stem}", file)
    if spec is None or spec.loader is None or not file.is_file():
        raise ConfigError(f"{file} is no suite; expected a Python file.")
    module = module_from_spec(spec)
    if (beside := str(file.resolve().parents[1])) not in sys.path:
        sys.path.append(beside)  # suites share `peers`
    spec.loader.exec_module(module)
    suite = getattr(module, "SUITE", None)
    if not isinstance(suite, Suite):
        raise ConfigError(f"{file} has no SUITE; expected one, an anyformer.bench.Suite.")
    return replace(suite, file=file.resolve())


def installed(name: str) -> str | None:
    """The version of a distribution."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
