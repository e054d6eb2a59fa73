"""Low-rank adapters (LoRA, Hu et al., arXiv:2106.09685) through peft, for the time of training.

A checkpoint holds the model with them merged, W + α/r · B·A (equation 3), like any other; what they were added to and
they themselves are in the trainer's state, so a run goes on from exactly what it had.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from anyformer.errors import ConfigError, PluginError, unknown
from anyformer.model import Network
from anyformer.model.parts import check_parts, in_parts

APART = "adapted."
"""Before the names, in a trainer's state, of what a model that has been merged no longer has."""


@dataclass(frozen=True)
class Adapters:
    """rank, alpha: r and α, the update being α/r · B·A. parts: where, as for `freeze`. weights: which matrices there,
    by the name of the module that holds them: attention's by default (§4.2)."""

    rank: int = 8
    alpha: int = 16
    parts: Sequence[str] = ("backbone",)
    weights: Sequence[str] = ("qkv", "q", "kv", "out")

    @classmethod
    def of(cls, settings: dict[str, Any]) -> Adapters:
        for key in settings:
            if key not in cls.__dataclass_fields__:
                raise unknown("setting of lora:", key, cls.__dataclass_fields__)
        found = cls(**settings)
        if found.rank < 1 or found.alpha <= 0 or not found.parts or not found.weights:
            raise ConfigError(
                f"lora has rank={found.rank}, alpha={found.alpha}, parts={list(found.parts)}, "
                f"weights={list(found.weights)}; expected at least 1, above 0, and at least one of both."
            )
        return found

    def attach(self, model: Network) -> None:
        """Freeze the matrices and put adapters beside them; what else is trained stays as it is. Random numbers come
        from torch's generator. ConfigError where there is none of these matrices."""
        check_parts(model, self.parts)
        places = [
            f"{name}.weight" for name, module in model.named_modules()
            if name.rpartition(".")[2] in self.weights and in_parts(f"{name}.weight", self.parts)
            and isinstance(getattr(module, "weight", None), nn.Parameter) and module.weight.dim() == 2
        ]  # fmt: skip
        if not places:
            held = {name.split(".")[-2] for name, p in model.named_parameters() if p.dim() == 2}
            raise ConfigError(
                f"lora finds none of {list(self.weights)} in {list(self.parts)}; the model's matrices are: "
                f"{', '.join(sorted(held))}."
            )
        kept = {id(parameter): parameter.requires_grad for parameter in model.parameters()}
        self._inject(model, places)
        adapted = {id(layer.base_layer.weight) for _, layer in layers(model)}
        for parameter in model.parameters():
            if id(parameter) in kept and id(parameter) not in adapted:
                parameter.requires_grad_(kept[id(parameter)])

    def _inject(self, model: Network, places: list[str]) -> None:
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError as error:
            raise PluginError("lora needs peft, which is not installed; pip install 'anyformer[lora]'.") from error
        config = LoraConfig(r=self.rank, lora_alpha=self.alpha, target_modules=[], target_parameters=places)
        inject_adapter_in_model(config, model)


def layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Every adapted module by the name that it had before."""
    for name, module in model.named_modules():
        if hasattr(module, "lora_A") and hasattr(module, "base_layer"):
            yield name, module


@torch.no_grad()
def merged(model: nn.Module, state: dict[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """A state of the model with its adapters merged, under the names that weights had without; and, under APART, what
    it was merged of. prefix: of the model's own names there."""
    found = dict(state)
    for name, layer in layers(model):
        own = f"{prefix}{name}."
        for key in [key for key in found if key.startswith(own)]:
            part, value = key.removeprefix(own), found.pop(key)
            if part == "base_layer.weight":
                found[f"{own}weight"] = value + layer.get_delta_weight("default").to(value)
            elif part.startswith("base_layer."):
                found[own + part.removeprefix("base_layer.")] = value
            if part == "base_layer.weight" or not part.startswith("base_layer."):
                found[APART + key] = value
    return found


def parted(state: dict[str, Tensor], model: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """What `merged` was given. ConfigError for a state of other adapters."""
    found = {key: value for key, value in state.items() if not key.startswith(APART)}
    apart = {key.removeprefix(APART): value for key, value in state.items() if key.startswith(APART)}
    bases = {f"{prefix}{name}.base_layer.weight" for name, _ in layers(model)}
    if bases != {key for key in apart if key.endswith(".base_layer.weight")}:
        raise ConfigError(
            f"The run has {len(bases)} adapted matrices and its checkpoint others. Go on with the settings of `lora` "
            "that it began with, or begin anew from its weights (`start`)."
        )
    for name, _ in layers(model):
        own = f"{prefix}{name}."
        for key in [key for key in found if key.startswith(own)]:
            value = found.pop(key)
            if key != f"{own}weight":
                found[f"{own}base_layer.{key.removeprefix(own)}"] = value
    return found | apart
