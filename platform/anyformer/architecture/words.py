"""How every switch of an architecture is said: its group, its name, and its values in words.

A field that is in none of these tables fails a test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anyformer.architecture.settings import BackboneConfig, HeadConfig

Said = tuple[str, ...]
"""What is said of one thing, in parts that are compared one by one."""

Phrase = Callable[[Any, Any], "str | None"]
"""From a switch's value and the settings it stands in to words; None where it says nothing, or nothing unusual."""


@dataclass(frozen=True)
class Switch:
    """In which group a field is told, what it is called, how its values are said, and how it is where nothing is."""

    group: str
    label: str
    say: Phrase
    usual: str = "none"


@dataclass(frozen=True)
class Kind:
    """Something that is made by its `type`: words, and for each setting its default and how it is said."""

    words: str
    settings: dict[str, tuple[Any, Phrase]]


REQUIRED = object()
"""The default of a setting that has none."""


def made(value: Mapping[str, Any], kinds: Mapping[str, Kind]) -> Said:
    """A kind and its settings. ("none" is not told.)"""
    kind = kinds[value["type"]]
    told = (say(value.get(key, default), value) for key, (default, say) in kind.settings.items())
    return tuple(phrase for phrase in (kind.words, *told) if phrase)


# Ways of saying a value


def number(value: float, config: Any = None) -> str:
    """
    >>> number(50257), number(1e-05), number(500000.0), number(0.1)
    ('50,257', '1e-5', '500,000', '0.1')
    """
    return f"{value:,}" if isinstance(value, int) else f"{value:,.12g}".replace("e-0", "e-")


def _words(choices: Mapping[Any, str | None]) -> Phrase:
    return lambda value, config: choices[value]


def _text(form: str) -> Phrase:
    """The number in a sentence, unless there is none."""
    return lambda value, config: form.format(number(value)) if value else None


def _some(value: float | None, config: Any) -> str | None:
    """The number, unless there is none."""
    return number(value) if value else None


def _with(sublayer: str, say: Phrase) -> Phrase:
    return lambda value, config: say(value, config) if sublayer in config.recipe else None


def _with_experts(value: float, config: BackboneConfig) -> str | None:
    return number(value) if config.experts else None


def _epsilon(applies: str) -> Phrase:
    """An epsilon of its own, where there is such a norm."""

    def say(value: float | None, config: BackboneConfig) -> str | None:
        return None if value in (None, config.norm_eps) or not getattr(config, applies) else number(value)

    return say


def _recipe(value: tuple[str, ...], config: Any) -> str | None:
    told = (("half a " if e.startswith("half ") else "") + SUBLAYERS[e.removeprefix("half ")] for e in value)
    return ", ".join(told) or None


def _biases(value: str, config: Any) -> str | None:
    return ", ".join(word for letter, word in PROJECTIONS.items() if letter in value) or None


def _key_heads(value: int | None, config: BackboneConfig) -> str:
    if config.key_heads == config.heads:
        return "one for each head (multi-head)"
    if config.key_heads == 1:
        return f"one for all {config.heads} heads (multi-query)"
    return f"{config.key_heads}, each for {config.heads // config.key_heads} heads (grouped-query)"


def _score_scale(value: float | None, config: BackboneConfig) -> str | None:
    if value is None or value == config.head_width**-0.5:
        return None
    return "not scaled" if value == 1 else f"multiplied by {number(value)}"


def _window(value: int | tuple[int | None, ...] | None, config: Any) -> str | None:
    if isinstance(value, tuple):
        return ", then ".join(_window(one, config) or ALL_KEYS for one in value) + ", layer by layer in turn"
    return None if value is None else f"{number(value)} keys"


def _chunk(value: tuple[int, int] | None, config: Any) -> str | None:
    return None if value is None else f"{number(value[0])} tokens, which see {number(value[1])} chunks before them"


def _scaling(value: Mapping[str, Any] | None, config: Any) -> str | None:
    return "slowed by " + ", ".join(f"{key} {told}" for key, told in value.items()) if value else None


def _layers(value: Sequence[Sequence[Any]], config: Any) -> str:
    widths, kernels, strides, paddings = ([layer[i] for layer in value] for i in range(4))
    wide = _series(["the stack's" if width is None else width for width in widths])
    pads = f", padding {_series(paddings)}" if any(paddings) else ""
    return f"{len(value)} layers, width {wide}, kernel {_series(kernels)}, stride {_series(strides)}{pads}"


def _series(values: Sequence[Any]) -> str:
    """Equal values once, others in their order."""
    return str(values[0]) if len(set(values)) == 1 else " ".join(map(str, values))


# Words of names

