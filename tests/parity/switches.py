"""Every switch of an architecture, flipped one at a time.

Which switches exist is read off the settings' own fields; each has a rule here that says what else it could be, or a
reason why no output can depend on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from anyformer.architecture import Architecture, BackboneConfig, HeadConfig, RecurrentConfig, StreamConfig
from anyformer.sublayers import ACTIVATIONS
from anyformer.sublayers.normalisation import ITEM_NORMS, NORMS
from parity.schemes import embedder_changes, position_changes

Changes = dict[str, dict[str, Any]]
"""What a switch could be, in a word or two → the fields to be replaced."""

Rule = Callable[[Any], Changes]

EPSILONS = (1e-5, 1e-6, 1e-12)
"""All that were published, but for one of our variants."""

TRAINING = "it acts in training only"
STRUCTURE = "it holds other settings, which are switched themselves"
WITHOUT_RULE: dict[type, dict[str, str]] = {
    BackboneConfig: {
        **dict.fromkeys(("dropout", "attention_dropout", "init_std", "balance"), TRAINING),
        "rank": "the number of position axes follows from the streams",
    },
    RecurrentConfig: {
        **dict.fromkeys(("dropout", "init_std"), TRAINING),
        "rank": "the number of position axes follows from the streams",
    },
    HeadConfig: {},
    StreamConfig: {
        "rank": "the number of position axes follows from the tokens",
        "end": "where a generation stops is given with each stored generation",
    },
    Architecture: {
        **dict.fromkeys(("backbone", "encoder", "heads", "streams"), STRUCTURE),
        "source": "it names the streams that the encoder reads; without them nothing does",
        "context": "it bounds what is asked of a model, not what it computes",
        "family": "it names a table of weights",
    },
}
"""Fields that are not switched, and why."""


@dataclass(frozen=True)
class Mutant:
    """An architecture in which one switch stands otherwise. size: it is one that changes tensors' shapes."""

    name: str
    architecture: Architecture
    size: bool = False


def mutants(architecture: Architecture) -> Iterator[Mutant]:
    """Each switch of both stacks, the heads, the streams and the whole, at every other position."""
    for side in ("backbone", "encoder"):
        stack = getattr(architecture, side)
        if stack is not None:
            for name, size, changed in _flipped(stack):
                yield Mutant(f"{side}.{name}", replace(architecture, **{side: changed}), size)
    for kind in ("heads", "streams"):
        there = getattr(architecture, kind)
        for key, config in there.items():
            for name, size, changed in _flipped(config):
                yield Mutant(f"{kind}.{key}.{name}", replace(architecture, **{kind: {**there, key: changed}}), size)
    for name, size, changed in _flipped(architecture):
        yield Mutant(name, changed, size)


def _flipped(config: Any) -> Iterator[tuple[str, bool, Any]]:
    for field, rule in RULES[type(config)].items():
        for label, changes in rule(config).items():
            yield f"{field}: {label}", field in SIZES[type(config)], replace(config, **changes)


# What a rule is made of


def other(name: str, values: Iterable[Any]) -> Rule:
    """All of `values` but the one that it has."""
    return lambda config: {str(v): {name: v} for v in values if v != getattr(config, name)}


def where(applies: Callable[[Any], Any], rule: Rule) -> Rule:
    """A rule for configs that have the thing which the switch is about."""
    return lambda config: rule(config) if applies(config) else {}


def larger(name: str, by: int = 1) -> Rule:
    """A size that is stated."""
    return lambda config: {"larger": {name: getattr(config, name) + by}} if getattr(config, name) else {}


def toggled(name: str) -> Rule:
    return other(name, (True, False))


# Stacks


def has(*kinds: str) -> Callable[[BackboneConfig], bool]:
    """Whether a sublayer of one of these kinds is in the recipe."""
    return lambda config: any(entry.removeprefix("half ") in kinds for entry in config.recipe)


attends = has("attention", "cross_attention")
feeds = has("feed_forward")
convolves = has("convolution")


