"""`anyformer chaos`: try promises under faults, and keep count."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from anyformer.chaos import TRIALS, Trial
from anyformer.chaos.conductor import attempt
from anyformer.chaos.ledger import RANGE, Ledger, Line, page
from anyformer.errors import ConfigError, unknown

EVERY = 20  # passed trials between two lines of progress


def run(arguments: argparse.Namespace) -> int:
    """1 if any trial of this call failed."""
    if arguments.list:
        return _list()
    if not arguments.name and not arguments.page:
        raise ConfigError("`anyformer chaos`: expected a name of `anyformer chaos --list`, or --page FILE.")
    if arguments.seed < 0 or (arguments.n is not None and not 0 < arguments.n < RANGE):
        raise ConfigError(f"--n {arguments.n} --seed {arguments.seed}: expected at least 1, and at least 0.")
    for name in arguments.name:
        if name not in TRIALS:
            raise unknown("trial", name, TRIALS)
    ledger = Ledger(Path(arguments.out))
    failed = sum(_try(TRIALS[name], arguments.n, arguments.seed, ledger) for name in arguments.name)
    if arguments.page:
        _write(Path(arguments.page), ledger)
    return 1 if failed else 0


def _list() -> int:
    width = max(map(len, TRIALS))
    for trial in TRIALS.values():
        print(f"{trial.name:<{width}}  {trial.target * trial.cases:>6,}  {trial.promise}")
    return 0


def _try(trial: Trial, count: int | None, seed: int, ledger: Ledger) -> int:
    """How many failed."""
    from anyformer.evaluation import provenance

    commit, changed = provenance.commit()
    told = f"{commit}{'+' if changed else ''}" if commit else ""
    numbers = ledger.next(trial.name, ledger.left(trial, seed) if count is None else count, seed)
    failed = 0
    for done, index in enumerate(numbers, start=1):
        tried = attempt(trial, index)
        ledger.add(Line(tried.trial, tried.index, tried.failure, tried.notes, tried.seconds, told))
        if not tried.passed:
            failed += 1
            print(f"{trial.name} {index}: {tried.failure}", flush=True)
        elif done % EVERY == 0:
            print(f"{trial.name}: {done - failed} of {done} kept", file=sys.stderr, flush=True)
    known = ledger.of(trial.name).values()
    print(
        f"{trial.name}: {len(numbers) - failed} of {len(numbers)} kept; with earlier calls "
        f"{sum(line.passed for line in known)} of {len(known)}, full figure {trial.target:,}"
        + (f", of {trial.cases} cases each" if trial.cases > 1 else ""),
        flush=True,
    )
    return failed


def _write(file: Path, ledger: Ledger) -> None:
    from anyformer.evaluation import provenance

    found = provenance.machine()
    machine = f"{found['processor']}, {found['cores']} cores, torch {found['torch']}"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(page(ledger, TRIALS.values(), machine), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--page {file}: cannot be written ({error.strerror}). Name another file.") from error
