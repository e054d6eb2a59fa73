"""What every test may use."""

import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

from anyformer.imports import lean

sys.path.insert(0, str(Path(__file__).parent / "toys"))  # tests and the processes they start share it
sys.path.insert(0, str(Path(__file__).parent))  # the packages `references` and `parity`
hypothesis.settings.register_profile("suite", deadline=None)  # timing never fails a test
hypothesis.settings.load_profile("suite")
lean()  # a test process imports what a run imports
torch.set_num_threads(1)  # tests run side by side; threads would only take turns


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The repository's root."""
    return Path(__file__).parents[1]


@pytest.fixture(scope="module")
def toys() -> Iterator[None]:
    """The tiny plugins of `toys/`, registered while one file's tests run."""
    import runs  # it brings Lightning, which most files can do without

    with runs.registered():
        yield
