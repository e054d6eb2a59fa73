"""Tiny reference models with random weights, and what they compute, as folders for parity tests.

The models are those of transformers, timm, torchvision, torchaudio and PyTorch; RNNsearch is written from its paper.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from references import audio, control, decoders, encoders, pictures, rnnsearch, translators
from references.generation import MARGIN, generate, settings
from references.parameters import POSITIONS, fill
from references.reference import Reference, Tensors
from references.setting import REGIMES, Setting

__all__ = ["FAMILIES", "REGIMES", "Reference", "build", "live"]

FAMILIES: dict[str, Callable[[Setting], Reference]] = {
    **decoders.FAMILIES,
    **encoders.FAMILIES,
    **translators.FAMILIES,
    **pictures.FAMILIES,
    **audio.FAMILIES,
    **control.FAMILIES,
    **rnnsearch.FAMILIES,
}

ATTEMPTS = 20


def build(
    family: str,
    directory: Path,
    seed: int = 0,
    regime: str = "ordinary",
    change: Mapping[str, Any] | None = None,
) -> Path:
    """Write `directory`: the checkpoint as its library saves it, inputs, outputs, and `meta.json` about them.

    `regime`: "ordinary"; "sharp", where small weights make every norm's epsilon show; "long", past 128 tokens.
    `change`: fields of the reference's config, or arguments of its constructor, that are to differ.
    """
    with _alone():
        for attempt in range(ATTEMPTS):
            setting = Setting(seed, regime, change or {}, attempt)
            reference = _filled(family, setting)
            results, meta = _results(reference)
            if meta.get("greedy_min_top2_margin", MARGIN) >= MARGIN:
                break
        else:
            raise AssertionError(f"{family}: {ATTEMPTS} prompts all led to near ties.")
        about = {"family": family, "doc": FAMILIES[family].__doc__, **dataclasses.asdict(setting)}
        if meta:
            about["generation"] = meta
        about["n_parameters"] = sum(parameter.numel() for parameter in reference.model.parameters())
        reference.write(Path(directory), results, about)
    return Path(directory)


def live(family: str, seed: int = 0, regime: str = "ordinary", change: Mapping[str, Any] | None = None) -> Reference:
    """The model itself with its inputs, for experiments on it."""
    with _alone():
        return _filled(family, Setting(seed, regime, change or {}))


def _filled(family: str, setting: Setting) -> Reference:
    reference = FAMILIES[family](setting)
    _check(reference, setting.change)
    sharp = reference.sharp if setting.regime == "sharp" else {}
    scale = [*POSITIONS.items(), *reference.scale.items(), *sharp.items()]
    fill(reference.model, setting, scale, reference.keep, reference.signed)
    reference.model.eval()
    return reference


def _check(reference: Reference, change: Mapping[str, Any]) -> None:
    """transformers' configs take any field, also a misspelt one that nothing reads."""
    if reference.config is not None:
        return  # constructors refuse what they do not know
    config = type(reference.model.config)
    unknown = [name for name in change if not hasattr(config(), name)]
    if unknown:
        raise ValueError(f"{config.__name__} has no fields {', '.join(unknown)}.")


def _results(reference: Reference) -> tuple[Tensors, dict[str, Any]]:
    outputs = reference.outputs()
    if reference.prompt is None:
        return outputs, {}
    generated, meta = generate(reference.model, reference.prompt)
    reference.model.generation_config = settings(reference.prompt)
    return outputs | generated, meta


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """On one thread, without moving PyTorch's global random state."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=()):
            yield
    finally:
        torch.set_num_threads(threads)
