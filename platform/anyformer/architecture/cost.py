"""What an architecture costs, from its settings alone: parameters, training FLOPs, bytes of cache. No tensor is made.

Every part is a function from settings to Weights; they add up as the modules do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

from anyformer.architecture.settings import (
    Architecture,
    BackboneConfig,
    HeadConfig,
    RecurrentConfig,
    StackConfig,
    StreamConfig,
)
from anyformer.errors import unknown

BYTES = 2
"""Of one element of a cache, in half precision."""

UNSTATED = 1024
"""The context of an architecture that states none."""


def parameters(architecture: Architecture) -> int:
    """Numbers that are kept with the weights, trained or not, shared ones once."""
    stacks = [architecture.backbone, *([] if architecture.encoder is None else [architecture.encoder])]
    parts = [stack(config, _rank(architecture, config)) for config in stacks]
    parts += [embedder(s, architecture.stack_of(name)) for name, s in architecture.streams.items() if s.input]
    parts += list(_heads(architecture))
    return sum(part.count for part in parts)


def train_flops_per_token(architecture: Architecture) -> int:
    """Floating point operations of one training step, forward and backward, over the tokens that it sees.

    6 · (matrix elements that a token is multiplied with) + 12 · heads · head_dim · (keys that it sees) for each layer
    (arXiv:2204.02311 appendix B; arXiv:2001.08361 §2.1). Assumed: sequences as long as the context; attention without
    the saving of its causal half; every token passes its stack's costliest embedder and every head; of a mixture of
    experts the ones that are chosen. Not counted: tables, norms, biases, softmax, and what position schemes do.
    With an encoder: a whole pair, divided by the tokens of both its sides.
    """
    backbone, encoder = architecture.backbone, architecture.encoder
    source, target = _lengths(architecture)
    readout = sum(head.passed for head in _heads(architecture))
    each = stack(backbone).passed + _entrance(architecture, backbone) + readout
    step = target * (6 * each + _scores(backbone, target) + _cross_scores(backbone, source))
    if encoder is None:
        return step // target
    each = stack(encoder).passed + _entrance(architecture, encoder) + memory(backbone).passed
    return (step + source * (6 * each + _scores(encoder, source))) // (source + target)


def kv_bytes_per_token(architecture: Architecture) -> int:
    """Bytes of keys and values that each token of a generated sequence leaves in the cache, at 2 bytes an element.

    Self-attention of the stack that generates; 0 where nothing is generated token by token, or nothing attends. A
    layer with a window needs no more than its window's tokens, however long the sequence: this is the price of one.
    """
    config = architecture.backbone
    if isinstance(config, RecurrentConfig) or not config.causal:
        return 0
    return 2 * BYTES * config.key_heads * config.head_width * config.depth * config.recipe.count("attention")


def short(number: float) -> str:
    """A large number as people say it, to four digits.

    >>> short(124_439_808), short(1_557_611_200), short(36_864)
    ('124.4M', '1.558B', '36.86k')
    """
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:#.4g}".rstrip(".") + letter
    return f"{number:.0f}"


@dataclass(frozen=True)
class Weights:
    """count: numbers that are kept. passed: how many of them, as matrices, multiply each token."""

    count: int = 0
    passed: int = 0

    def __add__(self, other: Weights) -> Weights:
        return Weights(self.count + other.count, self.passed + other.passed)

    def __mul__(self, times: int) -> Weights:
        return Weights(self.count * times, self.passed * times)


NOTHING = Weights()


def linear(inputs: int, outputs: int, bias: bool = True) -> Weights:
    return Weights(inputs * outputs + bias * outputs, inputs * outputs)


def kept(count: int) -> Weights:
    """Tables, biases and the like, which multiply nothing."""
    return Weights(count)


def norm(kind: str, width: int) -> Weights:
    """A weight for each column, and but for RMS a bias."""
    return kept(width if kind == "rms" else 2 * width)


# Sublayers


def attention(config: BackboneConfig) -> Weights:
    return _queries_and_output(config) + _keys_and_values(config, config.dim)


def cross_attention(config: BackboneConfig) -> Weights:
    """Its keys and values are made of the source's tokens, and counted but not passed here: see `memory`."""
    return _queries_and_output(config) + kept(_keys_and_values(config, config.memory_dim or config.dim).count)


