"""What the machine can do at most: products of matrices, and moving memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

LIMIT = "the machine"  # the contender that does these
GEMM = 1024  # rows and columns; large enough to be near the best, small enough to stay in a cache
COPY = 2**26  # floats, far outside the caches


def gemm(dtype: str) -> Callable[[], float]:
    """GFLOP of one square product."""
    import torch

    pair = [torch.randn(GEMM, GEMM).to(getattr(torch, dtype)) for _ in range(2)]

    def run() -> float:
        torch.mm(*pair)
        return 2 * GEMM**3 / 1e9

    return run


def copy() -> Callable[[], float]:
    """GB read and written by one copy."""
    import torch

    pair = [torch.zeros(COPY) for _ in range(2)]

    def run() -> float:
        pair[0].copy_(pair[1])
        return 2 * 4 * COPY / 1e9

    return run


LIMITS: dict[str, Callable[[], Callable[[], float]]] = {
    "GEMM float32, GFLOP/s": partial(gemm, "float32"),
    "GEMM bfloat16, GFLOP/s": partial(gemm, "bfloat16"),
    "copy, GB/s": copy,
}
