"""From a stream's values to vectors: a table, a linear map, or convolutions.

Every embedder is called as `embedder(values, items)` and gives a row for each slot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from anyformer.architecture import StreamConfig
from anyformer.errors import ConfigError, unknown
from anyformer.sublayers import PackedConv1d, activation_named
from anyformer.tokens import StreamSpec, one_to_one


class TableEmbedding(nn.Module):
    """A trained vector per discrete value, times `scale`.

    With scale = √dim (arXiv:1706.03762 §3.4) a table that also serves as a head gives logits and embeddings of
    unit size, on a par with what continuous streams embed to.
    """

    def __init__(self, vocab_size: int, dim: int, scale: float = 1.0, std: float | None = None) -> None:
        super().__init__()
        self.table = nn.Embedding(vocab_size, dim)
        self.scale = scale
        nn.init.normal_(self.table.weight, std=std or dim**-0.5)

    def forward(self, values: Int64[Tensor, " values"], items: Tensor) -> Float[Tensor, "values dim"]:
        embedded = self.table(values)
        return embedded if self.scale == 1 else embedded * self.scale


class LinearEmbedding(nn.Module):
    """A linear map of each continuous row; `norm_eps` puts a layer norm before it (wav2vec2-bert)."""

    def __init__(self, features: int, dim: int, norm_eps: float | None = None) -> None:
        super().__init__()
        self.norm = nn.Identity() if norm_eps is None else nn.LayerNorm(features, eps=norm_eps)
        self.linear = nn.Linear(features, dim)
        nn.init.normal_(self.linear.weight, std=features**-0.5)
        nn.init.zeros_(self.linear.bias)

    def forward(self, values: Float[Tensor, "values features"], items: Tensor) -> Float[Tensor, "values dim"]:
        return self.linear(self.norm(values))


class GivenEmbedding(nn.Module):
    """Rows that are vectors of the stack's width already."""

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        if features != dim:
            raise ConfigError(f"A stream of {features} features cannot enter a stack {dim} wide as it is; embed it.")

    def forward(self, values: Float[Tensor, "values dim"], items: Tensor) -> Float[Tensor, "values dim"]:
        return values


class ConvolutionEmbedding(nn.Module):
    """Convolutions over the time of each item, each followed by an activation.

    layers: (width, kernel, stride, padding) of each; width None is the model's. norm: a layer norm behind each
    convolution (wav2vec2). project: a layer norm and a linear map behind the last (wav2vec2), with norm_eps.
    """

    def __init__(
        self,
        features: int,
        dim: int,
        layers: Sequence[tuple[int | None, int, int, int]],
        activation: str = "gelu",
        bias: bool = True,
        norm: bool = False,
        project: bool = False,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        widths = [features, *(width or dim for width, *_ in layers)]
        self.convolutions = nn.ModuleList(
            PackedConv1d(widths[i], widths[i + 1], kernel, stride, bias=bias, padding=(padding, padding))
            for i, (_, kernel, stride, padding) in enumerate(layers)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) if norm else nn.Identity() for width in widths[1:])
        self.activation = activation_named(activation)
        self.project = LinearEmbedding(widths[-1], dim, norm_eps) if project else None

    def forward(
        self, values: Float[Tensor, "values features"], items: Int64[Tensor, "items 2"]
    ) -> Float[Tensor, "slots dim"]:
        x, lengths = values, tuple(items[:, 0].tolist())
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x, lengths = convolution(x, lengths)
            x = self.activation(norm(x))
        return x if self.project is None else self.project(x, items)


class Convolution2dEmbedding(nn.Module):
    """Convolutions over the time and the features of each item, each followed by an activation; a linear map joins
    the channels and features that are left of a time step (the conformer's subsampling, arXiv:2005.08100 figure 1).

    layers: (channels, kernel, stride, padding) of each, the same for both axes; channels None is the model's width.
    """

    def __init__(
        self,
        features: int,
        dim: int,
        layers: Sequence[tuple[int | None, int, int, int]],
        activation: str = "relu",
        bias: bool = True,
    ) -> None:
        super().__init__()
        channels = [1, *(width or dim for width, *_ in layers)]
        self.steps = [ConvolvedLength(((kernel, stride, padding),)) for _, kernel, stride, padding in layers]
        self.whole = ConvolvedLength(tuple(step.layers[0] for step in self.steps))
        self.convolutions = nn.ModuleList(
            nn.Conv2d(channels[i], channels[i + 1], kernel, stride, padding, bias=bias)
            for i, (_, kernel, stride, padding) in enumerate(layers)
        )
        self.activation = activation_named(activation)
        left = self.whole(features)
        if left < 1:
            raise ConfigError(f"Convolutions over {features} features leave none; they need {self.whole.shortest}.")
        self.project = LinearEmbedding(channels[-1] * left, dim)

    def forward(
        self, values: Float[Tensor, "values features"], items: Int64[Tensor, "items 2"]
    ) -> Float[Tensor, "slots dim"]:
        """Items stand side by side behind zeros, and what a layer makes of those zeros is zero again, so that no item
        feels how long its neighbours are."""
        lengths = items[:, 0].tolist()
        frames = max([self.whole.shortest, *lengths])
        inside = _inside(lengths, frames, values.device)
        x = values.new_zeros(*inside.shape, values.shape[1]).masked_scatter(inside[..., None], values)[:, None]
        for step, convolution in zip(self.steps, self.convolutions, strict=True):
            lengths, frames = [step(length) for length in lengths], step(frames)
            inside = _inside(lengths, frames, values.device)
            x = self.activation(convolution(x)) * inside[:, None, :, None]
        return self.project(x.transpose(1, 2).flatten(2)[inside], items)


