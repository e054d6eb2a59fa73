"""Architectures as plain data: their settings, what they cost, how two of them differ."""

from anyformer.architecture.cost import kv_bytes_per_token, parameters, train_flops_per_token
from anyformer.architecture.difference import Difference, differences
from anyformer.architecture.preset import names, preset, read, reduced, without
from anyformer.architecture.settings import (
    Architecture,
    BackboneConfig,
    HeadConfig,
    RecurrentConfig,
    StackConfig,
    StreamConfig,
    stack_config,
)

__all__ = [
    "Architecture",
    "BackboneConfig",
    "Difference",
    "HeadConfig",
    "RecurrentConfig",
    "StackConfig",
    "StreamConfig",
    "differences",
    "kv_bytes_per_token",
    "names",
    "parameters",
    "preset",
    "read",
    "reduced",
    "stack_config",
    "train_flops_per_token",
    "without",
]
