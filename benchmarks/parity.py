"""Our models against their references: differences, generations, flipped switches, disturbed tensors, parameters.

    python benchmarks/parity.py [--out docs/results/parity.md] [--seed 0] [--families gpt2 bert]

Everything is built anew from the installed libraries; nothing is downloaded. It ends with 1 if anything does not hold.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))  # the same functions as the tests'

import references  # noqa: E402
from parity.table import measured, rendered  # noqa: E402

from anyformer.evaluation import provenance  # noqa: E402


def origin(seed: int) -> list[tuple[str, str]]:
    """Commit, machine and software, as other results state them."""
    commit, changed = provenance.commit()
    machine = provenance.machine()
    accelerators = ", ".join(machine["accelerators"]) or "no accelerator"
    return [
        ("Commit", f"{commit}{' with uncommitted changes' if changed else ''}" if commit else "not in a repository"),
        ("Seed", str(seed)),
        ("Machine", f"{machine['processor']}, {machine['cores']} cores, {accelerators}, {machine['system']}"),
        ("Software", f"Python {machine['python']}, torch {machine['torch']}"),
        ("Created", datetime.now(UTC).isoformat(timespec="seconds")),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs/results/parity.md")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--families", nargs="+", choices=list(references.FAMILIES), default=list(references.FAMILIES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # as in the tests
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for family in arguments.families:
            start = time.perf_counter()
            rows.append(measured(family, Path(folder) / family, arguments.seed))
            verdict = f"{len(rows[-1].failures)} failures" if rows[-1].failures else "holds"
            print(f"{family}: {verdict} ({time.perf_counter() - start:.0f} s)", flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(rendered(rows, origin(arguments.seed)), encoding="utf-8")
    print(f"Wrote {arguments.out}")
    sys.exit(any(row.failures for row in rows))


if __name__ == "__main__":
    main()
