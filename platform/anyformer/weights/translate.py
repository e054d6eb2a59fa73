"""Settings of a published config.json as an architecture, and back."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from anyformer.architecture import Architecture, preset
from anyformer.errors import WeightsError
from anyformer.weights.table import Table

Config = Mapping[str, Any]
ABSENT = object()

ACTIVATIONS = {
    "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu",
    "silu": "silu", "swish": "silu", "tanh": "tanh",
}  # fmt: skip
VALUES: dict[str, dict[Any, Any]] = {"activations": ACTIVATIONS}
"""Value maps that several tables name."""


@dataclass(frozen=True)
class Conversion:
    """One of our settings from several of their keys, and the other way round.

    ours(config, names) may return ABSENT: the preset's value stays. theirs(value, architecture, names) gives keys with
    values. names: what the table says beside `by`, such as under which keys a family keeps its sizes.
    """

    ours: Callable[[Config, Config], Any]
    theirs: Callable[[Any, dict[str, Any], Config], dict[str, Any]]


def _rope_scaling(config: Config, names: Config) -> Any:
    given = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    kind = given.get("rope_type", given.get("type", "default"))
    if kind == "default":
        return None
    if kind == "linear":
        return {"type": "linear", "factor": given["factor"]}
    if kind == "llama3":
        kept = {name: given[name] for name in ("factor", "low_freq_factor", "high_freq_factor")}
        original = given.get("original_max_position_embeddings", config.get("max_position_embeddings"))
        return {"type": "llama3", **kept, "original": original}
    raise WeightsError(f"Rotary scaling of type {kind!r} is not built; expected default, linear or llama3.")


def _rope_base(config: Config, names: Config) -> Any:
    return (config.get("rope_parameters") or {}).get("rope_theta", config.get("rope_theta", ABSENT))


def _rope_parameters(value: Any, architecture: dict[str, Any], names: Config) -> dict[str, Any]:
    positions = architecture["backbone"]["positions"]
    scaling = dict(positions.get("scaling") or {"type": "default"})
    kind, original = scaling.pop("type"), scaling.pop("original", None)
    given = {"rope_type": kind, "rope_theta": positions.get("base", 10_000.0), **scaling}
    return {"rope_parameters": given if original is None else {**given, "original_max_position_embeddings": original}}


def _windows(config: Config, names: Config) -> Any:
    kinds = config.get("attention_layers")
    if kinds is None and "attention_types" not in config:
        return ABSENT
    if kinds is None:
        kinds = [kind for kinds, count in config["attention_types"] for _ in range(count) for kind in kinds]
    return [config["window_size"] if kind == "local" else None for kind in kinds]


def _attention_types(windows: Any, architecture: dict[str, Any], names: Config) -> dict[str, Any]:
    depth, sizes = architecture["backbone"]["depth"], {window for window in windows if window is not None}
    kinds = ["global" if windows[i % len(windows)] is None else "local" for i in range(depth)]
    return {"attention_types": [[[kind], 1] for kind in kinds], "window_size": sizes.pop() if sizes else 256}


def _sides(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _patch_count(config: Config, names: Config) -> Any:
    """The class token and the patches of a picture."""
    if names["image"] not in config or names["patch"] not in config:
        return ABSENT
    (height, width), (tall, wide) = _sides(config[names["image"]]), _sides(config[names["patch"]])
    return 1 + (height // tall) * (width // wide)


def _image_size(count: int, architecture: dict[str, Any], names: Config) -> dict[str, Any]:
    return {names["image"]: round((count - 1) ** 0.5) * _patch_size(architecture)}


def _patch_size(architecture: dict[str, Any], channels: int = 3) -> int:
    return round((architecture["streams"]["image"]["features"] // channels) ** 0.5)


def _patch_features(config: Config, names: Config) -> Any:
    if names["patch"] not in config:
        return ABSENT
    tall, wide = _sides(config[names["patch"]])
    return tall * wide * config.get(names["channels"], 3)


def _classes(config: Config, names: Config) -> Any:
    return len(config["id2label"]) if config.get("id2label") else config.get("num_labels", 2)


def _class_names(count: int, architecture: dict[str, Any], names: Config) -> dict[str, Any]:
    labels = {str(i): f"LABEL_{i}" for i in range(count)}
    return {"id2label": labels, "label2id": {label: int(i) for i, label in labels.items()}}


def _convolutions(config: Config, names: Config) -> Any:
    """wav2vec2's feature encoder: width, kernel, stride, padding of each layer."""
    keys = ("conv_dim", "conv_kernel", "conv_stride")
    if not all(key in config for key in keys):
        return ABSENT
    return [[*layer, 0] for layer in zip(*(config[key] for key in keys), strict=True)]


