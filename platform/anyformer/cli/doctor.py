"""`anyformer doctor`: what is here, what is broken, and the cure."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from anyformer import registry
from anyformer.errors import PluginError

PACKAGES = (
    "torch", "torchvision", "torchaudio", "lightning", "jsonargparse", "gymnasium", "sentencepiece", "safetensors",
    "soundfile", "torchmetrics", "jaxtyping", "rich", "matplotlib", "numpy", "pillow",
)  # fmt: skip
EXTRAS = {
    "scikit-learn": "demo", "minari": "rl", "transformers": "hf", "tokenizers": "hf", "huggingface-hub": "hf",
    "datasets": "hf", "jiwer": "metrics", "sacrebleu": "metrics", "lm-eval": "eval", "tensorboard": "dev",
}  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    print(f"python {platform.python_version()} on {platform.platform()}")
    wrong = [line for line in (*_packages(), *_extensions(), *_folders(), *_plugins()) if line]
    print("\n".join(f"broken: {line}" for line in wrong) if wrong else "nothing is broken")
    return 1 if wrong else 0


def _packages():
    for name in PACKAGES:
        try:
            print(f"  {name} {version(name)}")
        except PackageNotFoundError:
            yield f"{name} is not installed; install anyformer again, with its dependencies"
    for name, extra in EXTRAS.items():
        try:
            print(f"  {name} {version(name)} (extra {extra})")
        except PackageNotFoundError:
            print(f"  {name}: not installed; only needed for the extra {extra}: pip install 'anyformer[{extra}]'")


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
