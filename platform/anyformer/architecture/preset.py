"""Published architectures by name, a YAML file each in `configs/models`, and their small twins.

A file holds the settings of an Architecture. With `like: gpt2` it holds what differs from another's: a mapping is laid
over the other's mapping, anything else takes the place of what was there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from anyformer import presets
from anyformer.architecture.settings import (
    Architecture,
    BackboneConfig,
    HeadConfig,
    RecurrentConfig,
    StackConfig,
    StreamConfig,
)
from anyformer.errors import ConfigError, nearest


def names() -> list[str]:
    """Every published architecture that is known here."""
    return sorted(_files())


def preset(name: str) -> Architecture:
    """A published architecture."""
    return Architecture.of(_settings(_file(name), (name,)), f"model {name!r}")


def read(model: str | Mapping[str, Any]) -> Architecture:
    """A published architecture by name, or one of your own: its YAML file's path, or what such a file would hold."""
    if isinstance(model, Mapping):
        return Architecture.of(_laid(model, "given", ()), "model")
    if not model.endswith((".yaml", ".yml")):
        return preset(model)
    return Architecture.of(_settings(Path(model), ()), f"model ({model})")


def without(architecture: Architecture, streams: Collection[str]) -> Architecture:
    """The same but for these streams, which tokenizers bring instead."""
    own = {name: stream for name, stream in architecture.streams.items() if name not in streams}
    return replace(architecture, streams=own)


def _files() -> dict[str, Path]:
    return {file.stem: file for file in (presets.root() / "models").glob("*.yaml")}


def _file(name: str) -> Path:
    files = _files()
    if name not in files:
        raise ConfigError(f"Unknown model {name!r}.{nearest(name, files)} See `anyformer list models`.")
    return files[name]


def _settings(file: Path, chain: tuple[str, ...]) -> dict[str, Any]:
    """What a file says, laid over what the one says that it is like. chain: names that led here."""
    return _laid(presets.read_mapping(file, "The model"), str(file), chain)


def _laid(content: Mapping[str, Any], name: str, chain: tuple[str, ...]) -> dict[str, Any]:
    """Settings over those of the model that they are `like`."""
    changes = {key: value for key, value in content.items() if key != "like"}
    if "like" not in content:
        return changes
    other = content["like"]
    if not isinstance(other, str):
        raise ConfigError(f"The model {name} is like {other!r}; expected the name of a model.")
    if other in chain:
        raise ConfigError(f"Models are like each other in a circle: {', '.join((*chain, other))}.")
    return merged(_settings(_file(other), (*chain, other)), changes)


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`changes` over `base`, mapping by mapping. A mapping of another `type` replaces the whole one there.

    >>> merged({"positions": {"type": "rotary", "base": 10}, "dim": 1}, {"positions": {"base": 20}})
    {'positions': {'type': 'rotary', 'base': 20}, 'dim': 1}
    >>> merged({"positions": {"type": "rotary", "base": 10}}, {"positions": {"type": "alibi"}})
    {'positions': {'type': 'alibi'}}
    """
    result = dict(base)
    for key, change in changes.items():
        there = result.get(key)
        alike = isinstance(there, Mapping) and isinstance(change, Mapping)
        if alike and change.get("type", there.get("type")) == there.get("type"):
            change = merged(there, change)
        result[key] = change
    return result


# Small twins

WIDTH, NARROW, HIDDEN, VOCABULARY, FEATURES, CHANNELS, CONTEXT = 32, 16, 48, 64, 16, 8, 16
TABLES = {"size": 48, "buckets": 8, "max_distance": 12, "left": 4, "right": 3}


def reduced(architecture: Architecture) -> Architecture:
    """A small twin: every switch as it is, every size a toy's, so that what it does can be tried in milliseconds."""
    backbone = _small_stack(architecture.backbone)
    encoder = None if architecture.encoder is None else _small_stack(architecture.encoder)
    small = replace(
        architecture,
        backbone=backbone,
        encoder=encoder,
        context=tuple(min(length, CONTEXT) for length in architecture.context),
    )
    streams = {name: _small_stream(small, name, stream) for name, stream in architecture.streams.items()}
    heads = {name: _small_head(small, name, head) for name, head in architecture.heads.items()}
    return replace(small, streams=streams, heads=heads)


def _small_stack(config: StackConfig) -> StackConfig:
    if isinstance(config, RecurrentConfig):
        return replace(
            config, dim=NARROW, hidden=WIDTH // 2, align=min(config.align, 12), maxout=min(config.maxout, 10),
            memory_dim=None,
        )  # fmt: skip
    heads, experts = config.heads if config.heads < 3 else 4, min(config.experts, 4)
    cycle = config.window if isinstance(config.window, tuple) else (config.window,)
    windows = tuple(None if window is None else min(window, 4) for window in cycle)
    return replace(
        config, dim=WIDTH, heads=heads, memory_dim=None, experts=experts, top_k=min(config.top_k, max(1, experts)),
        kv_heads=_small_key_heads(config, heads),
        head_dim=_small_head_dim(config, heads),
        depth=min(config.depth, max(2, len(cycle))),
        hidden=None if config.hidden is None else HIDDEN,
        embed_dim=None if config.embed_dim is None else WIDTH if config.embed_dim == config.dim else NARROW,
        window=windows if isinstance(config.window, tuple) else windows[0],
        chunk=None if config.chunk is None else (min(config.chunk[0], 2), min(config.chunk[1], 1)),
        kernel=min(config.kernel, 4 + config.kernel % 2),
        positions={k: min(v, TABLES[k]) if v and k in TABLES else v for k, v in config.positions.items()},
    )  # fmt: skip


def _small_key_heads(config: BackboneConfig, heads: int) -> int | None:
    """As many as heads, or one, or a number between."""
    if config.kv_heads is None or config.kv_heads == config.heads:
        return None if config.kv_heads is None else heads
    return 1 if config.kv_heads == 1 else heads // 2


def _small_head_dim(config: BackboneConfig, heads: int) -> int | None:
    """Stated where it is stated, and other than dim / heads where it is other."""
    if config.head_dim is None:
        return None
    return WIDTH // heads if config.head_dim * config.heads == config.dim else WIDTH // heads + 2


def _small_stream(small: Architecture, name: str, config: StreamConfig) -> StreamConfig:
    """Rows that are vectors already stay as wide as their stack."""
    embedder = dict(config.embedder) if config.embedder else None
    if embedder and "layers" in embedder:
        embedder["layers"] = [[width and min(width, CHANNELS), *rest] for width, *rest in embedder["layers"]]
    given = embedder is not None and embedder["type"] == "given"
    return replace(
        config,
        vocab_size=config.vocab_size and min(config.vocab_size, VOCABULARY),
        features=config.features and (small.stack_of(name).embed_width if given else min(config.features, FEATURES)),
        end=None if config.end is None else min(config.end, VOCABULARY - 1),
        embedder=embedder,
    )


def _small_head(small: Architecture, name: str, head: HeadConfig) -> HeadConfig:
    """A tied head leads back to the width of the table that it shares."""
    if head.dense is None:
        return head
    table = small.stack_of(name if head.tie is True else str(head.tie))
    return replace(head, dense=table.embed_width if head.tie else small.backbone.width)
