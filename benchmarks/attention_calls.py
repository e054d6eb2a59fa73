"""What one call of attention costs, in products of a score: the constants of `anyformer/sublayers/calls.py`.

    python benchmarks/attention_calls.py [--heads 4] [--head-dim 32] [--rounds 15]

Forward and backward of the `documents` back end on one core, in CPU time, medians over rounds in which all cases take
turns. The same documents in one call and in many give a call's price (`CALL`); the same call over longer documents
gives a product's; with a mask for each document and without, `MASKED`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from unittest.mock import patch

import torch

from anyformer.mask import Mask
from anyformer.sublayers import attend, set_backend

DOCUMENTS, SHORT, LONG = 48, 16, 48


class Case:
    """A mask, and what it takes to attend under it."""

    def __init__(self, mask: Mask, heads: int, head_dim: int, price: float) -> None:
        self.mask, self.seen, self.price = mask, [], price
        shapes = [sum(lengths) for lengths in (mask.queries, mask.keys, mask.keys)]
        self.inputs = [torch.randn(rows, heads, head_dim, requires_grad=True) for rows in shapes]

    def step(self) -> None:
        with patch("anyformer.sublayers.calls.CALL", self.price), set_backend("documents"):
            start = time.process_time()
            out = attend(*self.inputs, self.mask)
            torch.autograd.grad(out, self.inputs, torch.ones_like(out))
            self.seen.append(time.process_time() - start)

    @property
    def took(self) -> float:
        return statistics.median(self.seen[2:])  # the first ones make the plan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--head-dim", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sizes = (arguments.heads, arguments.head_dim)
    # all shapes differ a little, so that a price of nothing makes as many calls as there are documents
    queries, keys = zip(*[(SHORT + n % 4, SHORT + n // 4) for n in range(DOCUMENTS)], strict=True)
    cases = {  # plans are kept on masks: each case has its own
        "apart": Case(Mask.causal(queries).across(keys), *sizes, 0.0),
        "together": Case(Mask.causal(queries).across(keys), *sizes, 1e12),
        "short": Case(Mask.bidirectional((SHORT,) * DOCUMENTS), *sizes, 0.0),
        "long": Case(Mask.bidirectional((LONG,) * DOCUMENTS), *sizes, 0.0),
        "unmasked": Case(Mask.bidirectional((256,) * 8), *sizes, 0.0),
        "masked": Case(Mask((256,) * 8, (256,) * 8, tuple(range(249, 257))), *sizes, 1e12),
    }
    for _ in range(arguments.rounds):
        for case in cases.values():
            case.step()
    took = {name: case.took for name, case in cases.items()}
    width = arguments.heads * arguments.head_dim
    product = (took["long"] - took["short"]) / (DOCUMENTS * (LONG**2 - SHORT**2) * width)
    padded = DOCUMENTS * max(queries) * max(keys) - sum(q * k for q, k in zip(queries, keys, strict=True))
    call = (took["apart"] - took["together"] + padded * width * product) / (DOCUMENTS - 1)
    print("| case | ms |\n|---|---|")
    for name, seconds in took.items():
        print(f"| {name} | {seconds * 1e3:.2f} |")
    print(f"one call: {call * 1e6:.0f} us; a product: {product * 1e12:.0f} ps; CALL = {call / product:,.0f}")
    print(f"MASKED = {took['masked'] / took['unmasked']:.3f}")


if __name__ == "__main__":
    main()
