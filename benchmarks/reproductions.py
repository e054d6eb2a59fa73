"""Run reproductions by name and seed, keep their lines, and write the pages of results from them.

    python benchmarks/reproductions.py char-shakespeare sst2 --data_dir data --seeds 0 1 2 [--jobs 2] [--peers]
    python benchmarks/reproductions.py            # only the pages, from the lines that there are

Each run is `anyformer reproduce NAME`, one thread, in a process of its own; its line goes to docs/results/lines, with
the machine and whether tracked files differed from the commit. With --peers a reproduction's peer runs behind it, in
turn, seed by seed. A newer line of the same name and seed takes the place of the older. What missed its bar says so.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from anyformer import presets
from anyformer.evaluation import provenance
from anyformer.reproduction import Reproduction

HERE = Path(__file__).parent
RESULTS = HERE.parent / "docs" / "results"
Line = Mapping[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="of `anyformer list reproductions`")
    parser.add_argument("--data_dir", help="the folder that holds the data sets' folders")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--jobs", type=int, default=1, help="how many run side by side")
    parser.add_argument("--peers", action="store_true", help="run peers too, in turn")
    arguments = parser.parse_args()
    chosen = [Reproduction.named(name) for name in arguments.names]
    changed()
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for one in chosen:
            for seed in arguments.seeds:
                pool.submit(run, one, seed, arguments.data_dir, arguments.peers)
    pages = {}
    for path in sorted((presets.root() / "reproductions").glob("*.yaml"), key=lambda path: path.stem):
        one = Reproduction.of(path)
        pages.setdefault(one.page, []).append(one)
    for name, members in pages.items():
        (RESULTS / f"{name}.md").write_text(page(name, members), encoding="utf-8")


def run(one: Reproduction, seed: int, data_dir: str | None, peers: bool) -> None:
    where = [] if data_dir is None else ["--data_dir", data_dir]
    out = Path("runs") / "reproduce" / f"{one.name}-{seed}"
    ours = [sys.executable, "-m", "anyformer", "reproduce", one.name, "--seed", str(seed), "--out", str(out)]
    keep(one.name, said(ours + where))
    if peers and one.peer:
        keep(f"{one.name}.peer", said([sys.executable, str(HERE / one.peer), "--seed", str(seed), *where]))


@cache
def changed() -> bool | None:
    """Whether tracked files differed from the commit, before the first line was written: results change nothing."""
    return provenance.commit()[1]


def said(command: Sequence[str]) -> Line:
    commit, _ = provenance.commit()  # before it runs: the checkout may move on meanwhile
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    facts = provenance.machine()
    machine = f"{facts['processor']}, {facts['cores']} cores, torch {facts['torch']}"
    return {"commit": commit, **json.loads(done.stdout), "changed": changed(), "machine": machine}


def keep(name: str, line: Line) -> None:
    file = RESULTS / "lines" / f"{name}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    kept = [other for other in lines(name) if other["seed"] != line["seed"]]
    ordered = sorted([*kept, line], key=lambda other: other["seed"])
    file.write_text("".join(json.dumps(other) + "\n" for other in ordered), encoding="utf-8")
    print(f"{name}, seed {line['seed']}: {line['value']:.4f} in {line['cpu_seconds']:.0f} CPU seconds", flush=True)


def lines(name: str) -> list[Line]:
    file = RESULTS / "lines" / f"{name}.jsonl"
    return [json.loads(text) for text in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def page(name: str, members: Sequence[Reproduction]) -> str:
    """A table of all of the page's reproductions, one of each that has several rows or a bar of several metrics, and
    where the lines come from."""
    parts = [f"# Results: {name}", "", *explanation(), "", *overview(members)]
    for one in members:
        if lines(one.name) and (len(one.rows) > 1 or any("rising" in bar for bar in one.bars)):
            parts += ["", f"## {one.name}", "", *details(one, lines(one.name))]
    parts += ["", "## Where these lines come from", "", "| | seed | commit | machine |", "|---|---|---|---|"]
    for one in members:
        for label in (one.name, f"{one.name}.peer"):
            for line in lines(label):
                commit = (line["commit"] or "none")[:10] + (" and changes" if line["changed"] else "")
                parts.append(f"| {label} | {line['seed']} | {commit} | {line['machine']} |")
    return "\n".join(parts) + "\n"


def explanation() -> list[str]:
    return [
        "Written by `python benchmarks/reproductions.py` from the lines that `anyformer reproduce NAME` printed, one",
        "thread each. Values are means over seeds ± standard deviations, CPU seconds are medians, import to score.",
        "References were measured with the reference's code on another, faster processor; a peer was run here, in turn",
        "with ours.",
    ]


def overview(members: Sequence[Reproduction]) -> list[str]:
    table = [
        "| | metric | reference | ours | seeds | CPU s | peer here | bar | |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in members:
        found, peer = lines(one.name), lines(f"{one.name}.peer")
        if not found:
            table.append(f"| {one.name} | {one.metric} | {reference(one, [])} | not run | | | | {bars(one, [])} | |")
            continue
        beside = f"{spread([p['value'] for p in peer])} in {seconds(peer)} s" if peer else ""
        table.append(
            f"| {one.name} | {one.metric} | {reference(one, found)} | **{spread([f['value'] for f in found])}** | "
            f"{len(found)} | {seconds(found)} | {beside} | {bars(one, found)} | {verdict(one, found)} |"
        )
    return table


def details(one: Reproduction, found: Sequence[Line]) -> list[str]:
    names = list(dict.fromkeys(name for r in found[0]["rows"] for name in r["values"]))
    table = [
        f"| row | {' | '.join(names)} | updates | tokens | training FLOPs | CPU s |",
        "|---|" + "---|" * (len(names) + 4),
    ]
    for row in one.rows:
        own = [r for line in found for r in line["rows"] if r["row"] == row]
        if own:
            values = [spread([r["values"][name] for r in own]) if name in own[0]["values"] else "" for name in names]
            flops = f"{statistics.mean(r['training_flops'] for r in own):.2e}"
            size = f"{own[0]['steps']:,} | {own[0]['tokens']:,} | {flops} | {seconds(own)}"
            table.append(f"| {row} | {' | '.join(values)} | {size} |")
    return table


def reference(one: Reproduction, found: Sequence[Line]) -> str:
    if one.baseline is not None:
        return f"{one.baseline['value']} ({one.baseline['of']})"
    baselines = found[0]["rows"][-1]["baselines"] if found else {}
    return ", ".join(f"{value:.3f} ({method})" for method, value in baselines.items()) or "computed when run"


BARS = {
    "at_least": (lambda bar, one, found: mean(one, found) >= bar["at_least"], "≥ {at_least}"),
    "at_most": (lambda bar, one, found: mean(one, found) <= bar["at_most"], "≤ {at_most}"),
    "below": (lambda bar, one, found: mean(one, found) < bar["below"], "< {below}"),
    "above_baselines": (lambda bar, one, found: mean(one, found) > best_baseline(found), "above every baseline"),
    "better_than": (
        lambda bar, one, found: mean(one, found) - mean(one, found, bar["better_than"]) >= bar["by"],
        "≥ {by} above {better_than}",
    ),
    "rising": (lambda bar, one, found: rises(one, found, bar["rising"]), "{rising} rising with what is asked for"),
    "cpu_seconds": (
        lambda bar, one, found: median_seconds(found) <= bar["cpu_seconds"],
        "≤ {cpu_seconds} CPU s",
    ),
    "no_slower_than_peer": (
        lambda bar, one, found: median_seconds(found) <= median_seconds(lines(f"{one.name}.peer")),
        "no slower than the peer",
    ),
}
"""Kinds of bar: whether it is met, and how it is said."""


def bars(one: Reproduction, found: Sequence[Line]) -> str:
    said = [BARS[next(iter(bar))][1].format(**bar) for bar in one.bars]
    return ", ".join(said)


def verdict(one: Reproduction, found: Sequence[Line]) -> str:
    missed = [BARS[kind][1].format(**bar) for bar in one.bars if not BARS[kind := next(iter(bar))][0](bar, one, found)]
    return "" if not one.bars else "met" if not missed else f"**missed: {', '.join(missed)}**"


def mean(one: Reproduction, found: Sequence[Line], row: str | None = None) -> float:
    rows = (row,) if row else one.headlines
    return statistics.mean(r["value"] for f in found for r in f["rows"] if r["row"] in rows)


def rises(one: Reproduction, found: Sequence[Line], stem: str) -> bool:
    """Whether metrics that are called `stem@number` rise with the number, on average over seeds."""
    rows = [r["values"] for f in found for r in f["rows"] if r["row"] in one.headlines]
    asked = {float(name.partition("@")[2]): name for name in rows[0] if name.startswith(f"{stem}@")}
    reached = [statistics.mean(values[asked[target]] for values in rows) for target in sorted(asked)]
    return all(lower < higher for lower, higher in pairwise(reached))


def best_baseline(found: Sequence[Line]) -> float:
    return max(value for line in found for row in line["rows"] for value in row["baselines"].values())


def spread(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.4g}" + (f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else "")


def median_seconds(found: Sequence[Line]) -> float:
    """0 where nothing was run, so that nobody is as fast as a peer that was not timed."""
    return statistics.median(line["cpu_seconds"] for line in found) if found else 0.0


def seconds(found: Sequence[Line]) -> str:
    return f"{median_seconds(found):,.0f}"


if __name__ == "__main__":
    main()
