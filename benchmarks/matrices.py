"""Fill the tables of configs/matrices, and write their pages of results.

    python benchmarks/matrices.py transfer-matrix joint-vs-alone --data_dir data [--seed 0]
    python benchmarks/matrices.py            # only the pages, from the figures that there are

Each is `anyformer reproduce NAME`, one thread, in a process of its own, and goes on where an earlier one stopped. Its
figures go to docs/results/lines/NAME.json, and the page docs/results/NAME.md is made of them and of what the matrix's
file says: its conclusions may be written behind.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

from anyformer import presets
from anyformer.matrix import Matrix, page

RESULTS = Path(__file__).parent.parent / "docs" / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="of `anyformer list matrices`")
    parser.add_argument("--data_dir", help="the folder that holds the data sets' folders")
    parser.add_argument("--seed", type=int, default=0, help="the first (default 0)")
    arguments = parser.parse_args()
    files = {path.stem: path for path in sorted((presets.root() / "matrices").glob("*.yaml"))}
    for name in arguments.names:
        out = Path("runs") / "reproduce" / f"{name}-{arguments.seed}"
        command = [sys.executable, "-m", "anyformer", "reproduce", Matrix.of(files[name]).name]
        where = [] if arguments.data_dir is None else ["--data_dir", arguments.data_dir]
        subprocess.run(
            [*command, "--seed", str(arguments.seed), "--out", str(out), *where], check=True, stdout=subprocess.DEVNULL
        )
        shutil.copy(out / "matrix.json", RESULTS / "lines" / f"{name}.json")
    for name, path in files.items():
        figures = RESULTS / "lines" / f"{name}.json"
        if figures.is_file():
            told = page(Matrix.of(path), json.loads(figures.read_text(encoding="utf-8")))
            (RESULTS / f"{name}.md").write_text(told, encoding="utf-8")


if __name__ == "__main__":
    main()
