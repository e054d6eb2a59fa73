"""What the machine can do at most: products of matrices, and moving memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from anyformer.bench.suite import CPU

LIMIT = "the machine"  # the contender that does these
GEMM = {True: 1024, False: 8192}  # on a processor, elsewhere: near the best; the first also stays in a cache
COPY = 2**26  # floats, far outside the caches


def gemm(dtype: str, device: str) -> Callable[[], float]:
    """GFLOP of one square product."""
    import torch

    size = GEMM[device == CPU]
    pair = [torch.randn(size, size, device=device).to(getattr(torch, dtype)) for _ in range(2)]

    def run() -> float:
        torch.mm(*pair)
        return 2 * size**3 / 1e9

    return run


def copy(device: str) -> Callable[[], float]:
    """GB read and written by one copy."""
    import torch

    pair = [torch.zeros(COPY, device=device) for _ in range(2)]

    def run() -> float:
        pair[0].copy_(pair[1])
        return 2 * 4 * COPY / 1e9

    return run


LIMITS: dict[str, Callable[[str], Callable[[], float]]] = {
    "GEMM float32, GFLOP/s": partial(gemm, "float32"),
    "GEMM bfloat16, GFLOP/s": partial(gemm, "bfloat16"),
    "copy, GB/s": copy,
}
"""By device."""
