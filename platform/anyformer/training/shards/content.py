"""What a shard holds: encoded samples as tensors, without what follows from the rest.

    lengths/FIELD               slots of each sample's field, -1 where it has none
    values|slots|items/FIELD/STREAM   of all samples, one behind the other; ends/… says where each of them ends
    positions/FIELD             of all samples
    ids, clusters               of all samples, as UTF-8

Slots and positions that count 0, 1, 2, … and streams of one item are left out, and whole numbers take the fewest bytes
that hold them: text of up to 65 536 pieces is two bytes a token.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from anyformer.contracts import Sample
from anyformer.tokens import Stream, Tokens, counting

NARROW = (torch.uint8, torch.uint16, torch.int32)
WIDE = "whole numbers"  # in the file's metadata: the names of those that were int64


def packed(samples: Sequence[Sample]) -> bytes:
    """A shard of samples whose values are Tokens; equal samples give equal bytes."""
    tensors = _texts("ids", [sample.id for sample in samples])
    if any(sample.cluster for sample in samples):
        tensors |= _texts("clusters", [sample.cluster for sample in samples])
    for field in sorted({field for sample in samples for field in sample.values}):
        tensors |= _field(field, [sample.values.get(field) for sample in samples])
    wide = [name for name, tensor in tensors.items() if tensor.dtype == torch.int64]
    narrowed = {name: _narrow(tensor) if name in wide else tensor for name, tensor in tensors.items()}
    return save(narrowed, metadata={WIDE: json.dumps(sorted(wide))})


def _field(field: str, found: Sequence[Tokens | None]) -> dict[str, Tensor]:
    there = [tokens for tokens in found if tokens is not None]
    tensors = {f"lengths/{field}": torch.tensor([-1 if tokens is None else tokens.length for tokens in found])}
    if not all(torch.equal(tokens.positions, counting(tokens.length)[:, None]) for tokens in there):
        tensors[f"positions/{field}"] = torch.cat([tokens.positions for tokens in there])
    for name in sorted({name for tokens in there for name in tokens.streams}):
        tensors |= _stream(f"{field}/{name}", [t.streams.get(name) if t is not None else None for t in found])
    return tensors


def _stream(place: str, found: Sequence[Stream | None]) -> dict[str, Tensor]:
    there = [stream for stream in found if stream is not None]
    tensors = _ragged(f"values/{place}", [None if s is None else s.values for s in found])
    if len(there) < len(found):
        tensors[f"there/{place}"] = torch.tensor([stream is not None for stream in found])
    if not all(torch.equal(s.slots, counting(len(s.values))) for s in there):
        tensors |= _ragged(f"slots/{place}", [None if s is None else s.slots for s in found])
    if not all(torch.equal(s.items, _one_item(s.values, s.slots)) for s in there):
        tensors |= _ragged(f"items/{place}", [None if s is None else s.items for s in found])
    return tensors


def _ragged(name: str, parts: Sequence[Tensor | None]) -> dict[str, Tensor]:
    ends = torch.tensor([0 if one is None else len(one) for one in parts]).cumsum(0)
    return {name: torch.cat([one for one in parts if one is not None]), f"ends/{name}": ends}


def _texts(name: str, texts: Sequence[str]) -> dict[str, Tensor]:
    return _ragged(name, [torch.tensor(list(text.encode()), dtype=torch.uint8) for text in texts])


def _narrow(tensor: Tensor) -> Tensor:
    low, high = (int(tensor.min()), int(tensor.max())) if tensor.numel() else (0, 0)
    fits = (kind for kind in NARROW if torch.iinfo(kind).min <= low and high <= torch.iinfo(kind).max)
    return tensor.to(next(fits, torch.int64)).contiguous()


def _one_item(values: Tensor, slots: Tensor) -> Tensor:
    return torch.tensor([[len(values), len(slots)]])


class Shard:
    """A file of `packed` samples, mapped into memory: what nobody asks for is not read."""

    def __init__(self, file: Path) -> None:
        with safe_open(file, "pt") as opened:
            self._wide = frozenset(json.loads(opened.metadata()[WIDE]))
            self._tensors = {name: opened.get_tensor(name) for name in opened.keys()}
        # single numbers come far sooner of an array than of a tensor
        self._arrays = {name: t.numpy() for name, t in self._tensors.items() if not t.is_floating_point()}
        self.lengths: Mapping[str, Tensor] = {
            name.removeprefix("lengths/"): self._whole(name) for name in self._tensors if name.startswith("lengths/")
        }
        self._positions = {field: lengths.clamp(min=0).cumsum(0).numpy() for field, lengths in self.lengths.items()}
        self._streams: dict[str, list[str]] = {
            field: [name.removeprefix(f"values/{field}/") for name in self._tensors if _is_of(name, field)]
            for field in self.lengths
        }

    def __len__(self) -> int:
        return len(self._tensors["ends/ids"])

    def sample(self, index: int) -> Sample:
        lengths = {field: int(self._arrays[f"lengths/{field}"][index]) for field in self.lengths}
        values = {field: self._tokens(field, index, length) for field, length in lengths.items() if length >= 0}
        cluster = self._text("clusters", index) if "clusters" in self._tensors else ""
        return Sample(self._text("ids", index), values, cluster)

    def _tokens(self, field: str, index: int, length: int) -> Tokens:
        end, name = int(self._positions[field][index]), f"positions/{field}"
        positions = self._whole(name, end - length, end) if name in self._tensors else counting(length)[:, None]
        found = {name: self._stream(f"{field}/{name}", index) for name in self._streams[field]}
        return Tokens({name: stream for name, stream in found.items() if stream is not None}, length, positions)

    def _stream(self, place: str, index: int) -> Stream | None:
        there = self._arrays.get(f"there/{place}")
        if there is not None and not there[index]:
            return None
        values = self._part(f"values/{place}", index)
        stream = Stream.whole(
            values, self._part(f"slots/{place}", index) if f"slots/{place}" in self._tensors else None
        )
        has_items = f"items/{place}" in self._tensors
        return replace(stream, items=self._part(f"items/{place}", index)) if has_items else stream

    def _part(self, name: str, index: int) -> Tensor:
        return self._whole(name, *self._ends(name, index))

    def _ends(self, name: str, index: int) -> tuple[int, int]:
        ends = self._arrays[f"ends/{name}"]
        return int(ends[index - 1]) if index else 0, int(ends[index])

    def _whole(self, name: str, begin: int = 0, end: int | None = None) -> Tensor:
        """As it was given; a copy, so that nothing keeps the file open."""
        tensor = self._tensors[name][begin:end]
        return tensor.to(torch.int64) if name in self._wide else tensor.clone()

    def _text(self, name: str, index: int) -> str:
        begin, end = self._ends(name, index)
        return self._arrays[name][begin:end].tobytes().decode()


def _is_of(name: str, field: str) -> bool:
    """Whether it is the values of one of the field's streams, whose names hold no slash."""
    kind, _, rest = name.partition("/")
    return kind == "values" and rest.rpartition("/")[0] == field
