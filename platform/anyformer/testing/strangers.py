"""Plugins of other packages, each imported in a process of its own, so that one that exits, hangs, prints or changes
torch is named rather than obeyed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, EntryPoint, version

from packaging.requirements import InvalidRequirement, Requirement

from anyformer.registry import Registry

OWN = "anyformer"
SECONDS = 60.0  # for importing one of them

PROBE = """
import contextlib, importlib, io, json, sys

WATCHED = ("builtins", "json", "random", "numpy", "numpy.random", "torch", "torch.nn", "torch.nn.functional",
           "torch.optim", "anyformer.batch", "anyformer.contracts", "anyformer.registry", "anyformer.tokens")

def seen():
    return {(name, key): id(value) for name in WATCHED for key, value in vars(importlib.import_module(name)).items()
            if not key.startswith("__")}

before, printed, error = seen(), io.StringIO(), ""
module, _, attribute = sys.argv[1].partition(":")
with contextlib.redirect_stdout(printed):
    try:
        getattr(importlib.import_module(module), attribute)
    except SystemExit as end:
        error = f"it exits Python with status {end.code}"
    except BaseException as failure:
        error = f"{type(failure).__name__}: {failure}"
after = seen()
patched = sorted(f"{name}.{key}" for (name, key), there in before.items() if after.get((name, key)) != there)
print("\\n" + json.dumps({"error": error, "printed": printed.getvalue(), "patched": patched}))
"""


def complaints(registries: Iterable[Registry], seconds: float = SECONDS) -> Iterator[str]:
    """One sentence for each thing that is wrong with a plugin of another package, naming the package."""
    told: set[str] = set()
    for registry in registries:
        for name, claims in registry.installed().items():
            for point in claims:
                if _package(point) == OWN:
                    continue
                for said in (*_requirements(point.dist), *_import(point, seconds)):
                    line = f"{registry.kind} {name!r} of {_package(point)} ({point.value}): {said}"
                    if line not in told:
                        told.add(line)
                        yield line


def _package(point: EntryPoint) -> str:
    return str(point.dist.name) if point.dist and point.dist.name else "an unknown package"


def _requirements(package: Distribution | None) -> Iterator[str]:
    """Whether the package was made for this version of anyformer."""
    for text in (package.requires or []) if package else []:
        try:
            needed = Requirement(text)
        except InvalidRequirement:
            yield f"its requirement {text!r} cannot be read"
            continue
        if needed.name == OWN and not needed.specifier.contains(version(OWN), prereleases=True):
            yield f"it requires {text}, and {version(OWN)} is installed; install the version of it that fits"


def _import(point: EntryPoint, seconds: float) -> Iterator[str]:
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROBE, point.value], capture_output=True, text=True, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        yield f"importing it does not end within {seconds:g} s, which nothing here can cut short; uninstall it"
        return
    try:
        found = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        how = f"dies ({signal.Signals(-done.returncode).name})" if done.returncode < 0 else f"exits ({done.returncode})"
        yield f"Python {how} while importing it, which nothing here can catch; uninstall it"
        return
    if found["error"]:
        yield f"it cannot be imported ({found['error']}); mend or uninstall it"
    if found["printed"]:
        yield f"it prints at import: {found['printed'].strip()!r:.60}"
    if found["patched"]:
        yield f"it changes {', '.join(found['patched'][:5])} at import, for everybody; uninstall it"
