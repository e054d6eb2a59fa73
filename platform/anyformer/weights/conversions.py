"""Settings of ours that follow from several keys of a published config.json, and the other way round."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from anyformer.errors import WeightsError

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


# Rotations


def _rope(config: Config) -> dict[str, Any]:
    """transformers 5 says everything in `rope_parameters`, 4 in `rope_theta` and `rope_scaling`."""
    return dict(config.get("rope_parameters") or config.get("rope_scaling") or {})


def _rope_scaling(config: Config, names: Config) -> Any:
    given = _rope(config)
    kind = given.get("rope_type", given.get("type", "default"))
    if given.get("partial_rotary_factor", 1.0) != 1.0:
        raise WeightsError(
            f"Rotations of a part of each head (partial_rotary_factor={given['partial_rotary_factor']}) are not built."
        )
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
    return _rope(config).get("rope_theta", config.get("rope_theta", ABSENT))


def _rope_parameters(value: Any, architecture: dict[str, Any], names: Config) -> dict[str, Any]:
    positions = architecture["backbone"]["positions"]
    scaling = dict(positions.get("scaling") or {"type": "default"})
    kind, original = scaling.pop("type"), scaling.pop("original", None)
    given = {"rope_type": kind, "rope_theta": positions.get("base", 10_000.0), **scaling}
    return {"rope_parameters": given if original is None else {**given, "original_max_position_embeddings": original}}


# Windows, layer by layer


def _windows(config: Config, names: Config) -> Any:
    kinds = config.get("attention_layers")
    if kinds is None and "attention_types" not in config:
        return ABSENT
    if kinds is None:
        kinds = [kind for kinds, count in config["attention_types"] for _ in range(count) for kind in kinds]
    windows = [config["window_size"] if kind == "local" else None for kind in kinds]
    return next(
        windows[:n] for n in range(1, len(windows) + 1) if windows == (windows[:n] * len(windows))[: len(windows)]
    )


def _attention_types(windows: Any, architecture: dict[str, Any], names: Config) -> dict[str, Any]:
    depth, sizes = architecture["backbone"]["depth"], {window for window in windows if window is not None}
    kinds = ["global" if window is None else "local" for window in windows]
    whole, rest = divmod(depth, len(kinds))
    types = [[kinds, whole], [kinds[:rest], 1]] if rest else [[kinds, whole]]
    return {"attention_types": types, "window_size": sizes.pop() if sizes else 256}


# Pictures


def _sides(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _patch_count(config: Config, names: Config) -> Any:
    """The class token and the patches of a picture."""
    if names["image"] not in config or names["patch"] not in config:
        return ABSENT
    (height, width), (tall, wide) = _sides(config[names["image"]]), _sides(config[names["patch"]])
    return 1 + (height // tall) * (width // wide)


def _image_size(count: int, architecture: dict[str, Any], names: Config) -> dict[str, Any]:
    """Of a square picture."""
    return {names["image"]: math.isqrt(count - 1) * _patch(architecture)[0]}


def _patch(architecture: dict[str, Any]) -> tuple[int, int]:
    """Side and channels of a patch with so many features: colours if that is possible, else grey."""
    features = architecture["streams"]["image"]["features"]
    return next(((side, c) for c in (3, 1) if c * (side := math.isqrt(features // c)) ** 2 == features), (0, 0))


def _patch_keys(features: int, architecture: dict[str, Any], names: Config) -> dict[str, Any]:
    side, channels = _patch(architecture)
    return {names["patch"]: side} | ({names["channels"]: channels} if "channels" in names else {})


def _patch_features(config: Config, names: Config) -> Any:
    if names["patch"] not in config:
        return ABSENT
    tall, wide = _sides(config[names["patch"]])
    if tall != wide:
        raise WeightsError(f"Patches of {tall} x {wide} are not built; expected square ones.")
    return tall * wide * config.get(names.get("channels"), 3)


def _classes(config: Config, names: Config) -> Any:
    return len(config["id2label"]) if config.get("id2label") else config.get("num_labels", 2)


def _class_names(count: int, architecture: dict[str, Any], names: Config) -> dict[str, Any]:
    labels = {str(i): f"LABEL_{i}" for i in range(count)}
    return {"id2label": labels, "label2id": {label: int(i) for i, label in labels.items()}}


def _timm_heads(config: Config, names: Config) -> Any:
    """As timm's functions have them: 64 columns wide, and no more than 16."""
    if not config["architecture"].startswith(("vit_", "deit_")):
        raise WeightsError(
            f"timm's {config['architecture']!r} is not built here; expected one of its vit_ or deit_ models."
        )
    return (config.get("model_args") or {}).get("num_heads", min(config["embed_dim"] // 64, 16))


# Sound


def _feature_encoder(config: Config, names: Config) -> Any:
    """wav2vec2's: width, kernel, stride and padding of each layer, and what stands behind it."""
    if config["feat_extract_norm"] != "layer":
        raise WeightsError(f"feat_extract_norm={config['feat_extract_norm']!r} is not built; expected 'layer'.")
    sizes = zip(*(config[key] for key in ("conv_dim", "conv_kernel", "conv_stride")), strict=True)
    return {
        "type": "convolutions", "layers": [[*layer, 0] for layer in sizes], "bias": config["conv_bias"], "norm": True,
        "activation": ACTIVATIONS[config["feat_extract_activation"]], "project": True,
        "norm_eps": config["layer_norm_eps"],
    }  # fmt: skip


def _feature_encoder_keys(embedder: Any, architecture: dict[str, Any], names: Config) -> dict[str, Any]:
    widths, kernels, strides, _ = zip(*embedder["layers"], strict=True)
    activation = embedder.get("activation", "gelu")
    return {
        "conv_dim": list(widths), "conv_kernel": list(kernels), "conv_stride": list(strides),
        "num_feat_extract_layers": len(widths), "conv_bias": embedder.get("bias", True),
        "feat_extract_norm": "layer" if embedder.get("norm") else "group",
        "feat_extract_activation": next(theirs for theirs, ours in ACTIVATIONS.items() if ours == activation),
    }  # fmt: skip


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
        keys["rotary_embedding_base"] = round(positions.get("base", 10_000))
    if positions["type"] == "shaw":
        keys |= {"left_max_position_embeddings": positions["left"], "right_max_position_embeddings": positions["right"]}
    return keys


# T5


def _projection(config: Config) -> tuple[str, bool]:
    """Activation, and whether it gates; "gated-gelu" has always meant the tanh form."""
    said = config.get("feed_forward_proj", "relu")
    name = "gelu_new" if said == "gated-gelu" else said.removeprefix("gated-")
    if name not in ACTIVATIONS:
        raise WeightsError(
            f"feed_forward_proj={said!r} is not built here; expected gated- before one of {[*ACTIVATIONS]}."
        )
    return ACTIVATIONS[name], said.startswith("gated-")


def _projection_key(value: Any, architecture: dict[str, Any], names: Config) -> dict[str, Any]:
    activation, gated = (architecture["backbone"][name] for name in ("activation", "gated"))
    name = next(theirs for theirs, ours in ACTIVATIONS.items() if ours == activation)
    if gated:
        name = {"gelu_new": "gated-gelu"}.get(name, f"gated-{name}")
    return {"feed_forward_proj": name}


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
    "patch_features": Conversion(_patch_features, _patch_keys),
    "classes": Conversion(_classes, _class_names),
    "ratio": Conversion(
        lambda config, names: int(config[names["dim"]] * config.get(names["ratio"], 4.0)),
        lambda hidden, architecture, names: {names["ratio"]: hidden / architecture["backbone"]["dim"]},
    ),
    "timm_heads": Conversion(_timm_heads, lambda heads, *_: {"model_args": {"num_heads": heads}}),
    "feature_encoder": Conversion(_feature_encoder, _feature_encoder_keys),
    "normed_linear": Conversion(
        lambda config, names: {"type": "linear", "norm_eps": config.get("layer_norm_eps", 1e-5)},
        lambda embedder, *_: {"layer_norm_eps": embedder["norm_eps"]},
    ),
    "speech_positions": Conversion(_speech_positions, _speech_position_keys),
    "t5_activation": Conversion(lambda config, names: _projection(config)[0], _projection_key),
    "t5_gate": Conversion(lambda config, names: _projection(config)[1], _projection_key),
}
