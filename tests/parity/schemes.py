"""Settings of position schemes and embedders, which are constructors' arguments: what else each could be."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from anyformer.architecture import BackboneConfig, StreamConfig
from anyformer.model.embedders import EMBEDDERS
from anyformer.sublayers import ACTIVATIONS
from anyformer.sublayers.positions import SCHEMES

Values = dict[str, Any]
"""What a setting could be, in a word or two → its value."""


def arguments(made_by: Callable[..., Any], given: Iterable[str]) -> Values:
    """Settings of a constructor with their defaults; `given` ones are no settings."""
    found = inspect.signature(made_by).parameters
    return {name: parameter.default for name, parameter in found.items() if name not in given}


scheme_settings = partial(arguments, given=("config",))
embedder_settings = partial(arguments, given=("features", "dim"))


def among(*choices: Any) -> Callable[[Any], Values]:
    return lambda now: {str(value): value for value in choices if value != now}


def scalings(now: dict[str, Any] | None) -> Values:
    """None, all slower, LLaMA 3's way; of that each number twice as large."""
    linear = {"type": "linear", "factor": 2.0}
    llama3 = {"type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original": 16}
    found = {"none": None, "linear": linear, "llama3": llama3}
    if now is not None:
        found |= {f"twice the {k}": {**now, k: 2 * v} for k, v in now.items() if k != "type"}
        found.pop(now["type"])
    return {label: value for label, value in found.items() if value != now}


POSITIONS: dict[str, Callable[[Any], Values]] = {
    "size": lambda now: {"larger": 512} if now is None else {"larger": now + 1},
    "offset": among(0, 1, 2),
    "layout": among("interleaved", "halves"),
    "endpoint": among(True, False),
    "base": lambda now: {"twice": 2 * now, **among(500.0, 10_000.0)(float(now))},
    "scaling": scalings,
    "on": among("heads", "input"),
    "buckets": lambda now: {"more": now + 2},
    "max_distance": lambda now: {"half": now // 2, "twice": 2 * now},
    "bidirectional": among(True, False),
    "left": lambda now: {"one more": now + 1},
    "right": lambda now: {"one more": now + 1},
}

TOGETHER = {
    "shaw": {
        "one from left to right": lambda now: {"left": now["left"] - 1, "right": now["right"] + 1},
        "one from right to left": lambda now: {"left": now["left"] + 1, "right": now["right"] - 1},
    },
    "sinusoidal": {"computed": lambda now: {"size": None}},
}
"""Scheme → changes of several settings, or to a value that only this scheme has."""

NEEDED = {"learned": {"size": 512}, "shaw": {"left": 4, "right": 3}}
"""What a scheme must be given."""


def position_changes(config: BackboneConfig) -> dict[str, dict[str, Any]]:
    """Every other scheme, and this one with each setting changed."""
    now = dict(config.positions)
    kind = now.pop("type")
    found = {f"type {other}": {"type": other, **NEEDED.get(other, {})} for other in SCHEMES if other != kind}
    for name, default in scheme_settings(SCHEMES[kind]).items():
        for label, value in POSITIONS[name](now.get(name, default)).items():
            found[f"{name} {label}"] = {"type": kind, **now, name: value}
    for label, change in TOGETHER.get(kind, {}).items():
        found[label] = {"type": kind, **now, **change(now)}
    return {label: {"positions": value} for label, value in found.items() if value != config.positions}


def layers(now: list[list[Any]]) -> Values:
    """Every stride and padding one larger, and the first kernel."""
    found = {}
    for i, (width, kernel, stride, padding) in enumerate(now):
        for label, layer in {
            f"stride {i + 1}": [width, kernel, stride + 1, padding],
            f"padding {i + 1}": [width, kernel, stride, padding + 1],
            f"kernel {i + 1}": [width, kernel + 1, stride, padding],
        }.items():
            found[label] = [*now[:i], layer, *now[i + 1 :]]
    return found


EMBEDDER: dict[str, Callable[[Any], Values]] = {
    "layers": layers,
    "activation": among(*ACTIVATIONS),
    "bias": among(True, False),
    "norm": among(True, False),
    "project": among(True, False),
    "norm_eps": among(1e-5, 1e-6, 1e-12),
}

WITHOUT = {("linear", "norm_eps"): {"without the norm": None}}
"""(Embedder, setting) → values that mean something here only."""

IDLE = {("convolutions", "norm_eps"): lambda now: not now.get("project")}
"""(Embedder, setting) → when nothing in the embedder reads it."""


def embedder_changes(config: StreamConfig) -> dict[str, dict[str, Any]]:
    """A given vector embedded, a linear map with a norm before it, convolutions with each setting changed."""
    if config.features is None:
        return {}
    now = dict(config.embedder or {"type": "linear"})
    kind = now.pop("type")
    found: dict[str, Any] = {"type linear": {"type": "linear"}} if kind == "given" else {}
    for name, default in embedder_settings(EMBEDDERS[kind]).items():
        if IDLE.get((kind, name), lambda now: False)(now):
            continue
        choices = EMBEDDER[name](now.get(name, default)) | WITHOUT.get((kind, name), {})
        for label, value in choices.items():
            if value != now.get(name, default):
                found[f"{name} {label}"] = {"type": kind, **now, name: value}
    return {label: {"embedder": value} for label, value in found.items()}