def _convolution_keys(layers: Any, architecture: dict[str, Any], names: Config) -> dict[str, Any]:
    widths, kernels, strides, _ = zip(*layers, strict=True)
    sizes = {"conv_dim": list(widths), "conv_kernel": list(kernels), "conv_stride": list(strides)}
    return {**sizes, "num_feat_extract_layers": len(layers)}


def _speech_positions(config: Config, names: Config) -> Any:
    """The position scheme of wav2vec2's conformers."""
    kind = config.get("position_embeddings_type", names["default"])
    if kind == "relative":
        return {"type": "transformer_xl"}
    if kind == "rotary":
        return {"type": "rotary", "on": "input", "base": float(config.get("rotary_embedding_base", 10_000))}
    if kind == "relative_key":
        left, right = config.get("left_max_position_embeddings", 64), config.get("right_max_position_embeddings", 8)
        return {"type": "shaw", "left": left, "right": right}
    if kind is None:
        return {"type": "none"}
    raise WeightsError(
        f"position_embeddings_type={kind!r} is not built; expected relative, rotary, relative_key or none."
    )


def _speech_position_keys(positions: Any, architecture: dict[str, Any], names: Config) -> dict[str, Any]:
    kinds = {"transformer_xl": "relative", "rotary": "rotary", "shaw": "relative_key", "none": None}
    keys: dict[str, Any] = {"position_embeddings_type": kinds.get(positions["type"])}
    if positions["type"] == "rotary":
        keys["rotary_embedding_base"] = positions.get("base", 10_000)
    if positions["type"] == "shaw":
        keys |= {"left_max_position_embeddings": positions["left"], "right_max_position_embeddings": positions["right"]}
    return keys


CONVERSIONS: dict[str, Conversion] = {
    "behind_padding": Conversion(
        lambda config, names: config.get("pad_token_id", 1) + 1, lambda offset, *_: {"pad_token_id": offset - 1}
    ),
    "positions_behind_two": Conversion(
        lambda config, names: config["max_position_embeddings"] + 2 if "max_position_embeddings" in config else ABSENT,
        lambda size, *_: {"max_position_embeddings": size - 2},
    ),
    "rope_base": Conversion(_rope_base, _rope_parameters),
    "rope_scaling": Conversion(_rope_scaling, _rope_parameters),
    "windows": Conversion(_windows, _attention_types),
    "patch_count": Conversion(_patch_count, _image_size),
    "patch_features": Conversion(
        _patch_features, lambda features, architecture, names: {names["patch"]: _patch_size(architecture)}
    ),
    "classes": Conversion(_classes, _class_names),
    "ratio": Conversion(
        lambda config, names: int(config[names["dim"]] * config.get(names["ratio"], 4.0)),
        lambda hidden, architecture, names: {names["ratio"]: hidden / architecture["backbone"]["dim"]},
    ),
    "convolutions": Conversion(_convolutions, _convolution_keys),
    "normed_linear": Conversion(
        lambda config, names: {"type": "linear", "norm_eps": config.get("layer_norm_eps", 1e-5)},
        lambda embedder, *_: {"layer_norm_eps": embedder["norm_eps"]},
    ),
    "speech_positions": Conversion(_speech_positions, _speech_position_keys),
}


def architecture_of(table: Table, config: Config) -> Architecture:
    """The architecture that a config.json of this family describes."""
    for key, wanted in table.requires.items():
        if config.get(key, ABSENT) is not ABSENT and config[key] not in (
            wanted if isinstance(wanted, list) else [wanted]
        ):
            raise WeightsError(
                f"{table.name} weights with {key}={config[key]!r} are not built here; expected {wanted!r}."
            )
    data = _laid_over(preset(table.like).as_json() if table.like else {}, table.architecture)
    data["family"] = table.name
    data["backbone"].pop("memory_dim", None)  # follows from the encoder
    for path, expression in table.config.items():
        value = _value(expression, config)
        if value is not ABSENT:
            _put(data, path, value)
    return Architecture.of(data, f"{table.name} config")


