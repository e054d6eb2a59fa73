"""`anyformer doctor`: what is here, what is broken, and the cure."""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from anyformer import registry
from anyformer.errors import PluginError


def run(arguments: argparse.Namespace) -> int:
    print(f"python {platform.python_version()} on {platform.platform()}")
    wrong = [line for line in (*_packages(), *_extensions(), *_folders(), *_plugins()) if line]
    print("\n".join(f"broken: {line}" for line in wrong) if wrong else "nothing is broken")
    return 1 if wrong else 0


def _packages() -> Iterator[str]:
    """What the installed distribution's own metadata asks for, with and without extras."""
    for name, (wanted, extras) in needs(requires("anyformer") or []).items():
        cure = f"pip install 'anyformer[{extras[0]}]'" if extras else "install anyformer again, with its dependencies"
        told = f" (extra {', '.join(extras)})" if extras else ""
        try:
            found = version(name)
        except PackageNotFoundError:
            if extras:
                print(f"  {name}: not installed; only needed for the extra {', '.join(extras)}: {cure}")
            else:
                yield f"{name} is not installed; {cure}"
            continue
        print(f"  {name} {found}{told}")
        if not wanted.contains(found, prereleases=True):
            yield f"{name} {found} is installed; expected {wanted}{told}; {cure}"


def needs(lines: Iterable[str]) -> dict[str, tuple[SpecifierSet, list[str]]]:
    """Packages with their versions, and the extras that they are needed for; none where they always are.

    >>> found = needs(["b>=2", "a>1; extra == 'x'", "a>1; extra == 'y'", "b>=2; extra == 'y'"])
    >>> {name: (str(wanted), extras) for name, (wanted, extras) in found.items()}
    {'b': ('>=2', []), 'a': ('>1', ['x', 'y'])}
    """
    needed = [need for need in map(Requirement, lines) if _applies(need)]
    always = {need.name for need in needed if _extra(need) is None}
    found: dict[str, tuple[SpecifierSet, list[str]]] = {}
    for need in needed:
        _, extras = found.setdefault(need.name, (need.specifier, []))
        if need.name not in always:
            extras.append(str(_extra(need)))
    return found


def _applies(need: Requirement) -> bool:
    """Whether it is for this system."""
    return need.marker is None or need.marker.evaluate({"extra": _extra(need) or ""})


def _extra(need: Requirement) -> str | None:
    found = re.search(r"""extra == ['"](.+?)['"]""", str(need.marker or ""))
    return found[1] if found else None


def _extensions():
    """torch, torchvision and torchaudio work only as the trio they were built as."""
    for name in ("torch", "torchvision", "torchaudio"):
        try:
            module = __import__(name)
        except Exception as error:
            yield f"{name} does not import ({error}); reinstall torch, torchvision and torchaudio together"
            continue
        if name == "torch":
            devices = [module.cuda.get_device_name(i) for i in range(module.cuda.device_count())]
            print(f"  devices: cpu ({module.get_num_threads()} threads){''.join(f', {d}' for d in devices)}")


def _folders():
    """Where downloads are kept and temporary files go; a run's own folder is the user's choice."""
    kept = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    for what, folder, variable in (("cache", kept, "HF_HOME"), ("temporary", Path(tempfile.gettempdir()), "TMPDIR")):
        there = next(path for path in (folder, *folder.parents) if path.exists())
        if os.access(there, os.W_OK):
            print(f"  {what} folder: {folder}, {shutil.disk_usage(there).free // 2**20} MB free")
        else:
            yield f"the {what} folder {folder} cannot be written to; set {variable} to one that can"


def _plugins():
    try:
        from anyformer.testing import strangers
    except ImportError as error:
        yield f"no plugin was tried, because anyformer itself does not import ({error})"
        return
    kinds = (registry.tokenizers, registry.tasks, registry.objectives, registry.studies)
    yield from strangers.complaints(kinds)
    for found in kinds:
        for name in found.names():
            if strangers.OWN not in found.origin(name).rpartition("(")[2]:  # that was imported elsewhere, for safety
                print(f"  {found.kind} {name}: {found.origin(name)}")
                continue
            try:
                found.get(name)
                print(f"  {found.kind} {name}: {found.origin(name)}")
            except PluginError as error:
                yield str(error)
    sys.stdout.flush()
