"""Where a token is. A scheme acts in one of three places: on the embedding, on q and k, or on the scores.

Positions arrive as int64[tokens, rank]; every scheme serves any rank, by adding up what the axes give or by dealing
the axes out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from anyformer.architecture import BackboneConfig
from anyformer.errors import ConfigError, SampleError, unknown
from anyformer.mask import Mask

Bias = Callable[[int, Tensor, Tensor], Float[Tensor, "heads queries keys"]]
"""From a document's index, its q `[queries, heads, head_dim]` and its k, what is added to its scaled scores."""


@dataclass(frozen=True)
class Placement:
    """A scheme applied to one pass's positions, computed once and used by every layer.

    rotate: maps `[tokens, heads, head_dim]` to the same shape; it acts on queries and keys, or, where
    `rotates_input`, on what they are projected from. bias: a Bias that is given the layer's index first.
    """

    rotate: Callable[[Tensor], Tensor] | None = None
    rotates_input: bool = False
    bias: Callable[[int, int, Tensor, Tensor], Tensor] | None = None


Distances = Callable[[int], Int64[Tensor, "queries keys rank"]]
"""From a document's index, how far each key stands behind each query, on every axis."""


class PositionScheme(nn.Module):
    """Base of all schemes: by default nothing is added, mapped or biased.

    compares: whether `place` reads the keys' positions, so that a cache must keep them.
    """

    compares = False

    def check(self, positions: Int64[Tensor, "tokens rank"]) -> None:
        """SampleError for a position that the scheme does not know."""

    def embed(self, positions: Int64[Tensor, "tokens rank"]) -> Float[Tensor, "tokens width"] | None:
        """What is added to the token embeddings before the first block, or None."""
        return None

    def place(self, positions: Tensor, keys: Tensor, mask: Mask) -> Placement:
        """The hooks inside attention: positions of the new tokens and of every key, `[tokens, rank]`."""
        return Placement()