def _queries_and_output(config: BackboneConfig) -> Weights:
    width, biased = config.heads * config.head_width, config.attention_bias
    return linear(config.dim, width, "q" in biased) + linear(width, config.dim, "o" in biased)


def _keys_and_values(config: BackboneConfig, inputs: int) -> Weights:
    width, biased = config.key_heads * config.head_width, config.attention_bias
    return linear(inputs, width, "k" in biased) + linear(inputs, width, "v" in biased)


def feed_forward(config: BackboneConfig) -> Weights:
    """One, or a router and as many as there are experts, of which a token passes `top_k`."""
    hidden, bias = config.hidden_width, config.feed_forward_bias
    one = linear(config.dim, (1 + config.gated) * hidden, bias) + linear(hidden, config.dim, bias)
    if not config.experts:
        return one
    experts = Weights(config.experts * one.count, config.top_k * one.passed)
    return linear(config.dim, config.experts, bias=False) + experts


def convolution(config: BackboneConfig) -> Weights:
    dim, bias = config.dim, config.convolution_bias
    depthwise = Weights(dim * config.kernel + bias * dim, dim * config.kernel)
    return linear(dim, 2 * dim, bias) + depthwise + kept(2 * dim) + linear(dim, dim, bias)


SUBLAYERS = {
    "attention": attention,
    "cross_attention": cross_attention,
    "feed_forward": feed_forward,
    "convolution": convolution,
}


# Stacks


def stack(config: StackConfig, rank: int = 1) -> Weights:
    """Everything between the embeddings and the hidden states that heads read. rank: position axes."""
    if isinstance(config, RecurrentConfig):
        return recurrent(config)
    last = norm(config.norm, config.dim) if config.final_norm else NOTHING
    return positions(config, rank) + entry(config) + block(config) * config.depth + last


def block(config: BackboneConfig) -> Weights:
    total = norm(config.norm, config.dim) if config.end_norm else NOTHING
    for name in config.recipe:
        total += norm(config.norm, config.dim) + SUBLAYERS[name.removeprefix("half ")](config)
    return total


def entry(config: BackboneConfig) -> Weights:
    """A norm, a constant, and a map to the stack's width, where there are such."""
    width = config.embed_width
    total = norm(config.norm, width) if config.embed_norm else NOTHING
    total += kept(width if config.embed_shift else 0)
    return total + (linear(width, config.dim) if width != config.dim else NOTHING)


def positions(config: BackboneConfig, rank: int) -> Weights:
    """Tables for each axis, and what attention has in each layer."""
    settings, width = config.positions, config.head_width
    match settings.get("type"):
        case "learned" | "sinusoidal":
            return kept(rank * (settings.get("size") or 0) * config.embed_width)
        case "buckets":
            return kept(settings.get("buckets", 32) * config.heads)
        case "shaw":
            return kept(config.depth * (settings["left"] + settings["right"] + 1) * width)
        case "transformer_xl":
            return kept(config.depth * (config.dim + 2) * config.heads * width)
    return NOTHING