def pinned(config: BackboneConfig) -> dict[str, float]:
    """The epsilons of entry and exit as they are, so that those of the blocks can be switched alone."""
    eps = config.norm_eps
    return {
        "norm_eps": eps,
        "embed_norm_eps": eps if config.embed_norm_eps is None else config.embed_norm_eps,
        "final_norm_eps": eps if config.final_norm_eps is None else config.final_norm_eps,
    }


def epsilon(name: str) -> Rule:
    def rule(config: BackboneConfig) -> Changes:
        now = pinned(config)
        return {f"{eps:.0e}": {**now, name: eps} for eps in EPSILONS if eps != now[name]}

    return rule


def recipes(config: BackboneConfig) -> Changes:
    """Each sublayer left out, each step halved or doubled, neighbours exchanged."""
    found, recipe = {}, config.recipe
    for i, entry in enumerate(recipe):
        found[f"without {i + 1}"] = recipe[:i] + recipe[i + 1 :]
        half = entry.removeprefix("half ") if entry.startswith("half ") else f"half {entry}"
        found[f"other step in {i + 1}"] = (*recipe[:i], half, *recipe[i + 1 :])
    for i, (one, two) in enumerate(pairwise(recipe)):
        if one != two:
            found[f"{i + 2} before {i + 1}"] = (*recipe[:i], two, one, *recipe[i + 2 :])
    return {label: {"recipe": changed} for label, changed in found.items()}


