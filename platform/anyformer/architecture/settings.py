"""What a model is made of, as plain data: every switch of every architecture here, and nothing else.

No tensor and no library is needed to read, compare or count an architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Self

from anyformer.errors import ConfigError, nearest, unknown

PLACEMENTS = ("pre", "post")
PROJECTIONS = "qkvo"
RECURRENT = ("recurrent_encoder", "recurrent_decoder")


class Settings:
    """A frozen dataclass made from plain data, with every misspelt name named."""

    @classmethod
    def of(cls, data: Mapping[str, Any] | Self, where: str) -> Self:
        """From plain data; `where` says in an error what was being described."""
        if isinstance(data, cls):
            return data
        if not isinstance(data, Mapping):
            raise ConfigError(f"A {where} is a mapping of settings; got {data!r}.")
        known = {f.name: f for f in fields(cls)}  # ty: ignore[invalid-argument-type]
        for key, value in data.items():
            if key not in known:
                raise ConfigError(f"A {where} has no setting {key!r}.{nearest(str(key), known)}")
            if isinstance(value, str) and str(known[key].type).startswith(("int", "float")):
                raise ConfigError(
                    f"{key}={value!r} in a {where} is text; expected a number (YAML reads 1e-5 as text: 1.0e-5)."
                )
        try:
            return cls(**data)
        except ConfigError:
            raise
        except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as error:  # of another type
            raise ConfigError(f"A {where} cannot be made from {sorted(map(str, data))}: {error}.") from error

    def as_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return _plain(asdict(self))  # ty: ignore[invalid-argument-type]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class BackboneConfig(Settings):
    """A stack of `depth` blocks, and what stands before and behind it.

    Size. dim: width. heads, kv_heads (fewer: grouped or multi-query), head_dim (dim / heads by default), hidden: width
    of the feed-forward (4·dim by default). memory_dim: width of what cross-attention reads (dim by default).

    Block. recipe: residual sublayers in order, of attention, cross_attention, feed_forward and convolution;
    "half feed_forward" adds half of its output. norm: "layer" or "rms", with norm_eps. norm_placement: "pre",
    x + f(norm(x)), or "post", norm(x + f(x)). end_norm: one more norm behind each block. final_norm: one behind the
    stack, with final_norm_eps if that differs.

    Attention. causal: whether tokens see later ones in the sequences it is trained on (an objective sets each
    example's own mask). attention_bias: which of the projections q, k, v, o have a bias. score_scale: the factor of
    the scores, head_dim**-0.5 by default; score_scale_by_depth divides it by 1, 2, 3 … from layer to layer.
    window: keys that a token sees up to itself; a list is dealt out to the layers in turn, None sees all.
    chunk: [slots, before]: a token sees its own chunk of so many slots, and so many chunks before it (streaming); its
    convolutions must be causal, and their norm not over time.

    Feed-forward. activation; gated: a second branch multiplied in; feed_forward_bias. experts: 0, or so many
    feed-forwards of which each token takes top_k; balance: weight of the loss that spreads tokens over them.

    Convolution. kernel; convolution_norm: "layer", "batch" or "group"; convolution_bias; causal_convolution.

    Entry. positions: `{"type": "learned" | "sinusoidal" | "rotary" | "buckets" | "alibi" | "shaw" |
    "transformer_xl" | "none", ...}` with the scheme's settings. rank: position axes (the most that a stream has).
    embed_dim: width of embeddings, positions and embed_norm, if a linear map leads from there to dim.
    embed_norm: a norm behind the embeddings, with embed_norm_eps if that differs. embed_shift: a trained vector added
    behind that.

    Training. dropout: on each sublayer's output and the embeddings; attention_dropout: on attention weights;
    init_std: of normal weights; None keeps the variance of what passes through, at any width.
    """

    dim: int
    heads: int
    depth: int = 1
    kv_heads: int | None = None
    head_dim: int | None = None
    hidden: int | None = None
    memory_dim: int | None = None
    recipe: tuple[str, ...] = ("attention", "feed_forward")
    norm: str = "layer"
    norm_eps: float = 1e-5
    norm_placement: str = "pre"
    end_norm: bool = False
    final_norm: bool = True
    final_norm_eps: float | None = None
    causal: bool = True
    attention_bias: str = "qkvo"
    score_scale: float | None = None
    score_scale_by_depth: bool = False
    window: int | tuple[int | None, ...] | None = None
    chunk: tuple[int, int] | None = None
    activation: str = "gelu"
    gated: bool = False
    feed_forward_bias: bool = True
    experts: int = 0
    top_k: int = 2
    balance: float = 0.01
    kernel: int = 31
    convolution_norm: str = "layer"
    convolution_bias: bool = True
    causal_convolution: bool = False
    positions: dict[str, Any] = field(default_factory=lambda: {"type": "rotary"})
    rank: int | None = None
    embed_dim: int | None = None
    embed_norm: bool = False
    embed_norm_eps: float | None = None
    embed_shift: bool = False
    dropout: float = 0.0
    attention_dropout: float = 0.0
    init_std: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "recipe", tuple(self.recipe))
        if isinstance(self.window, list):
            object.__setattr__(self, "window", tuple(self.window))
        self._check_chunk()
        if self.norm_placement not in PLACEMENTS:
            raise unknown("norm placement", self.norm_placement, PLACEMENTS)
        for name in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}; expected a probability in [0, 1).")
        if not set(self.attention_bias) <= set(PROJECTIONS):
            raise ConfigError(f"attention_bias={self.attention_bias!r}; expected letters of {PROJECTIONS!r}, or ''.")
        if self.head_dim is None and self.dim % self.heads:
            raise ConfigError(f"dim={self.dim} is not a multiple of heads={self.heads}; change one, or give head_dim.")
        if self.key_heads < 1 or self.heads % self.key_heads:
            raise ConfigError(f"heads={self.heads} is not a multiple of kv_heads={self.kv_heads}.")
        if self.experts and not 1 <= self.top_k <= self.experts:
            raise ConfigError(f"top_k={self.top_k}; expected between 1 and experts={self.experts}.")

    def _check_chunk(self) -> None:
        if self.chunk is None:
            return
        object.__setattr__(self, "chunk", tuple(self.chunk))
        if len(self.chunk) != 2 or self.chunk[0] < 1 or self.chunk[1] < 0:
            raise ConfigError(f"chunk={self.chunk}; expected [slots of a chunk, chunks before it that are seen].")
        if "convolution" in self.recipe and (not self.causal_convolution or self.convolution_norm == "group"):
            raise ConfigError(
                f"chunk={self.chunk} with causal_convolution={self.causal_convolution} and convolution_norm="
                f"{self.convolution_norm!r}, which look beyond a chunk; set causal_convolution, and a norm that is not "
                "over time."
            )

    @property
    def key_heads(self) -> int:
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def head_width(self) -> int:
        return self.dim // self.heads if self.head_dim is None else self.head_dim

    @property
    def hidden_width(self) -> int:
        return 4 * self.dim if self.hidden is None else self.hidden

    @property
    def embed_width(self) -> int:
        """Columns that the stack's embedders make."""
        return self.dim if self.embed_dim is None else self.embed_dim

    @property
    def width(self) -> int:
        """Columns that heads, and cross-attention to this stack, read."""
        return self.dim

    def window_of(self, layer: int) -> int | None:
        """The window of one layer."""
        return self.window[layer % len(self.window)] if isinstance(self.window, tuple) else self.window


@dataclass(frozen=True)
class HeadConfig(Settings):
    """How a stream is read from hidden states: [dense, activation, norm], then one linear map, then squash.

    tie: share the table of the stream's own embedder, or of the one named. bias: of the linear map. offset: a vector
    added to the answer that is kept with the weights but not trained (BART, Marian). dense: width of
    a layer before it, with its activation and, if `norm`, a norm. scaled: hidden states are first multiplied by
    dim**-0.5 (T5). squash: an activation of the answer.
    """

    tie: bool | str = False
    bias: bool = False
    offset: bool = False
    dense: int | None = None
    activation: str | None = None
    norm: bool = False
    norm_eps: float = 1e-5
    scaled: bool = False
    squash: str | None = None


@dataclass(frozen=True)
class StreamConfig(Settings):
    """A stream that a preset brings itself, where no tokenizer does.

    Exactly one of vocab_size and features. rank: position axes. overlay: it shares the slots of another stream, and
    its embeddings are added there (token types). end: the value that closes a generated run. embedder:
    `{"type": ..., ...}` for more than a table or a linear map. input: False for a stream that is only predicted.
    """

    vocab_size: int | None = None
    features: int | None = None
    rank: int = 1
    overlay: bool = False
    end: int | None = None
    embedder: dict[str, Any] | None = None
    input: bool = True


@dataclass(frozen=True)
class RecurrentConfig(Settings):
    """Recurrent layers in the place of a stack of blocks (Bahdanau et al., arXiv:1409.0473).

    type: "recurrent_encoder" reads in both directions; "recurrent_decoder" attends to it. dim: width of embeddings.
    hidden: width of a state. align: width of the additive attention. maxout: width of the deep output.
    memory_dim: width of the annotations that the decoder reads.
    """

    type: str
    dim: int
    hidden: int
    align: int = 0
    maxout: int = 0
    memory_dim: int | None = None
    rank: int | None = None
    dropout: float = 0.0
    init_std: float | None = 0.01

    def __post_init__(self) -> None:
        if self.type not in RECURRENT:
            raise unknown("stack", self.type, RECURRENT)
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout={self.dropout}; expected a probability in [0, 1).")

    @property
    def embed_width(self) -> int:
        return self.dim

    @property
    def width(self) -> int:
        return 2 * self.hidden if self.type == "recurrent_encoder" else self.maxout

    @property
    def causal(self) -> bool:
        return self.type == "recurrent_decoder"


StackConfig = BackboneConfig | RecurrentConfig


def stack_config(data: Mapping[str, Any] | StackConfig, where: str = "backbone") -> StackConfig:
    """A transformer stack, unless `type` says that it is recurrent."""
    if isinstance(data, BackboneConfig | RecurrentConfig):
        return data
    if isinstance(data, Mapping) and "type" in data:
        return RecurrentConfig.of(data, where)
    for key in ("dim", "heads"):
        if isinstance(data, Mapping) and key not in data:
            raise ConfigError(f"A {where} needs {key!r}; got only {sorted(data)}.")
    return BackboneConfig.of(data, where)


@dataclass(frozen=True)
class Architecture(Settings):
    """A whole model: streams in, one or two stacks, heads.

    streams: by name, those that no tokenizer brings. backbone: the stack whose hidden states heads read. encoder:
    the stack of the source axis, which the backbone's cross-attention reads. source: the streams that stand on the
    source axis. heads: how each predicted stream is read. scale: multiply tables by √dim on the way in. context:
    the longest sequence it is meant for, (source, target) with an encoder. family: the table by which published
    weights are read and written, if there is one.
    """

    backbone: StackConfig
    heads: dict[str, HeadConfig] = field(default_factory=dict)
    streams: dict[str, StreamConfig] = field(default_factory=dict)
    encoder: StackConfig | None = None
    source: tuple[str, ...] = ()
    scale: bool = False
    context: tuple[int, ...] = ()
    family: str | None = None

    def __post_init__(self) -> None:
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731
        put("backbone", stack_config(self.backbone))
        put("heads", {name: HeadConfig.of(head or {}, f"head {name!r}") for name, head in self.heads.items()})
        put("streams", {name: StreamConfig.of(s or {}, f"stream {name!r}") for name, s in self.streams.items()})
        put("source", tuple(self.source))
        put("context", tuple(self.context) if isinstance(self.context, list | tuple) else (self.context,))
        if self.encoder is not None:
            put("encoder", stack_config(self.encoder, "encoder"))
            if self.backbone.memory_dim is None:
                put("backbone", replace(self.backbone, memory_dim=self.encoder.width))

    def stack_of(self, stream: str) -> StackConfig:
        """The stack that a stream's embeddings enter."""
        return self.encoder if self.encoder is not None and stream in self.source else self.backbone