def _inside(lengths: list[int], steps: int, device: torch.device) -> Bool[Tensor, "items steps"]:
    """Which steps of a row are an item's own."""
    return (torch.arange(steps) < torch.tensor(lengths, dtype=torch.int64)[:, None]).to(device)


@dataclass(frozen=True)
class ConvolvedLength:
    """The slot rule of convolutions: how many windows fit. (An object, so that equal rules compare equal.)"""

    layers: tuple[tuple[int, int, int], ...]

    def __call__(self, values: int) -> int:
        for kernel, stride, padding in self.layers:
            values = max(0, (values + 2 * padding - kernel) // stride + 1)
        return values

    @property
    def shortest(self) -> int:
        """The fewest values that fill a slot."""
        values = 1
        for kernel, stride, padding in reversed(self.layers):
            values = max(1, (values - 1) * stride + kernel - 2 * padding)
        return values


EMBEDDERS: dict[str, Callable[..., nn.Module]] = {
    "given": GivenEmbedding,
    "linear": LinearEmbedding,
    "convolutions": ConvolutionEmbedding,
    "convolutions_2d": Convolution2dEmbedding,
}


def stream_spec(name: str, config: StreamConfig) -> StreamSpec:
    """The spec of a stream that is given as plain data."""
    plain = StreamSpec(
        name, config.vocab_size, config.features, config.rank, config.end, config.overlay, config.input
    )  # fmt: skip
    if config.embedder is None:
        return plain
    settings = dict(config.embedder)
    kind = settings.pop("type", None)
    if kind not in EMBEDDERS:
        raise unknown("embedder", str(kind), EMBEDDERS)
    layers = [tuple(layer[1:]) for layer in settings.get("layers", ())]
    return StreamSpec(
        name, config.vocab_size, config.features, config.rank, config.end, config.overlay, config.input,
        slots=ConvolvedLength(tuple(layers)) if layers else one_to_one,
        embedder=_Made(kind, plain.width, _frozen(settings)),
    )  # fmt: skip


def read_as(brought: StreamSpec, own: StreamSpec) -> StreamSpec:
    """A tokenizer's stream as an architecture reads it, where that says how: published convolutions are learned for
    their own weights, whatever embedder a tokenizer would bring."""
    if own.embedder is None:
        return brought
    for values in (1, 2, 3, 30, 1501):
        if brought.slots(values) != own.slots(values):
            raise ConfigError(
                f"In stream {own.name!r} {values} values fill {brought.slots(values)} slots by its tokenizer, but "
                f"{own.slots(values)} by the architecture; set the tokenizer's subsampling as the architecture's."
            )
    return replace(brought, embedder=own.embedder)


@dataclass(frozen=True)
class _Made:
    """An embedder by data; equal settings compare equal, and pickle."""

    kind: str
    features: int
    settings: tuple[tuple[str, Any], ...]

    def __call__(self, dim: int) -> nn.Module:
        try:
            return EMBEDDERS[self.kind](self.features, dim, **dict(self.settings))
        except TypeError as error:
            raise ConfigError(
                f"The embedder {self.kind!r} cannot be made from {dict(self.settings)}: {error}."
            ) from error


def _frozen(settings: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple((key, tuple(map(tuple, v)) if key == "layers" else v) for key, v in sorted(settings.items()))


def default_embedder(spec: StreamSpec, dim: int, scale: float, std: float | None) -> nn.Module:
    """What a spec asks for: its own embedder, a table, or a linear map."""
    if spec.embedder is not None:
        return spec.embedder(dim)
    return TableEmbedding(spec.width, dim, scale, std) if spec.is_discrete else LinearEmbedding(spec.width, dim)