def more_heads(config: BackboneConfig) -> Changes:
    """Twice as many, half as wide, at the same scale: the projections keep their shapes."""
    if config.head_width % 2:
        return {}
    keys = None if config.kv_heads is None else 2 * config.kv_heads
    heads = {"heads": 2 * config.heads, "kv_heads": keys, "head_dim": config.head_width // 2}
    return {"twice, half as wide": {**heads, "score_scale": scale(config)}}


def other_sharing(config: BackboneConfig) -> Changes:
    """All heads share a key, or none does."""
    return {"one": {"kv_heads": 1}} if config.key_heads > 1 else {"all": {"kv_heads": config.heads}}


def scale(config: BackboneConfig) -> float:
    return config.head_width**-0.5 if config.score_scale is None else config.score_scale


def scales(config: BackboneConfig) -> Changes:
    usual = {"none": 1.0, "by head_dim": config.head_width**-0.5, "by dim": config.dim**-0.5}
    return {label: {"score_scale": value} for label, value in usual.items() if value != scale(config)}


def windows(config: BackboneConfig) -> Changes:
    """Without one: a narrow one, and one in every second layer. With one: none, a wider, a narrower, other layers."""
    now = config.window if isinstance(config.window, tuple) else (config.window,)
    if now == (None,):
        return {"3": {"window": 3}, "3 in every second layer": {"window": (None, 3)}}
    changed = {
        "none": None,
        "wider": tuple(window and window + 1 for window in now),
        "narrower": tuple(window and window - 1 for window in now),
        "the layers exchanged": now[1:] + now[:1],
    }
    return {label: {"window": value} for label, value in changed.items() if value != now}


def biases(config: BackboneConfig) -> Changes:
    """Without each of those that are there, with each of those that are not."""
    now = config.attention_bias
    off = {f"not {letter}": {"attention_bias": now.replace(letter, "")} for letter in now}
    return off | {f"{letter} too": {"attention_bias": now + letter} for letter in "qkvo" if letter not in now}


BACKBONE: dict[str, Rule] = {
    "dim": lambda c: {"twice": {"dim": 2 * c.dim}},
    "heads": where(attends, more_heads),
    "depth": larger("depth"),
    "kv_heads": where(attends, other_sharing),
    "head_dim": where(attends, lambda c: {"larger": {"head_dim": c.head_width + 2}}),
    "hidden": where(feeds, lambda c: {"larger": {"hidden": c.hidden_width + 1}}),
    "memory_dim": where(has("cross_attention"), lambda c: {"larger": {"memory_dim": (c.memory_dim or c.dim) + 1}}),
    "recipe": recipes,
    "norm": other("norm", NORMS),
    "norm_eps": epsilon("norm_eps"),
    "norm_placement": other("norm_placement", ("pre", "post")),
    "end_norm": toggled("end_norm"),
    "final_norm": toggled("final_norm"),
    "final_norm_eps": where(lambda c: c.final_norm, epsilon("final_norm_eps")),
    "causal": toggled("causal"),
    "attention_bias": where(attends, biases),
    "score_scale": where(attends, scales),
    "score_scale_by_depth": where(attends, toggled("score_scale_by_depth")),
    "window": where(has("attention"), windows),
    "chunk": where(lambda c: attends(c) and not convolves(c), lambda c: {"of 2, and 1 before": {"chunk": (2, 1)}}),
    "activation": where(has("feed_forward", "convolution"), other("activation", ACTIVATIONS)),
    "gated": where(feeds, toggled("gated")),
    "feed_forward_bias": where(feeds, toggled("feed_forward_bias")),
    "experts": where(feeds, lambda c: {"more": {"experts": c.experts + 2}}),
    "top_k": where(lambda c: c.experts, lambda c: other("top_k", range(1, c.experts + 1))(c)),
    "kernel": where(convolves, larger("kernel", by=2)),
    "convolution_norm": where(convolves, other("convolution_norm", ITEM_NORMS)),
    "convolution_bias": where(convolves, toggled("convolution_bias")),
    "causal_convolution": where(convolves, toggled("causal_convolution")),
    "positions": position_changes,
    "embed_dim": lambda c: {"larger": {"embed_dim": c.embed_width + 2}},
    "embed_norm": toggled("embed_norm"),
    "embed_norm_eps": where(lambda c: c.embed_norm, epsilon("embed_norm_eps")),
    "embed_shift": toggled("embed_shift"),
}

RECURRENT: dict[str, Rule] = {
    "type": other("type", ("recurrent_encoder", "recurrent_decoder")),
    **{name: larger(name, by=2) for name in ("dim", "hidden", "align", "maxout", "memory_dim")},
}

# Heads, streams, the whole

HEAD: dict[str, Rule] = {
    "tie": toggled("tie"),
    "bias": toggled("bias"),
    "offset": toggled("offset"),
    "dense": lambda c: {"none": {"dense": None}, "larger": {"dense": c.dense + 1}} if c.dense else {},
    "activation": other("activation", (*ACTIVATIONS, None)),
    "norm": toggled("norm"),
    "norm_eps": where(lambda c: c.norm, lambda c: {f"{e:.0e}": {"norm_eps": e} for e in EPSILONS if e != c.norm_eps}),
    "scaled": toggled("scaled"),
    "squash": other("squash", (*ACTIVATIONS, None)),
}

STREAM: dict[str, Rule] = {
    "vocab_size": larger("vocab_size"),
    "features": lambda c: {"4 times as many": {"features": 4 * c.features}} if c.features else {},
    "overlay": where(lambda c: c.input, toggled("overlay")),
    "embedder": where(lambda c: c.input, embedder_changes),
    "input": toggled("input"),
}

RULES: dict[type, dict[str, Rule]] = {
    BackboneConfig: BACKBONE,
    RecurrentConfig: RECURRENT,
    HeadConfig: HEAD,
    StreamConfig: STREAM,
    Architecture: {"scale": toggled("scale")},
}

SIZES: Mapping[type, set[str]] = {
    BackboneConfig: {
        *("dim", "depth", "kv_heads", "head_dim", "hidden", "memory_dim", "embed_dim", "experts", "kernel"),
    },
    RecurrentConfig: {"dim", "hidden", "align", "maxout", "memory_dim"},
    HeadConfig: set(),
    StreamConfig: {"vocab_size", "features"},
    Architecture: set(),
}
"""Fields that are shapes: a file cannot be imported with another value, which is what is tested of them."""
