"""One tensor disturbed at a time: does any output move? If not, an import could lose the tensor unseen."""

from __future__ import annotations

import hashlib
import re

import torch

from parity.fixtures import Fixture
from parity.invisible import TURNED
from parity.transplant import parts

SHARE = 0.2
"""Standard deviation of the noise, as a share of each element."""

VISIBLE = 1e-4
"""An output that moves by this much is seen."""

KEY_BIASES = re.compile(r".*attention\.sublayer\.(qkv|kv)\.bias\[k\]")
"""Silent: the same is added to all scores of a query. See `invisible`."""


@torch.no_grad()
def disturbed(fixture: Fixture) -> dict[str, float]:
    """How far outputs move for noise on each tensor, or each part of a projection: the largest difference."""
    model, found = fixture.model, {}
    usual = {comparison.name: comparison.difference for comparison in fixture.compared(model)}
    for name, tensor in parts(model):
        before = tensor.clone()
        tensor.mul_(1 + SHARE * torch.randn(tensor.shape, generator=_generator(name)))
        found[name] = max(c.difference - usual[c.name] for c in fixture.compared(model))
        tensor.copy_(before)
    return found


def silent(family: str, name: str) -> bool:
    """Whether a tensor is known to move nothing."""
    return family not in TURNED and KEY_BIASES.fullmatch(name) is not None


def _generator(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big"))