class NoPositions(PositionScheme):
    """Order is seen through the mask alone."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()


class TablePositions(PositionScheme):
    """A vector per index and axis; axes add up. Position p is row p + offset of `size` rows."""

    def __init__(self, tables: list[Tensor], offset: int, trained: bool) -> None:
        super().__init__()
        self.size, self.offset = len(tables[0]), offset
        self.tables = nn.ParameterList(nn.Parameter(table, requires_grad=trained) for table in tables)

    def check(self, positions):
        if positions.numel() and int(positions.max()) + self.offset >= self.size:
            raise SampleError(
                f"A token stands at position {int(positions.max())}, but the table of positions ends at "
                f"{self.size - self.offset - 1}. Use shorter sequences, a larger `size`, or rotary positions."
            )

    def embed(self, positions):
        if not torch.compiler.is_compiling():  # who compiles asks before
            self.check(positions)
        rows = positions + self.offset if self.offset else positions
        first, *others = [torch.embedding(table, row) for table, row in zip(self.tables, rows.unbind(1), strict=True)]
        return sum(others, first)


class LearnedPositions(TablePositions):
    """A trained table of `size` rows, of which the first `offset` are never used (BART, RoBERTa: 2)."""

    def __init__(self, config: BackboneConfig, size: int, offset: int = 0) -> None:
        std = config.init_std or 0.02
        tables = [nn.init.normal_(torch.empty(size, config.embed_width), std=std) for _ in range(config.rank or 1)]
        super().__init__(tables, offset, trained=True)


class StoredSinusoids(TablePositions):
    """A fixed table of sinusoids that is kept with the weights (Whisper's encoder, Marian)."""

    def __init__(self, config: BackboneConfig, size: int, layout: str, endpoint: bool, base: float) -> None:
        table = sinusoids(torch.arange(size), config.embed_width, layout, endpoint, base)
        super().__init__([table.clone() for _ in range(config.rank or 1)], 0, trained=False)


class SinusoidalPositions(PositionScheme):
    """Sinusoids of geometric frequencies (arXiv:1706.03762 §3.5), computed for any position; axes add up."""

    def __init__(self, config: BackboneConfig, layout: str, endpoint: bool, base: float) -> None:
        super().__init__()
        self.settings = (config.embed_width, layout, endpoint, base)

    def embed(self, positions):
        return sinusoids(positions, *self.settings).sum(1)


def sinusoidal(
    config: BackboneConfig,
    layout: str = "interleaved",
    endpoint: bool = False,
    base: float = 10_000.0,
    size: int | None = None,
) -> PositionScheme:
    """layout, endpoint, base: see `sinusoids`. size: keep a fixed table of so many rows with the weights."""
    if size is not None:
        return StoredSinusoids(config, size, layout, endpoint, base)
    sinusoids(torch.zeros(1), config.embed_width, layout, endpoint, base)  # a wrong setting is refused at once
    return SinusoidalPositions(config, layout, endpoint, base)


def sinusoids(positions: Tensor, width: int, layout: str, endpoint: bool, base: float) -> Float[Tensor, "... width"]:
    """sin and cos of `width / 2` frequencies from 1 down to 1 / base, side by side.

    layout: "interleaved", sin and cos of one frequency next to each other (the paper), or "halves", all sines first
    (Marian, fairseq, Whisper). endpoint: whether the slowest frequency is 1 / base (tensor2tensor, fairseq, Whisper)
    or would be the next one (the paper, Marian).
    """
    if width % 2:
        raise ConfigError(f"Sinusoidal positions need an even width; got {width}.")
    if layout not in ("interleaved", "halves"):
        raise unknown("layout", layout, ("interleaved", "halves"))
    steps = width // 2 - endpoint
    exponents = torch.arange(width // 2, dtype=torch.float64, device=positions.device) / max(steps, 1)
    angles = positions[..., None] * base**-exponents
    waves = (angles.sin(), angles.cos())
    return (torch.cat(waves, -1) if layout == "halves" else torch.stack(waves, -1).flatten(-2)).float()


class Rotary(PositionScheme):
    """Rotary embedding (Su et al., arXiv:2104.09864 eq. 34).

    layout: "halves" pairs feature i with i + head_dim/2 (LLaMA as published on hubs), "interleaved" with its
    neighbour (the paper). scaling: see `scaled`. on: "heads", queries and keys after their projection, or "input",
    what they are projected from (wav2vec2-conformer). With several position axes the frequencies are dealt out to
    the axes in turn, so each axis keeps both fast and slow ones; a sequence whose axes all carry the same index is
    rotated exactly as with one axis.
    """

    def __init__(
        self,
        config: BackboneConfig,
        base: float = 10_000.0,
        layout: str = "halves",
        scaling: dict[str, Any] | None = None,
        on: str = "heads",
    ) -> None:
        super().__init__()
        half, odd = divmod(config.head_width, 2)
        if odd:
            raise ConfigError(f"Rotary positions need an even head_dim; got head_dim={config.head_width}.")
        for name, value, choices in (("layout", layout, ("halves", "interleaved")), ("on", on, ("heads", "input"))):
            if value not in choices:
                raise unknown(name, value, choices)
        frequencies = 1.0 / base ** (torch.arange(half, dtype=torch.float32) / half)
        self.register_buffer("frequencies", scaled(frequencies, scaling), persistent=False)
        self.register_buffer("axis", torch.arange(half) % (config.rank or 1), persistent=False)
        self.on, self.halves = on, layout == "halves"

    def place(self, positions, keys, mask):
        angles = positions[:, self.axis] * self.frequencies
        cos, sin = angles.cos()[:, None], angles.sin()[:, None]
        if self.halves:
            cos, sin, swap = torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1), _swap_halves
        else:
            cos, sin, swap = _in_pairs(cos, cos), _in_pairs(-sin, sin), _swap_neighbours
        return Placement(
            rotate=lambda x: x * cos.to(x.dtype) + swap(x) * sin.to(x.dtype), rotates_input=self.on == "input"
        )


def _swap_halves(x: Float[Tensor, "tokens heads head_dim"]) -> Float[Tensor, "tokens heads head_dim"]:
    return x.roll(x.shape[-1] // 2, dims=-1)


def _swap_neighbours(x: Float[Tensor, "tokens heads head_dim"]) -> Float[Tensor, "tokens heads head_dim"]:
    return x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)


def _in_pairs(first: Tensor, second: Tensor) -> Tensor:
    return torch.stack((first, second), -1).flatten(-2)


SCALINGS = {"linear": ("factor",), "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original")}


