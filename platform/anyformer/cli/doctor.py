"""`anyformer doctor`: what is here, what is broken, and the cure."""

from __future__ import annotations

import argparse
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

from anyformer import registry
from anyformer.errors import PluginError

PACKAGES = (
    "torch", "torchvision", "torchaudio", "lightning", "jsonargparse", "gymnasium", "sentencepiece", "safetensors",
    "soundfile", "torchmetrics", "jaxtyping", "rich", "matplotlib", "numpy", "pillow",
)  # fmt: skip
EXTRAS = {"scikit-learn": "demo", "minari": "rl", "transformers": "hf", "jiwer": "eval", "tensorboard": "dev"}


def run(arguments: argparse.Namespace) -> int:
    print(f"python {platform.python_version()} on {platform.platform()}")
    wrong = [line for line in (*_packages(), *_extensions(), *_plugins()) if line]
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


def _plugins():
    for found in (registry.tokenizers, registry.tasks, registry.objectives):
        for name in found.names():
            try:
                found.get(name)
                print(f"  {found.kind} {name}: {found.origin(name)}")
            except PluginError as error:
                yield str(error)
    sys.stdout.flush()
