"""Text, pictures with captions, sound with transcripts, and trajectories: by ours in one packed batch, by GPT-2 of
transformers padded.

Both have the same weights: GPT-2's, a linear map for each continuous stream, and one that tells actions. What is
predicted: texts, captions and transcripts value by value, actions where the state before them stands. Everything is
causal, and positions count slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from peers.gpt import our_gpt, transformers_gpt
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

import anyformer as af
from anyformer.objectives import NextToken
from anyformer.tokens import Stream, Tokens

WIDTHS = {"patch": 768, "frame": 320, "return": 1, "state": 17, "action": 6}
"""Features of continuous streams: patches of 16 x 16 in colour; four frames of 80 bands to a slot."""


@dataclass(frozen=True)
class Sample:
    """values, wanted: by stream, at which slots; what is wanted there is read from the slots' hidden states."""

    kind: str
    length: int
    values: dict[str, tuple[Tensor, Tensor]]
    wanted: dict[str, tuple[Tensor, Tensor]]


class Drawn:
    """Samples without a meaning, of lengths as they are met."""

    def __init__(self, s) -> None:
        self.s, self.chance = s, torch.Generator().manual_seed(1)

    def samples(self, kinds: Sequence[str], tokens: int) -> list[Sample]:
        """Of each kind until it has its equal share of so many tokens."""
        found: list[Sample] = []
        for kind in kinds:
            left = tokens / len(kinds)
            while left > 0:
                found.append(getattr(self, kind)())
                left -= found[-1].length
        return found

    def text(self) -> Sample:
        """Log-normal, 100 on average."""
        drawn = torch.empty(1).log_normal_(4.425, 0.6, generator=self.chance)
        return self._told("text", {}, min(self.s.context, max(4, int(drawn))), first=1)

    def picture(self) -> Sample:
        return self._told("picture", {"patch": self.s.patches}, self._between(8, 16))

    def sound(self) -> Sample:
        return self._told("sound", {"frame": self._between(40, 160)}, self._between(10, 40))

    def trajectory(self) -> Sample:
        steps = 20
        values = {
            name: (self._rows(name, steps), torch.arange(place, 3 * steps, 3))
            for place, name in enumerate(("return", "state", "action"))
        }
        wanted = {"action": (values["action"][0], values["state"][1])}
        return Sample("trajectory", 3 * steps, values, wanted)

    def _told(self, kind: str, given: dict[str, int], pieces: int, first: int = 0) -> Sample:
        """Rows, and a text behind them, of which all but the `first` values are told from the slot before each."""
        values = {name: (self._rows(name, rows), torch.arange(rows)) for name, rows in given.items()}
        ids, start = torch.randint(self.s.vocab, (pieces,), generator=self.chance), sum(given.values())
        slots = start + torch.arange(pieces)
        told = {"text": (ids[first:], slots[first:] - 1)}
        return Sample(kind, start + pieces, {**values, "text": (ids, slots)}, told)

    def _rows(self, name: str, rows: int) -> Tensor:
        return torch.randn(rows, WIDTHS[name], generator=self.chance)

    def _between(self, low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=self.chance))


def linear_maps(s) -> dict[str, nn.Linear]:
    """Into the model by stream, and out of it for actions."""
    torch.manual_seed(2)
    maps = {name: nn.Linear(width, s.dim) for name, width in WIDTHS.items()}
    return {**maps, "told": nn.Linear(s.dim, WIDTHS["action"])}


def our_reader(s) -> af.Model:
    gpt, maps = our_gpt(s), linear_maps(s)
    streams = {name: {"features": width} for name, width in WIDTHS.items()}
    known = gpt.architecture
    model = af.Model.of(
        replace(
            known,
            streams={**known.streams, **streams},
            heads={**known.heads, "action": {"bias": True}},
            family=None,
        )
    )
    weights = dict(gpt.state_dict())
    for name in WIDTHS:
        weights |= {f"embedders.{name}.linear.{key}": value for key, value in maps[name].state_dict().items()}
    weights |= {f"heads.action.{key}": value for key, value in maps["told"].state_dict().items()}
    model.load_state_dict(weights)
    return model


def our_batch(samples: Sequence[Sample]) -> af.Batch:
    examples = []
    for sample in samples:
        streams = {name: Stream.whole(*of) for name, of in sample.values.items()}
        tokens = Tokens(streams, sample.length, torch.arange(sample.length)[:, None])
        targets = {name: Stream.whole(*of) for name, of in sample.wanted.items()}
        examples.append(af.Example(tokens, targets, task=sample.kind))
    return af.pack(examples)


def our_loss(model: af.Model, batch: af.Batch) -> Tensor:
    """The sum of each kind's mean."""
    forward = af.ForwardPass(model, batch)
    return torch.stack([NextToken().loss(forward, targets).mean() for targets in batch.targets.values()]).sum()


class PaddedReader(nn.Module):
    """GPT-2 over what linear maps and its table make of the streams, each sequence padded to the longest."""

    def __init__(self, s) -> None:
        super().__init__()
        self.gpt = transformers_gpt(s)
        self.maps = nn.ModuleDict({f"{name} map": one for name, one in linear_maps(s).items()})

    def forward(self, batch: Padded) -> Tensor:
        table = self.gpt.transformer.wte
        x = torch.zeros(batch.there.numel(), table.weight.shape[1], device=batch.there.device)
        for name, (values, slots) in batch.values.items():
            rows = (table if name == "text" else self.maps[f"{name} map"])(values)
            x = x.index_copy(0, slots, rows.to(x.dtype))
        x = x.unflatten(0, batch.there.shape)
        hidden = self.gpt.transformer(inputs_embeds=x, attention_mask=batch.there).last_hidden_state.flatten(0, 1)
        return torch.stack([self._error(hidden, name, *of) for (_, name), of in batch.wanted.items()]).sum()

    def _error(self, hidden: Tensor, name: str, values: Tensor, slots: Tensor) -> Tensor:
        if name == "text":
            return F.cross_entropy(self.gpt.lm_head(hidden[slots]).float(), values)
        return F.mse_loss(self.maps["told map"](hidden[slots]).float(), values)


@dataclass(frozen=True)
class Padded:
    """there: int64[batch, longest], 0 where there is padding. values by stream and wanted by kind and stream, with
    their slots on the padded axis laid flat."""

    there: Tensor
    values: dict[str, tuple[Tensor, Tensor]]
    wanted: dict[tuple[str, str], tuple[Tensor, Tensor]]

    @classmethod
    def of(cls, samples: Sequence[Sample], device: str) -> Padded:
        there = pad_sequence([torch.ones(sample.length, dtype=torch.int64) for sample in samples], True)
        values: dict = {}
        wanted: dict = {}
        for row, sample in enumerate(samples):
            for name, (rows, slots) in sample.values.items():
                values.setdefault(name, []).append((rows, slots + row * there.shape[1]))
            for name, (rows, slots) in sample.wanted.items():
                wanted.setdefault((sample.kind, name), []).append((rows, slots + row * there.shape[1]))
        together = lambda found: {  # noqa: E731
            key: tuple(torch.cat(column).to(device) for column in zip(*of, strict=True)) for key, of in found.items()
        }
        return cls(there.to(device), together(values), together(wanted))
