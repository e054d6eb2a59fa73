"""What a process of ours imports before it begins, and how soon it is done.

Lightning takes two classes from torchmetrics, whose `__init__` imports every metric there is, and with them scipy,
torchvision and transformers: 4 of the 10 CPU seconds that a run takes to begin.
"""

from __future__ import annotations

import gc
import importlib
import logging
import sys
from collections.abc import Generator
from contextlib import contextmanager
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

NAME = "torchmetrics"


def lean() -> None:
    """From now on `import torchmetrics` brings what Lightning takes; the rest of it comes when it is asked for.

    An import hook, as Python's own `importlib.util.LazyLoader` would be (that one gives all for the first name). It is
    safe for whoever uses torchmetrics later in the process: any other name runs the package's own `__init__`, once, in
    the same module and by `importlib.reload`, so that there is one Metric class and nothing is missing; submodules are
    found as ever. Where torchmetrics is there already, or built in another way than we know, it is imported whole.
    Who imports Lightning or torchmetrics before anyformer has what they always had.
    """
    if NAME not in sys.modules and _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)


@contextmanager
def without_collecting() -> Generator[None]:
    """Nothing that an import makes is garbage: looking for some takes a tenth of the time. What is there afterwards is
    never looked at again."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


class _Finder:
    """Finds torchmetrics, once."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != NAME:
            return None
        sys.meta_path.remove(_Finder)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    def __init__(self, whole: Any) -> None:
        self.whole = whole

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.whole.create_module(spec)

    def exec_module(self, module: Any) -> None:
        before = set(vars(module))
        try:
            module._logger = logging.getLogger(NAME)  # which its submodules ask for
            module.__version__ = importlib.import_module(f"{NAME}.__about__").__version__
            importlib.import_module(f"{NAME}.utilities")  # first: it and the next import each other
            module.Metric = importlib.import_module(f"{NAME}.metric").Metric
            module.MetricCollection = importlib.import_module(f"{NAME}.collections").MetricCollection
        except (ImportError, AttributeError):
            for name in set(vars(module)) - before:
                delattr(module, name)
            self.whole.exec_module(module)
        else:
            module.__getattr__ = lambda name: _rest(module, name)


def _rest(module: Any, name: str) -> Any:
    if name.startswith("__") and name != "__all__":  # what Python itself looks for in every module
        raise AttributeError(f"module {NAME!r} has no attribute {name!r}")
    vars(module).pop("__getattr__", None)
    return getattr(importlib.reload(module), name)
