"""Published weights in and out, by the table of their family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from anyformer.architecture import Architecture, HeadConfig, StreamConfig
from anyformer.contracts import Tokenizer
from anyformer.errors import AnyformerError, WeightsError
from anyformer.model import Model
from anyformer.registry import tokenizers as registry
from anyformer.weights import files
from anyformer.weights.table import Table, table_for, table_named
from anyformer.weights.transfer import fill, scatter
from anyformer.weights.translate import architecture_of, config_of, heads_of

TOKENIZER_FILES = (
    {"tokenizer.json"}, {"vocab.json", "merges.txt"}, {"vocab.txt"}, {"spiece.model"}, {"tokenizer.model"},
    {"sentencepiece.bpe.model"}, {"source.spm", "target.spm", "vocab.json"},
)  # fmt: skip
"""Any of these, and a directory has a text tokenizer. (vocab.json alone is a list of letters, of speech models.)"""


@dataclass(frozen=True)
class Origin:
    """What a published directory holds that a model does not: its config, sizes that only its tensors told, and
    tensors that no forward reads. Written back on export, so that a round trip loses nothing."""

    table: str
    config: dict[str, Any]
    sizes: dict[str, int] = field(default_factory=dict)
    unused: dict[str, Tensor] = field(default_factory=dict)


def from_pretrained(
    source: str | Path,
    config: Mapping[str, Any] | None = None,
    tokenizers: Mapping[str, Tokenizer] | None = None,
) -> Model:
    """A model in `eval` mode from published weights: a directory in Hugging Face layout, a hub id, or a state dict.

    config: what config.json would say, for a file without one, such as
    `{"cls": "torchaudio.models.Conformer", "input_dim": 144, ...}`. tokenizers: by default the text tokenizer whose
    files stand beside the weights, if there are any. Parameters are float32, whatever precision the file has: what is
    narrower is held exactly. Tensors that are missing, left over or misshapen are a WeightsError that names each;
    nothing is skipped in silence.
    """
    path = files.directory_of(source)
    given = dict(config) if config is not None else files.read_config(path)
    table = table_for(given)
    tensors, unused = _known(table, files.read_tensors(path))
    _drop_copies(table, tensors, path)
    sizes = table.shown(tensors)
    said = {**table.defaults, **given, **sizes}
    architecture = _with_heads(table, architecture_of(table, said), heads_of(table, said), tensors, unused)
    architecture = _untie(table, architecture, tensors)
    model = _made(architecture, _tokenizers(path, architecture) if tokenizers is None else tokenizers, path)
    unused |= fill(model, table, said, tensors, path)
    apart = {name: tensor.clone() for name, tensor in unused.items()}  # the file may be gone when they are written back
    model.origin = Origin(table.name, given, sizes, apart)
    return model.eval()


def to_pretrained(model: Model, directory: str | Path, family: str | None = None) -> None:
    """Write a model as a directory that the family's own library loads, in the precision of its parameters.

    family: the weights table; by default the one the model came from, or its preset's.
    """
    origin: Origin | None = model.origin
    name = family or (origin.table if origin else model.architecture.family)
    if name is None:
        raise WeightsError("The architecture names no family of weights; give `family`, such as 'gpt2' or 'bert'.")
    table = table_named(name)
    own = origin if origin is not None and origin.table == name else None
    if own is None and table.family is not None:
        raise WeightsError(f"{name} files are only read, or written back; give family={table.family!r}.")
    config = config_of(table, _described(model), {**own.config, **own.sizes} if own else None)
    tensors = dict(own.unused) if own else {}
    scatter(model, table, {**table.defaults, **config}, tensors)
    if own is None:
        tensors |= {
            name: torch.ones([config[size] if isinstance(size, str) else size for size in shape])
            for name, shape in table.filler.items()
        }
    files.write(Path(directory), _said(table, config, model, own), tensors)
    for tokenizer in model.tokenizers.values():
        export = getattr(tokenizer, "export", None)
        if export is not None:
            export(Path(directory))


class Undrawn(TorchFunctionMode):
    """Inside, no random values are drawn: a model of billions of weights is made in the time that its memory takes,
    and filled from a file."""

    DRAWN = frozenset({Tensor.normal_, Tensor.uniform_, nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_})

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func in self.DRAWN:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def _made(architecture: Architecture, tokenizers: Mapping[str, Tokenizer], path: Path) -> Model:
    """A model whose weights have no values yet."""
    try:
        with Undrawn():
            return Model.of(architecture, tokenizers)
    except AnyformerError:
        raise
    except (RuntimeError, TypeError, ValueError, ArithmeticError) as error:
        raise WeightsError(f"{path}: no model can be made of its config ({error}).") from error


def _tokenizers(path: Path, architecture: Architecture) -> dict[str, Tokenizer]:
    """The text tokenizer of a directory, over the ids that the model has, in the template it was trained with."""
    here = {file.name for file in path.iterdir()} if path.is_dir() else set()
    if "text" not in architecture.streams or not any(names <= here for names in TOKENIZER_FILES):
        return {}
    segment = architecture.streams.get("text.segment")
    settings = {
        "name": "text", "directory": str(path), "vocab_size": architecture.streams["text"].vocab_size or 0,
        "template": "model", "segments": segment.vocab_size if segment else 0,
    }  # fmt: skip
    return {"text": registry.create("pretrained_text", settings)}


def _described(model: Model) -> Architecture:
    """The architecture with the streams that tokenizers brought."""
    architecture = model.architecture
    brought = {
        name: StreamConfig(spec.vocab_size, spec.features, spec.rank, spec.overlay, spec.end, input=spec.input)
        for name, spec in model.specs.items() if name not in architecture.streams
    }  # fmt: skip
    return replace(architecture, streams={**architecture.streams, **brought})


def _said(table: Table, config: dict[str, Any], model: Model, own: Origin | None) -> dict[str, Any]:
    """A config.json without what the tensors show, and with the precision that they have."""
    given = own.config if own else {}
    said = {key: value for key, value in config.items() if key not in table.sizes or key in given}
    said |= {key: given[key] for key in table.sizes if key in given}
    precision = str(next(model.parameters()).dtype).removeprefix("torch.")
    return said | {key: precision for key in ("dtype", "torch_dtype") if key in said}


def _known(table: Table, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors under their current names, and apart from them those that no forward reads."""
    named: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        current = table.current_name(name)
        if current in named:
            raise WeightsError(f"The tensors {name!r} and {current!r} are one and the same tensor; expected only one.")
        named[current] = tensor
    unused = {name: tensor for name, tensor in named.items() if table.is_unused(name)}
    return {name: tensor for name, tensor in named.items() if name not in unused}, unused


