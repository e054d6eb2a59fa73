"""Models of any size in no memory and no time, to see which parameters they have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

_empty = torch.empty


@contextmanager
def blueprint() -> Iterator[None]:
    """Matrices and tables that are made inside stand on the meta device: they have shapes and no numbers, and none are
    drawn. Everything else is made as usual, because the first arithmetic on that device loads code for many seconds."""
    with (
        patch.object(torch, "empty", _shapes),
        patch.object(nn.init, "normal_", _undrawn),
        patch.object(nn.init, "orthogonal_", _undrawn),
    ):
        yield


def _shapes(*size: Any, **settings: Any) -> Tensor:
    return _empty(*size, **(settings | {"device": "meta"}))


def _undrawn(tensor: Tensor, *_: Any, **__: Any) -> Tensor:
    return tensor