def recurrent(config: RecurrentConfig) -> Weights:
    """Appendix A of arXiv:1409.0473. What the decoder makes of annotations is counted, not passed: see `memory`."""
    unit = linear(config.dim, 3 * config.hidden, False) + linear(config.hidden, 3 * config.hidden, False)
    if config.type == "recurrent_encoder":
        return unit * 2
    annotation = config.memory_dim or 0
    start = kept(annotation // 2 * config.hidden)  # once for a sequence
    align = linear(config.hidden, config.align, False) + kept(annotation * config.align + config.align)
    context = linear(annotation, 3 * config.hidden, False)
    output = linear(config.hidden + config.dim + annotation, 2 * config.maxout, False)
    return start + align + unit + context + output


def memory(config: StackConfig) -> Weights:
    """What a decoder makes of each of the source's tokens."""
    if isinstance(config, RecurrentConfig):
        return linear(config.memory_dim or 0, config.align, bias=False)
    one = _keys_and_values(config, config.memory_dim or config.dim)
    return one * (config.depth * config.recipe.count("cross_attention"))


# Streams


def embedder(stream: StreamConfig, config: StackConfig) -> Weights:
    """A table, a linear map, or what `embedder` says; nothing, of rows that are vectors already."""
    settings, width = dict(stream.embedder or {}), config.embed_width
    kind, features = settings.pop("type", "linear"), stream.features or 0
    if kind == "given":
        return NOTHING
    if kind == "convolutions":
        return _convolutions(features, width, **settings)
    if kind == "convolutions_2d":
        return _convolutions_2d(features, width, **settings)
    if stream.vocab_size is not None:
        return kept(stream.vocab_size * width)
    return linear(features, width) + kept(0 if settings.get("norm_eps") is None else 2 * features)


def _convolutions(
    features: int, width: int, layers: list, bias: bool = True, norm: bool = False, project: bool = False, **_: Any
) -> Weights:
    """Over time. A slot takes as many steps of each layer as the strides behind it make one of."""
    total, inputs, steps = NOTHING, features, prod(stride for _, _, stride, _ in layers)
    for channels, kernel, stride, _ in layers:
        outputs, steps = channels or width, steps // stride
        matrix = inputs * kernel * outputs
        total += Weights(matrix + bias * outputs + norm * 2 * outputs, matrix * steps)
        inputs = outputs
    return total + (kept(2 * inputs) + linear(inputs, width) if project else NOTHING)


def _convolutions_2d(features: int, width: int, layers: list, bias: bool = True, **_: Any) -> Weights:
    """Over time and features. A slot takes as many steps of each layer as above, at all features that are left."""
    total, inputs, steps = NOTHING, 1, prod(stride for _, _, stride, _ in layers)
    for channels, kernel, stride, padding in layers:
        outputs, steps = channels or width, steps // stride
        features = (features + 2 * padding - kernel) // stride + 1
        matrix = inputs * kernel * kernel * outputs
        total += Weights(matrix + bias * outputs, matrix * steps * features)
        inputs = outputs
    return total + linear(inputs * features, width)


def head(config: HeadConfig, inputs: int, outputs: int) -> Weights:
    """A tied matrix is counted with the table that it shares."""
    inner = config.dense or inputs
    total = linear(inputs, inner) if config.dense else NOTHING
    total += kept(2 * inner if config.norm else 0) + kept(outputs if config.bias else 0)
    last = linear(inner, outputs, bias=False)
    return total + (Weights(0, last.passed) if config.tie else last)


def _heads(architecture: Architecture) -> Iterator[Weights]:
    for name, config in architecture.heads.items():
        if name not in architecture.streams:
            raise unknown("stream", name, architecture.streams)
        stream = architecture.streams[name]
        yield head(config, architecture.backbone.width, stream.vocab_size or stream.features or 0)


# What a token sees


def _scores(config: StackConfig, length: int) -> int:
    """FLOPs of a token's attention to its own sequence: scores and sums, forward and twice backward, in every layer."""
    if isinstance(config, RecurrentConfig):
        return 0
    keys = sum(_keys_seen(config, layer, length) for layer in range(config.depth))
    return 12 * config.heads * config.head_width * keys * config.recipe.count("attention")


def _keys_seen(config: BackboneConfig, layer: int, length: int) -> int:
    window = config.window_of(layer)
    if config.chunk is not None:
        length = min(length, config.chunk[0] * (1 + config.chunk[1]))
    return length if window is None else min(length, window if config.causal else 2 * window - 1)


def _cross_scores(config: StackConfig, length: int) -> int:
    """The same for attention to a source; additive attention compares in `align` units and sums annotations."""
    if isinstance(config, RecurrentConfig):
        return 6 * (config.align + (config.memory_dim or 0)) * length
    across = config.depth * config.recipe.count("cross_attention")
    return 12 * config.heads * config.head_width * length * across


def _lengths(architecture: Architecture) -> tuple[int, int]:
    """Tokens of the source (0 without an encoder) and of the target."""
    context = architecture.context or (UNSTATED,)
    return (0 if architecture.encoder is None else context[0], context[-1])


def _entrance(architecture: Architecture, config: StackConfig) -> int:
    own = [s for name, s in architecture.streams.items() if s.input and architecture.stack_of(name) is config]
    return max((embedder(stream, config).passed for stream in own), default=0)


def _rank(architecture: Architecture, config: StackConfig) -> int:
    """As many position axes as the stack's streams have, unless it says itself."""
    own = [s.rank for name, s in architecture.streams.items() if architecture.stack_of(name) is config]
    return config.rank or max(own, default=1)