def scaled(frequencies: Float[Tensor, " half"], scaling: dict[str, Any] | None) -> Float[Tensor, " half"]:
    """Frequencies for longer contexts than were trained on.

    `{"type": "linear", "factor"}` slows all of them (arXiv:2306.15595); `{"type": "llama3", "factor",
    "low_freq_factor", "high_freq_factor", "original"}` only those whose wave is longer than the `original` context
    over `low_freq_factor`, and blends up to the one over `high_freq_factor` (arXiv:2407.21783 §3.2).
    """
    if scaling is None:
        return frequencies
    settings = dict(scaling)
    kind = settings.pop("type", None)
    if kind not in SCALINGS:
        raise unknown("rotary scaling", str(kind), SCALINGS)
    for name in settings:
        if name not in SCALINGS[kind]:
            raise unknown(f"setting of rotary scaling {kind!r}:", name, SCALINGS[kind])
    missing = [name for name in SCALINGS[kind] if name not in settings]
    if missing:
        raise ConfigError(f"Rotary scaling of type {kind} needs {', '.join(missing)}; got {sorted(scaling)}.")
    factor = settings["factor"]
    if kind == "linear":
        return frequencies / factor
    low, high, original = (settings[name] for name in ("low_freq_factor", "high_freq_factor", "original"))
    waves = 2 * math.pi / frequencies
    blend = ((original / waves - low) / (high - low)).clamp(0, 1)
    return frequencies * blend + frequencies / factor * (1 - blend)


class RelativePositions(PositionScheme):
    """Base of schemes that bias scores by how far a key stands behind its query."""

    compares = True

    def place(self, positions, keys, mask):
        queries, keys = positions.split(mask.queries), keys.split(mask.keys)

        @cache
        def distances(document: int) -> Int64[Tensor, "queries keys rank"]:
            return keys[document][None] - queries[document][:, None]

        return Placement(bias=self.bias(distances))

    def bias(self, distances: Distances) -> Callable[[int, int, Tensor, Tensor], Tensor]:
        raise NotImplementedError


class BucketPositions(RelativePositions):
    """T5's: a trained number per head and bucket of distances, the same in every layer (arXiv:1910.10683 §2.1).

    Half of the buckets are single distances, the others grow logarithmically up to max_distance. bidirectional: half
    of all buckets are for keys behind the query.
    """

    def __init__(
        self, config: BackboneConfig, buckets: int = 32, max_distance: int = 128, bidirectional: bool = False
    ) -> None:
        super().__init__()
        self.buckets, self.max_distance, self.bidirectional = buckets, max_distance, bidirectional
        self.table = nn.Parameter(nn.init.normal_(torch.empty(buckets, config.heads), std=config.init_std or 0.02))

    def bias(self, distances):
        @cache
        def of_document(document: int) -> Float[Tensor, "heads queries keys"]:
            return self.table[self.bucket(distances(document))].sum(2).permute(2, 0, 1)

        return lambda layer, document, q, k: of_document(document)

    def bucket(self, distance: Int64[Tensor, "*any"]) -> Int64[Tensor, "*any"]:
        count, first = self.buckets, torch.zeros_like(distance)
        if self.bidirectional:
            count //= 2
            first = (distance > 0) * count
            distance = distance.abs()
        else:
            distance = (-distance).clamp(min=0)
        exact = count // 2
        growth = torch.log(distance.float().clamp(min=1) / exact) / math.log(self.max_distance / exact)
        far = exact + (growth * (count - exact)).long()  # the logarithm in float32, then truncated, as published
        return first + torch.where(distance < exact, distance, far.clamp(max=count - 1))


