"""Published weights in and out, by the table of their family."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anyformer.architecture import Architecture, HeadConfig
from anyformer.contracts import Tokenizer
from anyformer.errors import WeightsError
from anyformer.model import Model
from anyformer.registry import tokenizers as registry
from anyformer.sublayers import Projection
from anyformer.weights import files
from anyformer.weights.shape import Entry
from anyformer.weights.table import Table, table_for, table_named
from anyformer.weights.translate import architecture_of, config_of, heads_of


@dataclass(frozen=True)
class Origin:
    """What a published directory holds that a model does not: its config, and tensors that no forward reads.
    Written back on export, so that a round trip loses nothing."""

    table: str
    config: dict[str, Any]
    unused: dict[str, Tensor] = field(default_factory=dict)


def from_pretrained(
    source: str | Path,
    config: Mapping[str, Any] | None = None,
    tokenizers: Mapping[str, Tokenizer] | None = None,
) -> Model:
    """A model in `eval` mode from published weights: a directory in Hugging Face layout, a hub id, or a state dict.

    config: what config.json would say, for a file without one, such as
    `{"cls": "torchaudio.models.Conformer", "input_dim": 144, ...}`. tokenizers: by default the text tokenizer whose
    files stand beside the weights, if there are any. Tensors that are missing, left over or misshapen
    are a WeightsError that names each; nothing is skipped in silence.
    """
    path = files.directory_of(source)
    given = dict(config) if config is not None else files.read_config(path)
    table = table_for(given)
    tensors, unused = _known(table, files.read_tensors(path))
    _drop_copies(table, tensors, path)
    architecture = _with_heads(table, architecture_of(table, given), heads_of(table, given), tensors, unused)
    architecture = _untie(table, architecture, tensors)
    model = Model.of(architecture, _tokenizers(path, architecture) if tokenizers is None else tokenizers)
    _fill(model, table, given, tensors, path)
    rows = {entry.sources[0] for _, entry in table.entries if entry.row is not None}
    model.origin = Origin(table.name, given, unused | {name: tensors[name] for name in rows & set(tensors)})
    return model.eval()


def _tokenizers(path: Path, architecture: Architecture) -> dict[str, Tokenizer]:
    """The text tokenizer of a directory, over the ids that the model has. Understanding models read texts in the
    template they were trained with; those that go on with a text get it as it is."""
    known = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model")
    if "text" not in architecture.streams or not any((path / name).is_file() for name in (*known, "source.spm")):
        return {}
    goes_on = architecture.encoder is None and architecture.backbone.causal
    segment = architecture.streams.get("text.segment")
    settings = {
        "name": "text", "directory": str(path), "vocab_size": architecture.streams["text"].vocab_size or 0,
        "template": "none" if goes_on else "model", "segments": segment.vocab_size if segment else 0,
    }  # fmt: skip
    return {"text": registry.create("pretrained_text", settings)}


def to_pretrained(model: Model, directory: str | Path, family: str | None = None) -> None:
    """Write a model as a directory that the family's own library loads.

    family: the weights table; by default the one the model came from, or its preset's.
    """
    origin: Origin | None = model.origin
    name = family or (origin.table if origin else model.architecture.family)
    if name is None:
        raise WeightsError("The architecture names no family of weights; give `family`, such as 'gpt2' or 'bert'.")
    table = table_named(name)
    known = origin.config if origin is not None and origin.table == name else None
    config = config_of(table, model.architecture, known)
    tensors = dict(origin.unused) if origin is not None and known is not None else {}
    unmapped = []
    for ours, tensor in _own_tensors(model):
        found = table.entry(ours)
        if found is None:
            unmapped.append(ours)
            continue
        entry, theirs = found
        theirs, sizes = _present(entry, theirs, model, ours)
        if entry.optional:
            continue
        for piece_name, piece in zip(theirs, entry.scatter(tensor, sizes, config), strict=True):
            tensors[piece_name] = entry.laid_into(tensors.get(piece_name), piece)
    if unmapped:
        raise WeightsError(f"The {name} weights table has no place for: {', '.join(unmapped)}.")
    files.write(Path(directory), config, tensors)
    for tokenizer in model.tokenizers.values():
        export = getattr(tokenizer, "export", None)
        if export is not None:
            export(Path(directory))


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
    are kept apart: nothing here reads them."""
    heads = {}
    for name, head in architecture.heads.items():
        needed, shared = _head_tensors(table, name, head)
        if name in named or needed <= set(tensors):
            heads[name] = head
        else:
            unused |= {theirs: tensors.pop(theirs) for theirs in needed | shared if theirs in tensors}
    return replace(architecture, heads=heads)


def _head_tensors(table: Table, name: str, head: HeadConfig) -> tuple[set[str], set[str]]:
    """Theirs that a head needs, and those that a tied one may repeat."""
    own = [f"{part}.{leaf}" for part in ("dense", "norm") if getattr(head, part) for leaf in ("weight", "bias")]
    own += ["bias"] if head.bias else []
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


def _fill(model: Model, table: Table, config: dict[str, Any], tensors: dict[str, Tensor], path: Path) -> None:
    """Every tensor of ours from theirs; WeightsError lists what does not fit."""
    used, missing, wrong = set(), [], []
    with torch.no_grad():
        for ours, tensor in _own_tensors(model):
            found = table.entry(ours)
            if found is None:
                missing.append(f"{ours} (no place in the {table.name} table)")
                continue
            entry, names = found
            names, _ = _present(entry, names, model, ours)
            absent = [name for name in names if name not in tensors]
            if absent and entry.optional:
                continue
            if absent:
                missing += absent
                continue
            used |= set(names)
            value = entry.gather([tensors[name] for name in names], config)
            if value.shape != tensor.shape:
                wrong.append(f"{' + '.join(names)} {_sizes(value)}, expected {_sizes(tensor)}")
            else:
                tensor.copy_(value)
    extra = sorted(set(tensors) - used)
    said = [f"{kind}: {', '.join(names)}" for kind, names in
            (("missing", missing), ("not expected", extra), ("of another shape", wrong)) if names]  # fmt: skip
    if said:
        raise WeightsError(
            f"{path}: the weights are not those of the {table.name} model its config describes. " + "; ".join(said)
        )


def _sizes(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a number"


def _present(
    entry: Entry, names: tuple[str, ...], model: nn.Module, ours: str
) -> tuple[tuple[str, ...], list[int] | None]:
    """The parts of a projection that exist (a bias may belong to some of them only), and their rows."""
    module = model.get_submodule(ours.rpartition(".")[0])
    if not isinstance(module, Projection):
        return names, None
    sizes = module.bias_sizes if ours.endswith(".bias") else module.sizes
    if not entry.parts:
        return names, list(sizes.values())
    kept = tuple(name for name, part in zip(names, entry.parts, strict=True) if part in sizes)
    return kept, [sizes[part] for part in entry.parts if part in sizes]


def _own_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters, each once, and the buffers that are kept."""
    yield from model.named_parameters()
    parameters = dict(model.named_parameters(remove_duplicate=False))
    yield from ((name, tensor) for name, tensor in model.state_dict(keep_vars=True).items() if name not in parameters)
