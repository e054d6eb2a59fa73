"""Most of a picture taken away, and told from the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from anyformer.architecture import BackboneConfig
from anyformer.backbone import Backbone
from anyformer.batch import Example
from anyformer.contracts import Loss
from anyformer.errors import ConfigError, SampleError, unknown
from anyformer.mask import Mask
from anyformer.model import ForwardPass, Model
from anyformer.objectives.knowing import Knowing, Specs, fraction, frozen
from anyformer.objectives.loss import error
from anyformer.tokens import Stream, StreamSpec, Tokens, with_rank

STEADY = 1e-6
"""What is added to a row's variance before it divides (as in the reference's code)."""


class Reconstruction(nn.Module):
    """A light stack over all slots: those that were read, as the model left them, and those that were not, which all
    begin with one trained vector and differ by their positions (arXiv:2111.06377 §3)."""

    def __init__(self, width: int, features: int, config: BackboneConfig) -> None:
        super().__init__()
        self.enter = nn.Linear(width, config.embed_width)
        self.mask = nn.Parameter(torch.empty(config.embed_width).normal_(std=0.02))
        self.stack = Backbone(config)
        self.out = nn.Linear(config.dim, features)

    def forward(
        self,
        read: Float[Tensor, "read width"],
        where: Int64[Tensor, "read rank"],
        missing: Int64[Tensor, "missing rank"],
        items: Int64[Tensor, "items 2"],
    ) -> Float[Tensor, "missing features"]:
        """Rows for the positions `missing`. items: how many slots of each sequence are missing and how many were read,
        one sequence behind the other in all three."""
        x = torch.cat((self.enter(read), self.mask.expand(len(missing), -1)))
        of = torch.arange(len(items), device=items.device)
        owner = torch.cat((of.repeat_interleave(items[:, 1]), of.repeat_interleave(items[:, 0])))
        order = owner.argsort(stable=True)  # what was read of a sequence, then what was not: its order is its positions
        mask = Mask.bidirectional(tuple(items.sum(1).tolist()))
        states = self.stack(x[order], torch.cat((where, missing))[order], mask)
        return self.out(states[order.argsort()[len(read) :]])


@dataclass
class MaskedAutoencoder(Knowing):
    """A stream's rows from a few of them: the model reads those that are left, nothing stands where the others were,
    and a light decoder, trained beside it, is told only where that was (MAE, He et al. 2021, arXiv:2111.06377 §3). The
    loss is the squared error of the rows that are missing. Fine-tuning begins with the model, without the decoder.

    stream: which one; by default the first continuous one. Whatever else a sample has is read whole (a class value, a
    caption); what never goes in, such as a label, is left out. rate: the part that is taken away, 75 % there.
    normalised: each row is to be told as it is with its own mean taken off and divided by its own deviation (§4.1,
    table 1d). decoder: settings of a BackboneConfig; by default the paper's, 8 blocks 512 wide.
    """

    stream: str = ""
    rate: float = 0.75
    normalised: bool = True
    decoder: dict[str, Any] = field(
        default_factory=lambda: {"dim": 512, "depth": 8, "heads": 16, "positions": {"type": "sinusoidal"}}
    )
    network: Reconstruction | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        fraction("masked_autoencoder", rate=self.rate)
        if not 0 < self.rate < 1:
            raise ConfigError(f"masked_autoencoder has rate={self.rate}; expected some rows to be left and some taken.")
        self._decoder = BackboneConfig.of(self.decoder, "masked_autoencoder decoder")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "network": None}  # it stays where it is trained

    def predicts(self, specs: Mapping[str, Sequence[StreamSpec]]) -> list[str]:
        """Nothing: what is told is told by the decoder."""
        self._spec(frozen(specs))
        return []

    def learn(self) -> None:
        self._name = self._spec(self.specs).name

    def beside(
        self, model: Model, specs: Mapping[str, Sequence[StreamSpec]], load: Callable[[str], Model]
    ) -> nn.Module | None:
        rank = {"rank": model.rank}  # it stands where the model stands
        config = BackboneConfig.of({**self.decoder, **rank}, "masked_autoencoder decoder")
        self.network = Reconstruction(model.backbone.config.width, self._spec(frozen(specs)).width, config)
        return self.network

    def length(self, lengths: Mapping[str, int]) -> int:
        """All slots of what is read: the model sees fewer, the decoder each of them."""
        return sum(length for field, length in lengths.items() if self._is_read(field))

    def prepare(self, tokens: Mapping[str, Tokens], rng: np.random.Generator) -> Example:
        """What is left. Its target is the missing rows, with where each stood in columns behind its features, so that
        one stream holds all that the decoder is told; their slots are all those that are left."""
        whole = Tokens.laid_end_to_end([part for field, part in tokens.items() if self._is_read(field)])
        if self._name not in whole.streams:
            raise SampleError(f"masked_autoencoder needs the stream {self._name!r}; got {sorted(whole.streams)}.")
        stream = whole.streams[self._name]
        count = len(stream.values)
        left = max(1, int(count * (1 - self.rate)))
        if left >= count or count != len(stream.slots):
            raise SampleError(
                f"A sample has {count} rows in {len(stream.slots)} slots of the stream {self._name!r}; expected two or "
                "more, each in its own slot. Make patches smaller, or leave it out."
            )
        taken = torch.from_numpy(np.sort(rng.permutation(count)[left:]))
        kept = torch.ones(whole.length, dtype=torch.bool)
        kept[stream.slots[taken]] = False
        read, rows, places = whole.only(kept), stream.values[taken], whole.positions[stream.slots[taken]]
        rows = standardised(rows) if self.normalised else rows
        sizes = torch.tensor([[len(taken), read.length]])
        wanted = Stream(torch.cat((rows, places.to(rows.dtype)), 1), torch.arange(read.length), sizes)
        return Example(read, {self._name: wanted}, read.length)

    def loss(self, forward: ForwardPass, targets: Mapping[str, Stream]) -> Loss:
        if self.network is None:
            raise ConfigError("masked_autoencoder has no decoder yet: a Learner makes it.")
        ((name, wanted),) = targets.items()
        rank, features = forward.model.rank, forward.model.specs[name].width
        rows, places = wanted.values[:, :features], wanted.values[:, features:].long()
        where = with_rank(forward.batch.positions, rank)[wanted.slots]
        said = self.network(forward.hidden[wanted.slots], where, with_rank(places, rank), wanted.items)
        return Loss(error(said, rows), float(len(rows)))

    def _is_read(self, field: str) -> bool:
        return any(spec.input for spec in self.specs[field])

    def _spec(self, specs: Specs) -> StreamSpec:
        rows = {s.name: s for each in specs.values() for s in each if s.input and not (s.overlay or s.is_discrete)}
        if not rows:
            raise ConfigError(f"masked_autoencoder needs a stream of rows; the fields {sorted(specs)} have none.")
        if self.stream and self.stream not in rows:
            raise unknown("stream of rows", self.stream, rows)
        found = rows[self.stream] if self.stream else next(iter(rows.values()))
        if self.normalised and found.width < 2:
            raise ConfigError(f"Rows of {found.name!r} have one feature, and no deviation; set normalised: false.")
        return found


def standardised(rows: Float[Tensor, "rows features"]) -> Float[Tensor, "rows features"]:
    """Each row with its mean taken off, divided by its deviation (arXiv:2111.06377 §3, "reconstruction target"), which
    is that of a sample (n - 1), as in the reference's code."""
    return (rows - rows.mean(1, keepdim=True)) / (rows.var(1, keepdim=True) + STEADY).sqrt()
