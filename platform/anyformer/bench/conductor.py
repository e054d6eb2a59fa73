"""A suite's run: processes, whose turn it is, and what came of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from anyformer.bench.limits import LIMIT, LIMITS
from anyformer.bench.suite import CPU, OURS, Suite, installed

Line = dict[str, Any]
Tell = Callable[[str], None]

BEGINNING = 8  # numbers of an answer that are kept

PACKAGES = ("torch", "lightning", "numpy")


class Player:
    """One process, which does what it is asked for and otherwise waits without spending anything."""

    def __init__(self, suite: Suite, name: str, threads: int, log: Path) -> None:
        settings = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
        with log.open("a") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "anyformer.bench.worker", str(suite.file), name],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env={**os.environ, **settings},
            )  # fmt: skip

    def ask(self, **question: Any) -> Line:
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it is dead, and what it would have said is missing
        said = self.process.stdout.readline()
        return json.loads(said) if said else {"failed": f"its process ended with {self.process.wait()}"}

    def __enter__(self) -> Player:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def conduct(
    suite: Suite, toy: bool, threads: int, out: Path, tell: Tell, rounds: int | None = None, device: str = CPU
) -> Line:
    """Run it; what was found, as plain values. Contenders take turns, case by case, and so do the limits. What is done
    on an accelerator is compared with what the first contender answers on the processor."""
    count, seconds = (1, 0.0) if toy else (rounds or suite.rounds, suite.seconds)
    rows, limits, where = [], {name: [] for name in LIMITS}, {"toy": toy, "device": device}
    with ExitStack() as stack:
        log = out / f"{suite.file.stem}.log"
        log.unlink(missing_ok=True)
        begun = datetime.now(UTC).isoformat(timespec="seconds")
        there = [one.name for one in suite.contenders if not one.lacks()]
        players = {name: stack.enter_context(Player(suite, name, threads, log)) for name in there}
        machine = stack.enter_context(Player(suite, LIMIT, threads, log))
        if device != CPU and there:
            players[CPU] = stack.enter_context(Player(suite, there[0], threads, log))
        for case in suite.cases:
            begun_rows = _begin(suite, case, players, where, tell)
            heard = {row["contender"]: [] for row in begun_rows if not row.keys() & {"absent", "failed"}}
            for _ in range(min(count, suite.cases[case].get("rounds", count))):
                for name in heard:
                    heard[name].append(players[name].ask(seconds=seconds))
                for name in LIMITS:
                    machine.ask(case=name, **where)
                    limits[name].append(_rate(machine.ask(seconds=min(seconds, 0.3))))
            for row in begun_rows:
                if row["contender"] in heard:
                    row |= _gathered(suite, heard[row["contender"]])
                    tell(f"{case}: {row['contender']} {_seen(row)}")
            rows += begun_rows
    return {
        "suite": suite.file.stem.replace("_", "-"), "title": suite.title, "unit": suite.unit, "amount": suite.amount,
        "toy": toy, "device": device, "rounds": count, "threads": threads, "begun": begun, **_origin(suite),
        "limits": {name: _middle([rate for rate in found if rate]) for name, found in limits.items()},
        "cases": {case: dict(settings) for case, settings in suite.cases.items()},
        "flops": {case: suite.flops(suite.settings(case, toy, device)) for case in suite.cases} if suite.flops else {},
        "disagree": disagreements(suite, rows), "bars": [str(bar) for bar in suite.bars],
        "rows": [brief(row) for row in rows], "notes": suite.notes,
    }  # fmt: skip


def _begin(suite: Suite, case: str, players: Mapping[str, Player], where: Line, tell: Tell) -> list[Line]:
    """A row for each contender of the case, with its answer; what the processor says of it is in the first."""
    rows: list[Line] = []
    for one in suite.contenders:
        if one.cases is not None and case not in one.cases:
            continue
        row: Line = {"case": case, "contender": one.name}
        rows.append(row)
        if lacks := one.lacks():
            row["absent"] = ", ".join(lacks)
            continue
        tell(f"{case}: {one.name} begins")
        row |= players[one.name].ask(case=case, **where)
    if CPU in players:
        rows[0]["processor"] = players[CPU].ask(said=case, **where).get("answer")
    return rows


def _rate(said: Line) -> float:
    return said["units"] / max(said["spent"], 1e-9) if "units" in said else 0.0


def _gathered(suite: Suite, turns: Sequence[Line]) -> Line:
    """What the turns of one contender came to."""
    for one in turns:
        if "failed" in one:
            return {"failed": one["failed"]}
    values = [one["units"] / (one["runs"] if suite.amount else max(one["spent"], 1e-9)) for one in turns]
    wall = [one["units"] / (one["runs"] if suite.amount else max(one["wall"], 1e-9)) for one in turns]
    return {"value": _middle(values), "values": values, "wall": _middle(wall), "peak_mb": turns[-1]["peak_mb"]}


def _middle(values: Sequence[float]) -> float:
    ordered = sorted(values)
    half = len(ordered) // 2
    return 0.0 if not ordered else ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _seen(row: Mapping[str, Any]) -> str:
    return f"failed: {row['failed']}" if "failed" in row else f"{row['value']:,.4g}"


def disagreements(suite: Suite, rows: Sequence[Line]) -> list[str]:
    """Contenders whose answers are not the first one's of the same case, or the processor's where there is one."""
    found = []
    for case in suite.cases:
        there = [row for row in rows if row["case"] == case]
        answers = [("the processor", row["processor"]) for row in there if row.get("processor")]
        answers += [(row["contender"], row["answer"]) for row in there if row.get("answer")]
        for name, answer in answers[1:]:
            first = answers[0][1]
            largest = max(1e-30, *(abs(number) for number in first))
            if len(first) != len(answer):
                found.append(f"{case}: {answers[0][0]} has {len(first)} numbers, {name} {len(answer)}")
                continue
            apart = max(abs(a - b) for a, b in zip(first, answer, strict=True)) / largest
            if not apart <= suite.tolerance:
                found.append(f"{case}: {answers[0][0]} and {name} are {apart:.1e} apart")
    return found


def brief(row: Line) -> Line:
    """A row as it is kept: of a long answer, once it is compared, the beginning and a digest."""
    kept = dict(row)
    for key in ("answer", "processor"):
        answer = row.get(key) or ()
        if len(answer) > BEGINNING:
            digest = sha256(json.dumps(answer).encode()).hexdigest()
            kept |= {key: answer[:BEGINNING], f"{key}_numbers": len(answer), f"{key}_sha256": digest}
    return kept


def _origin(suite: Suite) -> Line:
    """Where it was measured, and on what."""
    from anyformer.evaluation import provenance

    commit, changed = provenance.commit()
    needed = {name for one in suite.contenders for name in one.needs}
    versions = {name: installed(name) for name in sorted({*PACKAGES, *needed})}
    machine = provenance.machine()
    facts = {name: machine[name] for name in ("processor", "cores", "accelerators", "system", "python")}
    load = list(os.getloadavg()) if hasattr(os, "getloadavg") else []
    return {"commit": commit, "changed": changed, "machine": facts, "versions": versions, "load": load}


def ours(line: Line, case: str) -> Line | None:
    """The best of our rows of a case."""
    return best(line, [row for row in line["rows"] if row["case"] == case and row["contender"].startswith(OURS)])


def best(line: Line, rows: Sequence[Line]) -> Line | None:
    measured = [row for row in rows if "value" in row]
    if not measured:
        return None
    return (min if line["amount"] else max)(measured, key=lambda row: row["value"])