def heads_of(table: Table, config: Config) -> list[str]:
    """The heads that the class named in a config.json has."""
    classes = config.get("architectures") or []
    return next((table.architectures[name] for name in classes if name in table.architectures), [])


def config_of(table: Table, architecture: Architecture, known: Config | None = None) -> dict[str, Any]:
    """A config.json of this family for an architecture; keys of `known` that mean the same stay as they are."""
    data = architecture.as_json()
    config: dict[str, Any] = {**copy.deepcopy(dict(table.template)), **copy.deepcopy(dict(known or {}))}
    if known is None and table.architectures:
        have = set(data["heads"])
        fitting = [name for name, heads in table.architectures.items() if set(heads) == have]
        config["architectures"] = fitting[:1] or list(table.architectures)[:1]
    for path, expression in table.config.items():
        wanted = _get(data, path)
        if wanted is not ABSENT and not _says(expression, config, wanted):
            config.update(_theirs(expression, wanted, data))
    again = architecture_of(table, config).as_json()
    for path in table.config:
        if _get(data, path) is not ABSENT and _get(again, path) != _get(data, path):
            raise WeightsError(
                f"{table.name} files cannot say {path}={_get(data, path)!r} (they would mean {_get(again, path)!r})."
            )
    return config


def _says(expression: Any, config: Config, wanted: Any) -> bool:
    try:
        return _value(expression, config) == wanted
    except WeightsError:  # a key that is not there yet may default to something that is not built here
        return False


def _value(expression: Any, config: Config) -> Any:
    """One of our settings, by what their config says."""
    if isinstance(expression, str):
        return config.get(expression, ABSENT)
    if "constant" in expression:
        return expression["constant"]
    if "by" in expression:
        return CONVERSIONS[expression["by"]].ours(config, expression)
    keys = expression["from"] if isinstance(expression["from"], list) else [expression["from"]]
    value = next((config[key] for key in keys if key in config), expression.get("default", ABSENT))
    if value is ABSENT or "values" not in expression:
        return value
    values = expression["values"]
    values = VALUES[values] if isinstance(values, str) else values
    if value not in values:
        raise WeightsError(f"{keys[0]}={value!r} is not built here; expected one of {list(values)}.")
    return values[value]


def _theirs(expression: Any, wanted: Any, architecture: dict[str, Any]) -> dict[str, Any]:
    if isinstance(expression, str):
        return {expression: wanted}
    if "constant" in expression:
        return {}
    if "by" in expression:
        return CONVERSIONS[expression["by"]].theirs(wanted, architecture, expression)
    key = expression["from"] if isinstance(expression["from"], str) else expression["from"][0]
    if "values" not in expression:
        return {key: wanted}
    values = expression["values"]
    values = VALUES[values] if isinstance(values, str) else values
    for theirs, ours in values.items():
        if ours == wanted:
            return {key: theirs}
    raise WeightsError(f"No value of {key!r} means {wanted!r}.")


def _laid_over(data: Any, changes: Mapping[str, Any]) -> dict[str, Any]:
    data = dict(data)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(data.get(key), Mapping)
        data[key] = _laid_over(data[key], value) if both else copy.deepcopy(value)
    return data


def _put(data: dict[str, Any], path: str, value: Any) -> None:
    """Set what is at a path; a head or stream that the architecture does not have is none of its business."""
    *parents, last = split(path)
    for name in parents:
        if name not in data:
            return
        data = data[name]
    data[last] = value


def _get(data: Any, path: str) -> Any:
    for name in split(path):
        if data is None or name not in data:
            return ABSENT
        data = data[name]
    return data


def split(path: str) -> list[str]:
    """A path's names; a stream whose own name has a dot is written with a slash: `streams.text/segment.vocab_size`."""
    return [name.replace("/", ".") for name in path.split(".")]
