"""Published checkpoints in small: a reference's folder, the ways in which such folders are found, and who else reads
them."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import references
import torch
from references.reference import hugging_face
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from anyformer.model import Model
from anyformer.weights.fixture import Facts
from anyformer.weights.parity import check_weights, compare
from anyformer.weights.table import table_for

Tensors = dict[str, Tensor]


def sketch(family: str, directory: Path, change: Mapping[str, Any] | None = None) -> Path:
    """A reference's folder without generations, which take most of the time."""
    reference = references.live(family, change=change)
    reference.prompt = None
    reference.write(directory, reference.outputs(), {"family": family})
    return directory


def tensors_of(directory: Path) -> Tensors:
    return load_file(directory / "model.safetensors")


def config_of(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "config.json").read_text(encoding="utf-8"))


def write_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    whole = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    save_file(whole, file, metadata={"format": "pt"})


def write_config(config: Mapping[str, Any], directory: Path) -> None:
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")


def altered(
    directory: Path,
    tensors: Callable[[Tensors], Mapping[str, Tensor]] | None = None,
    config: Callable[[dict[str, Any]], Mapping[str, Any]] | None = None,
) -> Path:
    """The same folder with other tensors or another config.json."""
    if tensors is not None:
        write_tensors(tensors(tensors_of(directory)), directory / "model.safetensors")
    if config is not None:
        write_config(config(config_of(directory)), directory)
    return directory


def differing(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> set[str]:
    """Names that only one of them has, and those whose tensors are not equal in every bit of their values."""
    common = one.keys() & two.keys()
    return (one.keys() ^ two.keys()) | {
        name for name in common if one[name].dtype != two[name].dtype or not torch.equal(one[name], two[name])
    }


def revived(directory: Path) -> nn.Module:
    """The model as its own library reads it; complains of any tensor that is missing or left over."""
    config = config_of(directory)
    if "model_type" in config:
        import transformers

        kind = getattr(transformers, config["architectures"][0])
        model, news = kind.from_pretrained(directory, output_loading_info=True, attn_implementation="eager")
        assert not any(news.values()), news
        return model.eval()
    module, _, name = config.pop("cls", "references.rnnsearch.RNNsearch").rpartition(".")
    model = getattr(importlib.import_module(module), name)(**config)
    model.load_state_dict(tensors_of(directory))
    return model.eval()


def said_by(model: Any, inputs: Tensors) -> Tensors:
    """A transformers model's outputs, without its loss."""
    with torch.no_grad():
        given = {name: tensor.clone() for name, tensor in inputs.items()}  # some models write into their inputs
        return {name: x.contiguous() for name, x in hugging_face(model, given).items() if name != "loss"}


def holds(directory: Path) -> None:
    """Our model of the folder gives the reference's outputs, at every layer."""
    found = check_weights(directory)
    assert len(found) > 2 and all(comparison.holds for comparison in found), found


def agree(model: Model, directory: Path, inputs: Tensors, outputs: Tensors) -> None:
    """Our model gives these outputs."""
    config = config_of(directory)
    write_tensors(inputs, directory / "inputs.safetensors")
    write_tensors(outputs, directory / "outputs.safetensors")
    found = compare(model, directory, Facts(config, table_for(config).check))
    assert found and all(comparison.holds for comparison in found), found