def _drop_copies(table: Table, tensors: dict[str, Tensor], path: Path) -> None:
    """Older files repeat tied tensors; a repetition that differs is an error, not a choice."""
    for copied, original in table.copies.items():
        if copied not in tensors:
            continue
        if original not in tensors:
            tensors[original] = tensors.pop(copied)
        elif torch.equal(tensors[copied], tensors[original]):
            del tensors[copied]
        else:
            raise WeightsError(f"{path}: {copied} should repeat {original}, but differs from it.")


def _with_heads(
    table: Table, architecture: Architecture, named: list[str], tensors: dict[str, Tensor], unused: dict[str, Tensor]
) -> Architecture:
    """The heads that the file has whole, or that its config names. Parts of others (a pooler without a classifier)
    are kept apart, since nothing here reads them; what is only predicted goes with its head."""
    heads = {}
    for name, head in architecture.heads.items():
        needed, shared = _head_tensors(table, name, head)
        if name in named or needed <= set(tensors):
            heads[name] = head
        else:
            unused |= {theirs: tensors.pop(theirs) for theirs in needed | shared if theirs in tensors}
    streams = {name: stream for name, stream in architecture.streams.items() if stream.input or name in heads}
    return replace(architecture, heads=heads, streams=streams)


def _head_tensors(table: Table, name: str, head: HeadConfig) -> tuple[set[str], set[str]]:
    """Theirs that a head needs, and those that a tied one may repeat."""
    own = [f"{part}.{leaf}" for part in ("dense", "norm") if getattr(head, part) for leaf in ("weight", "bias")]
    own += [leaf for leaf in ("bias", "offset") if getattr(head, leaf)]
    found = {ours: table.entry(f"heads.{name.replace('.', '/')}.{ours}") for ours in [*own, "weight"]}
    theirs = {ours: set(entry[1]) if entry else set() for ours, entry in found.items()}
    weight = theirs.pop("weight")
    needed = set().union(*theirs.values())
    return (needed, weight) if head.tie else (needed | weight, set())


def _untie(table: Table, architecture: Architecture, tensors: dict[str, Tensor]) -> Architecture:
    """A head is tied when its file has no tensor of its own, or one that repeats the table's."""
    heads = dict(architecture.heads)
    for name, head in heads.items():
        own = table.entry(f"heads.{name.replace('.', '/')}.weight")
        if own is None or own[1][0] not in tensors or not head.tie:
            continue
        stream = name if head.tie is True else head.tie
        shared = table.entry(f"embedders.{stream.replace('.', '/')}.table.weight")
        if shared is not None and torch.equal(tensors[own[1][0]], tensors.get(shared[1][0], torch.empty(0))):
            del tensors[own[1][0]]
        else:
            heads[name] = replace(head, tie=False)
    return replace(architecture, heads=heads)
