"""Continuous rows as values of a small vocabulary that is learned, and back (VQ-VAE, arXiv:1711.00937)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from anyformer.batch import Batch, Example
from anyformer.contracts import Loss
from anyformer.errors import ConfigError, SampleError, unknown
from anyformer.model import ForwardPass, Network
from anyformer.model.network import module_key
from anyformer.objectives.knowing import Knowing, frozen, main_stream
from anyformer.objectives.loss import count, error
from anyformer.tokens import Stream, StreamSpec, Tokens


def codebook(network: Network, codes: str) -> Float[Tensor, "codes dim"]:
    """What the values of a discrete stream are embedded as."""
    spec = network.specs.get(codes)
    if spec is None or not spec.is_discrete or not spec.input:
        raise unknown("discrete stream", codes, [s.name for s in network.specs.values() if s.is_discrete and s.input])
    every = torch.arange(spec.width, device=network.device)
    return network.embedders[module_key(codes)](every, torch.tensor([[spec.width, spec.width]], device=network.device))


def nearest_codes(
    hidden: Float[Tensor, "rows dim"], table: Float[Tensor, "codes dim"]
) -> tuple[Int64[Tensor, " rows"], Float[Tensor, "rows codes"]]:
    """The nearest entry of each row (equation 1), and the mean squared distances to all."""
    away = hidden.pow(2).mean(1, keepdim=True) - 2 / hidden.shape[1] * hidden @ table.T + table.pow(2).mean(1)
    return away.argmin(1), away


def rebuilt(network: Network, batch: Batch, name: str, slots: Tensor, rows: Tensor) -> Float[Tensor, "rows width"]:
    """What the network says of the stream where these rows are all that it is given, at these slots."""
    entry = rows.new_zeros(batch.tokens, rows.shape[1]).index_copy(0, slots, rows)
    positions = batch.positions.expand(-1, network.rank) if batch.positions.shape[1] == 1 else batch.positions
    hidden = network.backbone(entry, positions, batch.mask)
    return network.read(name, hidden[slots])


@dataclass
class Quantised(Knowing):
    """A picture or a sound through a bottleneck of codes: the model reads it, each hidden state is replaced by its
    nearest entry of the codes' table, and the same model says from these alone what was read.

        ‖x − x̂‖² + ‖sg(z) − e‖² + commitment · ‖z − sg(e)‖²         (equation 3, gradients straight through the choice)

    field: what is read, continuous. codes: the discrete stream whose table is the codebook. spread: weight of a term
    that asks for all codes to be in use, minus the entropy of the mean choice (arXiv:2310.05737 equation 5).
    """

    field: str = "image"
    codes: str = "codes"
    commitment: float = 0.25
    spread: float = 0.1

    def __post_init__(self) -> None:
        if self.commitment < 0 or self.spread < 0:
            raise ConfigError(
                f"quantised has commitment={self.commitment}, spread={self.spread}; expected 0 or more of both."
            )

    def predicts(self, specs: Mapping[str, Sequence[StreamSpec]]) -> list[str]:
        spec = main_stream(frozen(specs), self.field, discrete=False)
        if spec.is_discrete:
            raise ConfigError(f"quantised needs a continuous field; {self.field!r} is discrete already.")
        return [spec.name]

    def learn(self) -> None:
        (self._name,) = self.predicts(self.specs)

    def length(self, lengths: Mapping[str, int]) -> int:
        return lengths.get(self.field, 0)

    def prepare(self, tokens: Mapping[str, Tokens], rng: np.random.Generator) -> Example:
        _ = self.specs
        if self.field not in tokens:
            raise SampleError(f"quantised needs the field {self.field!r}; the sample has {sorted(tokens)}.")
        read = tokens[self.field]
        values = read.streams[self._name]
        if len(values.values) != len(values.slots):
            raise ConfigError(f"Stream {self._name!r} has fewer slots than values; quantised needs one slot a value.")
        return Example(read, {self._name: Stream.whole(values.values, values.slots)}, read.length)

    def loss(self, forward: ForwardPass, targets: Mapping[str, Stream]) -> Loss:
        ((name, target),) = targets.items()
        z = forward.hidden[target.slots].float()
        table = codebook(forward.model, self.codes).float()
        chosen, away = nearest_codes(z, table)
        e = table[chosen]
        said = rebuilt(forward.model, forward.batch, name, target.slots, z + (e - z).detach())
        mean = (-away).softmax(1).mean(0)
        crowded = (mean * mean.clamp(min=1e-9).log()).sum() * len(z)
        parts = {
            "rebuilt": error(said, target.values),
            "codebook": (e - z.detach()).pow(2).mean(1).sum(),
            "commitment": self.commitment * (z - e.detach()).pow(2).mean(1).sum(),
            "spread": self.spread * crowded,
        }
        return Loss(torch.stack(list(parts.values())).sum(), count(targets), parts)
