"""What every test may use."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent / "toys"))  # tests and the processes they start share it

import runs  # noqa: E402

torch.set_num_threads(1)  # tests run side by side; threads would only take turns


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The repository's root."""
    return Path(__file__).parents[1]


@pytest.fixture(scope="module")
def toys() -> Iterator[None]:
    """The tiny plugins of `toys/`, registered while one file's tests run."""
    with runs.registered():
        yield


@pytest.fixture
def letters_only(toys) -> dict:
    """Settings of the smallest mixture."""
    return {"tokenizers": {"letters": {}}, "tasks": {"words": {}}, "token_budget": 48}