ACTIVATIONS = {
    "relu": "ReLU",
    "gelu": "GELU (exact)",
    "gelu_tanh": "GELU (by tanh)",
    "silu": "SiLU (swish)",
    "tanh": "tanh",
}
NORMS = {"layer": "layer norm", "rms": "RMS norm (no mean, no bias)"}
SUBLAYERS = {
    "attention": "attention",
    "cross_attention": "cross-attention",
    "feed_forward": "feed-forward",
    "convolution": "convolution",
}
PROJECTIONS = {"q": "queries", "k": "keys", "v": "values", "o": "output"}
ITEM_NORMS = {
    "layer": "layer norm, of each token",
    "batch": "batch norm, over all tokens",
    "group": "group norm, over each item",
}

POSITIONS = {
    "none": Kind("", {}),
    "learned": Kind("a learned table", {
        "size": (REQUIRED, _text("{} rows")),
        "offset": (0, _text("the first {} rows unused")),
    }),
    "sinusoidal": Kind("sinusoids", {
        "layout": ("interleaved", _words({"interleaved": None, "halves": "all sines before all cosines"})),
        "endpoint": (False, _words({False: None, True: "the last frequency at the base itself"})),
        "base": (10_000.0, _text("base {}")),
        "size": (None, _text("kept as a table of {} rows")),
    }),
    "rotary": Kind("rotary", {
        "base": (10_000.0, _text("base {}")),
        "layout": ("halves", _words({"halves": None, "interleaved": "neighbours turned together"})),
        "scaling": (None, _scaling),
        "on": ("heads", _words({"heads": None, "input": "before queries and keys are projected"})),
    }),
    "buckets": Kind("a learned number for each head and bucket of distances", {
        "buckets": (32, _text("{} buckets")),
        "max_distance": (128, _text("the last bucket from {} on")),
        "bidirectional": (False, _words({False: None, True: "half of the buckets for later keys"})),
    }),
    "alibi": Kind("scores that fall with the distance (ALiBi)", {}),
    "shaw": Kind("a learned vector for each distance (Shaw)", {
        "left": (REQUIRED, _text("up to {} before")),
        "right": (REQUIRED, _text("up to {} behind")),
    }),
    "transformer_xl": Kind("sinusoids of the distance, projected in every layer (Transformer-XL)", {}),
}  # fmt: skip

EMBEDDERS = {
    "given": Kind("taken as they are", {}),
    "linear": Kind("a linear map", {"norm_eps": (None, _text("behind a norm of epsilon {}"))}),
    "convolutions": Kind("convolutions over time", {
        "layers": (REQUIRED, _layers),
        "activation": ("gelu", _words(ACTIVATIONS)),
        "bias": (True, _words({True: None, False: "no biases"})),
        "norm": (False, _words({False: None, True: "a norm behind each layer"})),
        "project": (False, _words({False: None, True: "then a norm and a linear map"})),
        "norm_eps": (1e-5, lambda value, config: f"epsilon {number(value)}" if config.get("project") else None),
    }),
    "convolutions_2d": Kind("convolutions over time and features, then a linear map", {
        "layers": (REQUIRED, _layers),
        "activation": ("relu", _words(ACTIVATIONS)),
        "bias": (True, _words({True: None, False: "no biases"})),
    }),
}  # fmt: skip


# Words of fields

ALL_KEYS = "all keys"
OWN_WIDTH = "the stack's"
SAME_EPSILON = "as of the others"

