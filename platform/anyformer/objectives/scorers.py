"""What else has a say in which value an attention decoder says next: rules of generation (see `anyformer.model.rules`)
for a decoder that writes down what is heard."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from anyformer.errors import ConfigError
from anyformer.model.rules import Histories, Logits
from anyformer.objectives.ctc import blank_of
from anyformer.objectives.knowing import Symbols, fraction
from anyformer.objectives.transcripts import NEVER, Language, Values
from anyformer.tokens import StreamSpec


@dataclass(frozen=True)
class PrefixPaths:
    """Of all paths through the slots up to each one, those that spell a prefix.

    spoken, blank: float64[slots + 1], ln p of those whose last answer is its last value, and of those that end in the
    blank; before the first slot, and then behind each. prefix: ln p of every text that begins with it. longer:
    float64[vocab], the same with one more value.
    """

    spoken: Float64[Tensor, " times"]
    blank: Float64[Tensor, " times"]
    prefix: float
    longer: Float64[Tensor, " vocab"]

    @property
    def whole(self) -> float:
        """ln p of the prefix as the whole text."""
        return float(torch.logaddexp(self.spoken[-1], self.blank[-1]))


@dataclass(frozen=True)
class CTCPrefixScore:
    """One-pass joint decoding (Hori et al. 2017, doi:10.18653/v1/P17-1048, §3.2 and 3.3): a decoder's log probabilities
    become (1 - λ) · ln p_attention + λ · what a value adds to ln p_ctc of all texts that begin so; the end adds what is
    left to ln p_ctc of the text itself. So a finished text scores (1 - λ) · ln p_attention + λ · ln p_ctc.

    chances: what CTC says at each slot of the one sound that is written down. spec: the text's stream. weight: λ.
    """

    chances: Float[Tensor, "slots vocab"]
    spec: StreamSpec
    weight: float
    _known: dict[Values, PrefixPaths] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        fraction("CTCPrefixScore", weight=self.weight)
        if self.spec.end is None:
            raise ConfigError(f"Stream {self.spec.name!r} has no end, so no text in it is ever finished.")
        object.__setattr__(self, "chances", self.chances.double().cpu())

    def __call__(self, nats: Logits, said: Histories) -> Logits:
        prefixes = ordinary(self.spec, said)
        adds = torch.stack([self._adds(self._paths(prefix)) for prefix in prefixes]).to(nats)
        together = (1 - self.weight) * nats + self.weight * adds
        return together.nan_to_num(nan=NEVER, neginf=NEVER)  # what one of them rules out, whatever its weight

    def _adds(self, paths: PrefixPaths) -> Float64[Tensor, " vocab"]:
        found = torch.full_like(paths.longer, NEVER)
        values = torch.from_numpy(Symbols(self.spec).ordinary)
        found[values] = paths.longer[values]
        found[self.spec.end] = paths.whole
        return (found - paths.prefix).nan_to_num(nan=NEVER, neginf=NEVER)

    def _paths(self, prefix: Values) -> PrefixPaths:
        if prefix not in self._known:
            self._known[prefix] = self._after(prefix) if prefix else self._nothing()
        return self._known[prefix]

    def _nothing(self) -> PrefixPaths:
        blanks = self.chances[:, blank_of(self.spec)].cumsum(0)
        never = torch.full((len(blanks) + 1,), NEVER, dtype=torch.float64)
        return self._told((), never, torch.cat((blanks.new_zeros(1), blanks)), 0.0)

    def _after(self, prefix: Values) -> PrefixPaths:
        """γ of that paper, slot by slot."""
        before, value, blank = self._paths(prefix[:-1]), prefix[-1], blank_of(self.spec)
        entering = self._entering(prefix[:-1], before.spoken, before.blank, value)
        spoken, silent = [entering.new_tensor(NEVER)], [entering.new_tensor(NEVER)]
        for entered, row in zip(entering[:-1], self.chances, strict=True):
            said = torch.logaddexp(spoken[-1], entered) + row[value]
            silent.append(torch.logaddexp(spoken[-1], silent[-1]) + row[blank])
            spoken.append(said)
        return self._told(prefix, torch.stack(spoken), torch.stack(silent), float(before.longer[value]))

    def _told(self, prefix: Values, spoken: Tensor, silent: Tensor, score: float) -> PrefixPaths:
        """Ψ: a value is first said at some slot, behind any path that spells the prefix."""
        entering = torch.logaddexp(spoken, silent)[:-1, None].expand(-1, self.chances.shape[1])
        if prefix:
            entering = entering.clone()
            entering[:, prefix[-1]] = self._entering(prefix, spoken, silent, prefix[-1])[:-1]
        return PrefixPaths(spoken, silent, score, (entering + self.chances).logsumexp(0))

    @staticmethod
    def _entering(prefix: Values, spoken: Tensor, silent: Tensor, value: int) -> Float64[Tensor, " times"]:
        """ln p of the paths that a new value may follow: a repeat needs a blank between."""
        return silent if prefix[-1:] == (value,) else torch.logaddexp(spoken, silent)


@dataclass(frozen=True)
class Fusion:
    """Shallow fusion (Hori et al. 2017, eq. 16): `weight` · what a language model says of a value is added, where there
    is one, and to each that is not the end the bonus."""

    language: Language | None
    spec: StreamSpec
    weight: float = 1.0
    bonus: float = 0.0

    def __call__(self, nats: Logits, said: Histories) -> Logits:
        bonus = torch.full_like(nats[0], self.bonus)
        if self.spec.end is not None:
            bonus[self.spec.end] = 0.0
        if self.language is None or not self.weight:
            return nats + bonus
        told = torch.from_numpy(self.language(ordinary(self.spec, said))).to(nats)
        return nats + self.weight * told + bonus


def ordinary(spec: StreamSpec, said: Histories) -> list[Values]:
    """What has been said, without what opens or pads it."""
    reserved = set(Symbols(spec).reserved)
    return [tuple(value for value in each if value not in reserved) for each in said]
