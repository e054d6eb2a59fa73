"""Stored inputs of a reference model as batches of ours: who stands where, and what belongs to padding.

Each family's table names one of READERS. A reader gives examples without padding, one a row, and for every slot
the column of the reference that it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from anyformer.batch import Batch, Example, pack
from anyformer.errors import WeightsError
from anyformer.mask import Mask
from anyformer.model import Model
from anyformer.tokens import Stream, Tokens

Inputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class Facts:
    """What a reader may need besides the tensors: the reference's config and the table's `check` section."""

    config: Mapping[str, Any]
    check: Mapping[str, Any]

    def id(self, *names: str) -> int:
        for name in names:
            if isinstance(self.config.get(name), int):
                return self.config[name]
        return 0


@dataclass(frozen=True)
class Reading:
    """Examples, and the columns of the reference that their slots are. seen: leading slots of each row that others
    attend to, where a reference lets padding stand among the tokens (`cleared`: as zeros)."""

    examples: list[Example]
    columns: list[Int64[Tensor, " slots"]]
    source_columns: list[Int64[Tensor, " slots"]] = field(default_factory=list)
    seen: tuple[int, ...] | None = None
    cleared: bool = False

    def batch(self) -> Batch:
        batch = pack(self.examples)
        if self.seen is None:
            return batch
        lengths = batch.mask.queries
        return replace(batch, mask=Mask(lengths, lengths, self.seen, autoregressive=False))


def sequence(
    model: Model, stream: str, values: Tensor, causal: bool, more: Mapping[str, Tensor] | None = None
) -> Example:
    """One stream's values, one after the other, in the direction the stack is made for."""
    spec = model.specs[stream]
    slots = torch.arange(spec.slots(len(values)))
    streams = {stream: Stream.whole(values, slots)} | {name: Stream.whole(v, slots) for name, v in (more or {}).items()}
    return Example(Tokens(streams, len(slots), slots[:, None]), {}, 0 if causal else len(slots))


def _kept(mask: Tensor | None, values: Tensor) -> list[Tensor]:
    """The columns of each row that are no padding."""
    if mask is None:
        return [torch.arange(values.shape[1]) for _ in values]
    return [row.nonzero()[:, 0] for row in mask]


def text(model: Model, inputs: Inputs, facts: Facts) -> Reading:
    """input_ids, attention_mask, token_type_ids."""
    ids, causal = inputs["input_ids"], model.architecture.backbone.causal
    columns = _kept(inputs.get("attention_mask"), ids)
    types = inputs.get("token_type_ids", torch.zeros_like(ids))
    more = [
        {"text.segment": t[c]} if "text.segment" in model.specs else {} for t, c in zip(types, columns, strict=True)
    ]
    rows = zip(ids, columns, more, strict=True)
    return Reading([sequence(model, "text", row[kept], causal, extra) for row, kept, extra in rows], columns)


def _shifted(inputs: Inputs, facts: Facts) -> Tensor:
    """Decoder inputs: given, or the labels one further right behind the start token."""
    if "decoder_input_ids" in inputs:
        return inputs["decoder_input_ids"]
    labels = inputs["labels"]
    start = torch.full((len(labels), 1), facts.id("decoder_start_token_id", "pad_token_id"))
    return torch.cat((start, labels[:, :-1].masked_fill(labels[:, :-1] == -100, facts.id("pad_token_id"))), 1)


def _with_source(model: Model, targets: Tensor, sources: list[Example], columns: list[Tensor]) -> Reading:
    examples = [sequence(model, "text", row, causal=True) for row in targets]
    examples = [replace(example, source=source) for example, source in zip(examples, sources, strict=True)]
    return Reading(examples, _kept(None, targets), columns)


def text_to_text(model: Model, inputs: Inputs, facts: Facts) -> Reading:
    """input_ids and attention_mask of the source, labels of the target."""
    stream = model.architecture.source[0]
    columns = _kept(inputs.get("attention_mask"), inputs["input_ids"])
    rows = zip(inputs["input_ids"], columns, strict=True)
    sources = [sequence(model, stream, row[kept], causal=False) for row, kept in rows]
    return _with_source(model, _shifted(inputs, facts), sources, columns)


def sound_to_text(model: Model, inputs: Inputs, facts: Facts) -> Reading:
    """input_features [batch, mels, frames] of the source, labels of the target."""
    sources = [
        sequence(model, model.architecture.source[0], row.T.contiguous(), False) for row in inputs["input_features"]
    ]
    columns = [torch.arange(source.tokens.length) for source in sources]
    return _with_source(model, _shifted(inputs, facts), sources, columns)


def alignment(model: Model, inputs: Inputs, facts: Facts) -> Reading:
    """src, src_mask and tgt_in, as ids."""
    columns = _kept(inputs["src_mask"], inputs["src"])
    stream = model.architecture.source[0]
    sources = [sequence(model, stream, row[kept], False) for row, kept in zip(inputs["src"], columns, strict=True)]
    return _with_source(model, inputs["tgt_in"], sources, columns)


def vectors_to_vectors(model: Model, inputs: Inputs, facts: Facts) -> Reading:
    """src and tgt as vectors, src_pad and tgt_pad true where there is padding."""
    examples, columns, source_columns = [], [], []
    for src, tgt, src_pad, tgt_pad in zip(*(inputs[n] for n in ("src", "tgt", "src_pad", "tgt_pad")), strict=True):
        source = sequence(model, "source", src[~src_pad], causal=False)
        examples.append(replace(sequence(model, "target", tgt[~tgt_pad], causal=True), source=source))
        columns.append((~tgt_pad).nonzero()[:, 0])
        source_columns.append((~src_pad).nonzero()[:, 0])
    return Reading(examples, columns, source_columns)