BACKBONE = {
    "recipe": Switch("block", "sublayers", _recipe),
    "norm": Switch("block", "norm", _words(NORMS)),
    "norm_placement": Switch("block", "norm placement", _words({
        "pre": "before each sublayer (pre)", "post": "after each sublayer (post)",
    })),
    "norm_eps": Switch("block", "epsilon of the norms", number),
    "end_norm": Switch("block", "norm behind each block", _words({False: None, True: "one more"})),
    "final_norm": Switch("block", "norm behind the stack", _words({False: None, True: "one"})),
    "final_norm_eps": Switch("block", "epsilon of the last norm", _epsilon("final_norm"), SAME_EPSILON),
    "causal": Switch("attention", "a token sees", _words({
        True: "itself and what came before (causal)", False: "both sides (bidirectional)",
    })),
    "kv_heads": Switch("attention", "key and value heads", _key_heads),
    "attention_bias": Switch("attention", "biases", _biases),
    "score_scale": Switch("attention", "scores", _score_scale, "divided by the square root of the head's width"),
    "score_scale_by_depth": Switch("attention", "scores from layer to layer", _words({
        False: None, True: "divided by the layer's number",
    }), "alike"),
    "window": Switch("attention", "window", _window, ALL_KEYS),
    "chunk": Switch("attention", "chunks", _chunk, "none"),
    "memory_dim": Switch("attention", "width of what cross-attention reads", lambda value, config: (
        None if value in (None, config.dim) else number(value)
    ), "the stack's own"),
    "activation": Switch("feed-forward", "activation", _words(ACTIVATIONS)),
    "gated": Switch("feed-forward", "gate", _words({False: None, True: "a second branch is multiplied in"})),
    "feed_forward_bias": Switch("feed-forward", "biases", _words({False: None, True: "in both maps"})),
    "experts": Switch("feed-forward", "experts", _some, "one network for all tokens"),
    "top_k": Switch("feed-forward", "experts at work for a token", _with_experts),
    "kernel": Switch("convolution", "kernel", _with("convolution", number)),
    "convolution_norm": Switch("convolution", "norm", _with("convolution", _words(ITEM_NORMS))),
    "convolution_bias": Switch("convolution", "biases", _with("convolution", _words({
        False: None, True: "in all maps",
    }))),
    "causal_convolution": Switch("convolution", "a token hears", _with("convolution", _words({
        False: "both sides", True: "itself and what came before",
    }))),
    "positions": Switch("positions", "positions", lambda value, config: None),  # in parts, by POSITIONS
    "rank": Switch("positions", "position axes", _some, "as many as the streams have"),
    "embed_dim": Switch("embeddings", "width of embeddings", lambda value, config: (
        None if value in (None, config.dim) else f"{number(value)}, then a linear map to the stack's"
    ), OWN_WIDTH),
    "embed_norm": Switch("embeddings", "norm behind the embeddings", _words({False: None, True: "one"})),
    "embed_norm_eps": Switch("embeddings", "epsilon of that norm", _epsilon("embed_norm"), SAME_EPSILON),
    "embed_shift": Switch("embeddings", "constant behind the embeddings", _words({
        False: None, True: "a trained one",
    })),
    "dropout": Switch("training", "dropout", _some),
    "attention_dropout": Switch("training", "dropout of attention", _some),
    "init_std": Switch("training", "spread of initial weights", _some, "by each matrix's width"),
    "balance": Switch("training", "weight of the experts' balance", _with_experts),
    "dim": Switch("size", "width", number),
    "depth": Switch("size", "blocks", number),
    "heads": Switch("size", "heads", number),
    "head_dim": Switch("size", "width of a head", lambda value, config: number(config.head_width)),
    "hidden": Switch("size", "width of the feed-forward", lambda value, config: number(config.hidden_width)),
}  # fmt: skip

RECURRENT = {
    "type": Switch("block", "sublayers", _words({
        "recurrent_encoder": "gated recurrent units, one in each direction",
        "recurrent_decoder": "a gated recurrent unit that attends to the source, then a maxout layer",
    })),
    "align": Switch("attention", "units that compare a state with the source", _some),
    "memory_dim": Switch("attention", "width of what is read of the source", _some),
    "rank": BACKBONE["rank"],
    "dropout": BACKBONE["dropout"],
    "init_std": BACKBONE["init_std"],
    "dim": Switch("embeddings", "width of embeddings", number, OWN_WIDTH),
    "hidden": Switch("size", "width of a recurrent state", number),
    "maxout": Switch("size", "width of the maxout layer", _some),
}  # fmt: skip


def _norm_of(value: bool, config: HeadConfig) -> str | None:
    return f"a norm of epsilon {number(config.norm_eps)}" if value else None


def _table(value: bool | str, config: HeadConfig) -> str:
    if isinstance(value, str):
        return f"the table of {value}"
    return "the stream's own table" if value else "a matrix of its own"


HEAD: dict[str, Phrase] = {
    "scaled": _words({False: None, True: "divided by the square root of the width"}),
    "dense": lambda value, config: None if value is None else f"a layer of {number(value)}",
    "activation": _words({None: None, **ACTIVATIONS}),
    "norm": _norm_of,
    "norm_eps": lambda value, config: None,  # said with the norm
    "tie": _table,
    "bias": _words({False: None, True: "a bias"}),
    "offset": _words({False: None, True: "a fixed offset"}),
    "squash": _words({None: None, **ACTIVATIONS}),
}
"""From a hidden state to what is predicted, in the order in which it happens."""

STREAM: dict[str, Phrase] = {
    "vocab_size": lambda value, config: None if value is None else f"a table of {number(value)}",
    "features": lambda value, config: None if value is None else f"{number(value)} number{'s' * (value > 1)}",
    "embedder": lambda value, config: None,  # in parts, by EMBEDDERS
    "overlay": _words({False: None, True: "added in the slots of another stream"}),
    "rank": lambda value, config: None if value == 1 else f"{value} position axes",
    "input": lambda value, config: None,  # told by where it is told: among embeddings, or only with its head
}

MODEL = {
    "context": Switch("size", "context", lambda value, config: " and ".join(map(number, value)) or None, "not stated"),
    "scale": Switch("embeddings", "tables are multiplied by", _words({
        False: None, True: "the square root of the width",
    }), "1"),
}  # fmt: skip
"""Fields of a whole model; its stacks, streams and heads are told one by one."""

SILENT = {"Architecture": {"family"}, "StreamConfig": {"end"}}
"""Fields that change nothing in the network: a name, and what one value means."""
