"""A reference model with its inputs, and how it is run and written."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

Tensors = dict[str, Tensor]

RESULTS = ("logits", "prediction_logits", "action_preds", "last_hidden_state")
"""Outputs whose mean size is worth knowing: tolerances are relative to it."""


@dataclass(frozen=True)
class Prompt:
    """What a model continues, and the ids it starts and pads with."""

    inputs: Tensors
    pad: int = 0
    start: int | None = None
    new: int = 12
    """Tokens to generate."""


def hugging_face(model: nn.Module, inputs: Tensors) -> Tensors:
    """Every tensor that a transformers model returns; those in tuples are numbered: `hidden_states.0`."""
    outputs: Tensors = {}
    for name, value in model(**inputs, output_hidden_states=True, return_dict=True).items():
        if isinstance(value, Tensor):
            outputs[name] = value
        elif isinstance(value, tuple):
            outputs |= {f"{name}.{i}": v for i, v in enumerate(value) if isinstance(v, Tensor)}
    return outputs


@dataclass
class Reference:
    """One family's model, not yet filled with values, and everything that is needed to run it."""

    model: nn.Module
    inputs: Tensors
    call: Callable[[nn.Module, Tensors], Tensors] = hugging_face
    compare: Tensor | None = None
    """int64[batch, time]: 1 where outputs count, if some positions are padding."""
    prompt: Prompt | None = None
    config: Mapping[str, Any] | None = None
    """Class and constructor arguments of a model that is not transformers' and has no config of its own."""
    scale: Mapping[str, float] = field(default_factory=dict)
    """Pattern of parameter names → factor."""
    sharp: Mapping[str, float] = field(default_factory=dict)
    """The same, in the sharp regime only, so that every norm there sees small values and yet logits keep their size."""
    keep: tuple[str, ...] = ()
    """Patterns of constants, such as a sinusoid table."""
    signed: tuple[str, ...] = ()
    """Patterns of norms before a tied table: were all their weights positive, a model would repeat its last piece."""
    notes: tuple[str, ...] = ()

    def outputs(self) -> Tensors:
        """One forward pass. With gradients on, as PyTorch's fused inference paths would stand in for the layers."""
        given = {name: tensor.clone() for name, tensor in self.inputs.items()}  # some models write into their inputs
        return {name: tensor.detach() for name, tensor in self.call(self.model, given).items()}

    def write(self, directory: Path, results: Tensors, meta: Mapping[str, Any]) -> None:
        """Everything into one folder, which then needs no reference model any more."""
        directory.mkdir(parents=True, exist_ok=True)
        if self.config is None:
            _save_pretrained(self.model, directory)
        else:
            _save(self.model.state_dict(), directory / "model.safetensors")
            _write(self.config, directory / "config.json")
        inputs = dict(self.inputs)
        if self.prompt is not None:
            inputs |= {f"gen.{name}": tensor for name, tensor in self.prompt.inputs.items()}
        if self.compare is not None:
            inputs["compare_mask"] = self.compare
        _save(inputs, directory / "inputs.safetensors")
        _save(results, directory / "outputs.safetensors")
        scale = {name: results[name].abs().mean().item() for name in RESULTS if name in results}
        _write({**meta, "scale": scale, "notes": self.notes}, directory / "meta.json")


@contextlib.contextmanager
def watching(modules: Mapping[str, nn.Module], into: Tensors) -> Iterator[None]:
    """Collect what the modules return inside the block."""

    def collect(name: str) -> Callable[..., None]:
        return lambda module, arguments, output: into.update({name: output[0] if isinstance(output, tuple) else output})

    handles = [module.register_forward_hook(collect(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def watched(
    call: Callable[[nn.Module, Tensors], Tensors], modules: Callable[[Any], Mapping[str, nn.Module]]
) -> Callable[[nn.Module, Tensors], Tensors]:
    """`call`, with the outputs of some of the model's `modules` as well."""

    def both(model: nn.Module, inputs: Tensors) -> Tensors:
        seen: Tensors = {}
        with watching(modules(model), seen):
            return call(model, inputs) | seen

    return both


def numbered(name: str, modules: Any) -> dict[str, nn.Module]:
    """`name.1`, `name.2`, …: a stack's layers by how many have run."""
    return {f"{name}.{i}": module for i, module in enumerate(modules, 1)}


def _save_pretrained(model: Any, directory: Path) -> None:
    """As transformers does it, without its progress bar."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model.save_pretrained(directory)
    finally:
        if shown:
            logging.enable_progress_bar()


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, path)


def _write(value: Any, path: Path) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
