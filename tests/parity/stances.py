"""How an architecture's switches stand, so that published ones can be held against those that references prove."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from numbers import Number
from typing import Any

from anyformer.architecture import Architecture, BackboneConfig, HeadConfig, StreamConfig
from anyformer.model.embedders import EMBEDDERS
from anyformer.sublayers.positions import SCHEMES
from parity.schemes import embedder_settings, scheme_settings
from parity.switches import RULES, SIZES, pinned, scale

Stance = tuple[str, Any]
"""A switch and its position."""

COUNTED = {"heads", "top_k"}
"""Numbers of which any is as good as another."""

UNPROVEN: dict[str, str] = {
    r"embedder(\.convolutions_2d\..*)?": "the conformer's subsampling, written out in a test of its own",
    r"positions\.sinusoidal\.(layout|size)": "the paper's sinusoids side by side, computed for any length; the"
    " libraries store theirs in halves",
}
"""Patterns of switches that stand in some published architecture as in no reference, and why."""


def stances(architecture: Architecture) -> set[Stance]:
    """Each switch of an architecture with its position; sizes and other numbers left out, but for epsilons."""
    found = {("scale", architecture.scale)}
    for stack in (architecture.backbone, architecture.encoder):
        if isinstance(stack, BackboneConfig):
            found |= set(_of_stack(stack))
    for head in architecture.heads.values():
        found |= {(f"head.{name}", _plain(head, name)) for name in RULES[HeadConfig] if name != "dense"}
        found.add(("head.dense", head.dense is not None))
    for stream in architecture.streams.values():
        found |= {(f"stream.{name}", getattr(stream, name)) for name in ("overlay", "input")}
        found |= set(_of_embedder(stream))
    return found


def _of_stack(stack: BackboneConfig) -> Iterator[Stance]:
    told = RULES[BackboneConfig].keys() - SIZES[BackboneConfig] - COUNTED
    eps = pinned(stack)
    special = {
        "recipe": stack.recipe,
        "positions": stack.positions["type"],
        "score_scale": {stack.head_width**-0.5: "by head_dim", 1.0: "none"}.get(scale(stack), "another"),
        "window": _window(stack),
        "attention_bias": "".join(sorted(stack.attention_bias)),
        "final_norm_eps": eps["final_norm_eps"] if stack.final_norm else None,
        "embed_norm_eps": eps["embed_norm_eps"] if stack.embed_norm else None,
    }
    yield from ((name, special.get(name, getattr(stack, name))) for name in told)
    yield ("shared keys", "none" if stack.key_heads == stack.heads else "all" if stack.key_heads == 1 else "some")
    yield ("experts", bool(stack.experts))
    yield ("narrower embeddings", stack.embed_width != stack.dim)
    yield from _settings("positions", stack.positions, scheme_settings(SCHEMES[stack.positions["type"]]))


def _window(stack: BackboneConfig) -> str:
    seen = [stack.window_of(layer) is None for layer in range(stack.depth)]
    return "none" if all(seen) else "some layers" if any(seen) else "all layers"


def _of_embedder(stream: StreamConfig) -> Iterator[Stance]:
    if stream.input and stream.features is not None:
        given = dict(stream.embedder or {"type": "linear"})
        yield ("embedder", given["type"])
        yield from _settings("embedder", given, embedder_settings(EMBEDDERS[given["type"]]))


def _settings(what: str, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> Iterator[Stance]:
    """Words, yes and no; of numbers and lists only whether there is one; of settings with a type only that."""
    for name, default in defaults.items():
        value = given.get(name, default)
        if isinstance(value, Mapping):
            value = value["type"]
        elif not isinstance(value, str | bool | None):
            value = value if name == "norm_eps" and isinstance(value, Number) else "given"
        yield (f"{what}.{given['type']}.{name}", value)


def _plain(head: HeadConfig, name: str) -> Any:
    return None if name == "norm_eps" and not head.norm else getattr(head, name)