class LinearBias(RelativePositions):
    """ALiBi: scores fall linearly with the distance, at a slope of each head's own (arXiv:2108.12409 §3)."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.slopes: Tensor
        self.register_buffer("slopes", alibi_slopes(config.heads), persistent=False)

    def bias(self, distances):
        return lambda layer, document, q, k: -self.slopes[:, None, None] * distances(document).abs().sum(-1)


def alibi_slopes(heads: int) -> Float[Tensor, " heads"]:
    """2^(-8/n), 2^(-16/n) … for n a power of two; other numbers take every second slope of 2n for the rest."""
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    rest = [2 ** (-4 * (2 * i + 1) / power) for i in range(heads - power)]
    return torch.tensor(slopes + rest)


class ShawPositions(RelativePositions):
    """A trained vector per clipped distance, compared with the query in every layer (Shaw et al., arXiv:1803.02155
    eq. 5, the keys' side). Distances reach from `left` keys before the query to `right` keys behind it."""

    def __init__(self, config: BackboneConfig, left: int, right: int) -> None:
        super().__init__()
        self.left, self.right, self.scale = left, right, config.head_width**-0.5
        std = config.init_std or 0.02
        self.tables = nn.ParameterList(
            nn.init.normal_(torch.empty(left + right + 1, config.head_width), std=std) for _ in range(config.depth)
        )

    def bias(self, distances):
        def of_layer(layer: int, document: int, q: Tensor, k: Tensor) -> Float[Tensor, "heads queries keys"]:
            clipped = distances(document).clamp(-self.left, self.right) + self.left
            vectors = self.tables[layer].to(q.dtype)[clipped].sum(2)
            return torch.einsum("qhd,qkd->hqk", q, vectors) * self.scale

        return of_layer


class TransformerXL(RelativePositions):
    """Sinusoids of the distance, projected in every layer, with a bias on content and one on position
    (Dai et al., arXiv:1901.02860 §3.3, terms b, c and d)."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        if config.key_heads != config.heads or (config.rank or 1) != 1:
            raise ConfigError("transformer_xl positions need as many kv_heads as heads, and one position axis.")
        self.width, self.scale = config.dim, config.head_width**-0.5
        heads, head_dim, layers = config.heads, config.head_width, range(config.depth)
        self.projections = nn.ModuleList(nn.Linear(config.dim, heads * head_dim, bias=False) for _ in layers)
        self.content = nn.ParameterList(torch.zeros(heads, head_dim) for _ in layers)
        self.position = nn.ParameterList(torch.zeros(heads, head_dim) for _ in layers)

    def bias(self, distances):
        @cache
        def waves(document: int) -> tuple[Tensor, Tensor]:
            """Sinusoids of each distance that occurs, positive to the query's left, and which one each pair has."""
            different, which = (-distances(document)[..., 0]).unique(return_inverse=True)
            return sinusoids(different, self.width, "interleaved", False, 10_000.0), which

        def of_layer(layer: int, document: int, q: Tensor, k: Tensor) -> Float[Tensor, "heads queries keys"]:
            table, which = waves(document)
            relative = self.projections[layer](table.to(q.dtype)).unflatten(-1, q.shape[1:])
            by_distance = torch.einsum("qhd,rhd->hqr", q + self.position[layer].to(q.dtype), relative)
            content = torch.einsum("hd,khd->hk", self.content[layer].to(q.dtype), k)
            return (by_distance.gather(-1, which.expand(q.shape[1], -1, -1)) + content[:, None]) * self.scale

        return of_layer


SCHEMES: dict[str, Callable[..., PositionScheme]] = {
    "none": NoPositions,
    "learned": LearnedPositions,
    "sinusoidal": sinusoidal,
    "rotary": Rotary,
    "buckets": BucketPositions,
    "alibi": LinearBias,
    "shaw": ShawPositions,
    "transformer_xl": TransformerXL,
}


def make_positions(config: BackboneConfig) -> PositionScheme:
    """The scheme that `config.positions` describes: `{"type": "rotary", "base": 10000}`."""
    settings = dict(config.positions)
    kind = settings.pop("type", None)
    if kind not in SCHEMES:
        raise unknown("position scheme", str(kind), SCHEMES)
    try:
        return SCHEMES[kind](config, **settings)
    except TypeError as error:
        raise ConfigError(f"The position scheme {kind!r} cannot be made from {settings}: {error}.") from error