def patches(model: Model, inputs: Inputs, facts: Facts) -> Reading:
    """pixel_values [batch, channels, height, width]: a class token, then patches row by row."""
    examples = []
    for pixels in inputs["pixel_values"]:
        side = round((model.specs["image"].width // len(pixels)) ** 0.5)
        cells = pixels.unfold(1, side, side).unfold(2, side, side)  # [channels, rows, columns, side, side]
        values = cells.permute(1, 2, 0, 3, 4).flatten(0, 1).flatten(1)
        count = len(values) + 1
        streams = {
            "image.class": Stream.whole(torch.zeros(1, dtype=torch.int64)),
            "image": Stream.whole(values, torch.arange(1, count)),
        }
        examples.append(Example(Tokens(streams, count, torch.arange(count)[:, None]), {}, count))
    return Reading(examples, [torch.arange(example.tokens.length) for example in examples])


def trajectory(model: Model, inputs: Inputs, facts: Facts) -> Reading:
    """returns_to_go, states, actions and timesteps [batch, steps, ...], padded where attention_mask is 0."""
    examples, columns = [], []
    for row, mask in enumerate(inputs["attention_mask"]):
        kept = mask.nonzero()[:, 0]
        names = (("rl.return", "returns_to_go"), ("rl.state", "states"), ("rl.action", "actions"))
        slots = torch.arange(3 * len(kept)).unflatten(0, (-1, 3))
        streams = {ours: Stream.whole(inputs[n][row][kept], slots[:, i]) for i, (ours, n) in enumerate(names)}
        positions = inputs["timesteps"][row][kept].repeat_interleave(3)[:, None]
        examples.append(Example(Tokens(streams, 3 * len(kept), positions), {}))
        columns.append((3 * kept[:, None] + torch.arange(3)).flatten())
    return Reading(examples, columns)


def frames(model: Model, inputs: Inputs, facts: Facts) -> Reading:
    """input_features [batch, frames, features], padded where attention_mask is 0."""
    columns = _kept(inputs.get("attention_mask"), inputs["input_features"])
    rows = zip(inputs["input_features"], columns, strict=True)
    return Reading([sequence(model, "audio", row[kept], causal=False) for row, kept in rows], columns)


def frames_with_padding(model: Model, inputs: Inputs, facts: Facts) -> Reading:
    """input [batch, frames, features] and lengths, of a reference whose convolutions see padding frames."""
    examples = [sequence(model, "audio", row, causal=False) for row in inputs["input"]]
    return Reading(examples, _kept(None, inputs["input"]), seen=tuple(inputs["lengths"].tolist()))


def waveform_with_padding(model: Model, inputs: Inputs, facts: Facts) -> Reading:
    """input_values [batch, samples]; padding becomes frames of zeros that convolutions see and attention does not."""
    examples = [sequence(model, "audio", row[:, None], causal=False) for row in inputs["input_values"]]
    columns = [torch.arange(example.tokens.length) for example in examples]
    mask = inputs.get("attention_mask", torch.ones_like(inputs["input_values"]))
    seen = tuple(model.specs["audio"].slots(int(samples)) for samples in mask.sum(1))
    return Reading(examples, columns, seen=seen, cleared=True)


READERS: dict[str, Callable[[Model, Inputs, Facts], Reading]] = {
    function.__name__: function
    for function in (
        text, text_to_text, sound_to_text, alignment, vectors_to_vectors, patches, trajectory, frames,
        frames_with_padding, waveform_with_padding,
    )
}  # fmt: skip


def read(model: Model, inputs: Inputs, facts: Facts) -> Reading:
    """The inputs, as the family's table says."""
    try:
        return READERS[facts.check["inputs"]](model, inputs, facts)
    except KeyError as error:
        raise WeightsError(f"The inputs lack {error}; found {sorted(inputs)}.") from error


def prompts(model: Model, inputs: Inputs, facts: Facts, start: int | None) -> list[Example]:
    """The prompts of the stored generations: inputs named `gen.*`, left padding removed. start: the token that opens a
    target sequence, where the inputs have none."""
    given = {name.removeprefix("gen."): tensor for name, tensor in inputs.items() if name.startswith("gen.")}
    if model.encoder is not None and "decoder_input_ids" not in given:
        count = len(next(iter(given.values())))
        start = facts.id("decoder_start_token_id", "pad_token_id") if start is None else start
        given["decoder_input_ids"] = torch.full((count, 1), start)
    return read(model, given, facts).examples


def padded(packed: Tensor, columns: list[Tensor], like: Tensor) -> tuple[Tensor, Tensor]:
    """Packed rows at their columns of a tensor shaped as the reference's, and where there are any."""
    rows = torch.cat([torch.full((len(kept),), row) for row, kept in enumerate(columns)])
    where = (rows, torch.cat(columns))
    out = torch.zeros(*like.shape[:2], *packed.shape[1:], dtype=packed.dtype)
    out[where] = packed
    there = torch.zeros(like.shape[:2], dtype=torch.bool)
    there[where] = True
    return out, there
