"""Examples in docstrings are true."""

import doctest
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import anyformer
import anyformer_tasks
import anyformer_tokenizers


def with_examples() -> Iterator[str]:
    """Names of the modules whose source holds an example; nothing is imported to find them."""
    for package in (anyformer, anyformer_tokenizers, anyformer_tasks):
        (folder,) = package.__path__
        for module in pkgutil.walk_packages([folder], f"{package.__name__}."):
            stem = Path(folder).parent.joinpath(*module.name.split("."))
            source = stem / "__init__.py" if module.ispkg else stem.with_suffix(".py")
            if ">>> " in source.read_text():
                yield module.name


MODULES = list(with_examples())


def test_there_are_examples():
    """The search finds the modules that are known to have some."""
    assert {"anyformer.tokens", "anyformer.mask", "anyformer.errors"} <= set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    """Each example of the module prints what it says."""
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
