"""Objectives with a second network: one that corrupts what a model reads, one that a model takes after.

The network is an object, not a setting: `Replaced(generator=network)`. It stays on the device where the loss is
computed and does not travel to data workers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from anyformer.batch import Batch, Example
from anyformer.contracts import Loss
from anyformer.errors import ConfigError
from anyformer.model import ForwardPass, Network
from anyformer.objectives.knowing import Knowing, Symbols, frozen, main_stream
from anyformer.objectives.loss import count, error, sum_of_means
from anyformer.objectives.masked import Masked
from anyformer.objectives.pairs import masking
from anyformer.tokens import Stream, StreamSpec, Tokens


@dataclass
class Replaced(Knowing):
    """Which values a generator has replaced (ELECTRA, arXiv:2003.10555 §2): it fills in masks, and the model is asked
    of every ordinary value whether it is the text's own. What the generator happens to get right is.

    target: the field that brings the stream of the answers, of one feature. masked: the settings of `masked`; 15 %, and
    masks alone. weight: λ of the model's loss beside the generator's (50, appendix A). generator: a network over the
    text's stream with a head for it; its parameters are trained if the optimiser has them.
    """

    target: str = "replaced"
    masked: dict[str, Any] = field(default_factory=lambda: {"masked": 1.0, "random": 0.0})
    weight: float = 50.0
    generator: InitVar[Network | None] = None

    def __post_init__(self, generator: Network | None) -> None:
        self._generator = generator
        self._masked = masking(self.masked)
        if self.weight < 0:
            raise ConfigError(f"replaced has weight={self.weight}; expected 0 or more.")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_generator": None}

    def predicts(self, specs: Mapping[str, Sequence[StreamSpec]]) -> list[str]:
        spec = main_stream(frozen(specs), self.target, discrete=False)
        if spec.features != 1:
            raise ConfigError(f"replaced answers in stream {spec.name!r}; expected one of one feature, a logit.")
        return [spec.name]

    def learn(self) -> None:
        (self._name,) = self.predicts(self.specs)
        self._masked = self._masked.ready(self.specs)
        texts = [s for streams in self.specs.values() for s in streams if s.name in self._masked.predicts(self.specs)]
        if not texts[0].is_discrete:
            raise ConfigError(f"replaced needs a stream of discrete values; {texts[0].name!r} is continuous.")
        self._symbols = Symbols(texts[0])

    def prepare(self, tokens: Mapping[str, Tokens], rng: np.random.Generator) -> Example:
        """The masked text; the targets are what the masks hide, and every ordinary value as it was."""
        _ = self.specs
        texts = {name: part for name, part in tokens.items() if name != self.target}
        example = self._masked.prepare(texts, rng)
        if not example.targets:
            return example
        (name,) = example.targets
        whole = Tokens.laid_end_to_end(list(texts.values())).streams[name]
        asked = torch.from_numpy(self._symbols.are_ordinary(whole.values.numpy()))
        was = Stream.whole(whole.values[asked], whole.slots[asked])
        return replace(example, targets={**example.targets, self._name: was})

    def loss(self, forward: ForwardPass, targets: Mapping[str, Stream]) -> Loss:
        """min L_MLM(generator) + λ · L_Disc(model), §2."""
        if self._generator is None:
            raise ConfigError("replaced needs a generator; give it as an object: Replaced(generator=network).")
        (text, hidden), (name, was) = targets.items()  # as `prepare` puts them
        logits = ForwardPass(self._generator, forward.batch).read(text, hidden)
        with torch.no_grad():  # nothing flows back through what was drawn
            drawn = torch.multinomial(logits.float().softmax(-1), 1)[:, 0]
        corrupted = filled(forward.batch, text, hidden.slots, drawn)
        is_other = at(corrupted, text, was.slots) != was.values
        said = ForwardPass(forward.model, corrupted).read(name, was).float()[:, 0]
        found = F.binary_cross_entropy_with_logits(said, is_other.float(), reduction="sum")
        return sum_of_means({text: error(logits, hidden.values), name: found}, targets, {name: self.weight})


def filled(batch: Batch, name: str, slots: Tensor, values: Tensor) -> Batch:
    """The batch with these values at these slots of a stream that has one value a slot."""
    stream = batch.streams[name]
    changed = stream.values.index_copy(0, _places(batch, stream)[slots], values)
    return replace(batch, streams={**batch.streams, name: replace(stream, values=changed)})


def at(batch: Batch, name: str, slots: Tensor) -> Tensor:
    """The stream's values at these slots."""
    stream = batch.streams[name]
    return stream.values[_places(batch, stream)[slots]]


def _places(batch: Batch, stream: Stream) -> Tensor:
    """int64[tokens]: which value of the stream stands at a slot, where one does."""
    places = torch.zeros(batch.tokens, dtype=torch.int64, device=stream.slots.device)
    return places.index_copy(0, stream.slots, torch.arange(len(stream.slots), device=stream.slots.device))


@dataclass
class Distilled(Masked):
    """Masked prediction by a student that also takes after a teacher (DistilBERT, arXiv:1910.01108 §2 and 3): its
    softened answers at the hidden places, and the direction of its hidden states at every slot.

    soft, hard, cosine: weights of the three losses, each a mean. temperature: of both softened answers. teacher: a
    network of the same streams, as wide as the student where cosine is above 0; it is not trained.
    """

    soft: float = 5.0
    hard: float = 2.0
    cosine: float = 1.0
    temperature: float = 2.0
    teacher: InitVar[Network | None] = None

    def __post_init__(self, teacher: Network | None) -> None:
        super().__post_init__()
        self._teacher = teacher
        if min(self.soft, self.hard, self.cosine) < 0 or self.temperature <= 0:
            raise ConfigError(
                f"distilled has soft={self.soft}, hard={self.hard}, cosine={self.cosine}, temperature="
                f"{self.temperature}; expected weights of 0 or more and a temperature above 0."
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_teacher": None}

    def loss(self, forward: ForwardPass, targets: Mapping[str, Stream]) -> Loss:
        if self._teacher is None:
            raise ConfigError("distilled needs a teacher; give it as an object: Distilled(teacher=network).")
        ((name, target),) = targets.items()
        said = forward.read(name, target).float()
        with torch.no_grad():
            teaching = ForwardPass(self._teacher, forward.batch)
            taught, states = teaching.read(name, target).float(), teaching.hidden
        total = count(targets)
        parts = {
            "soft": total * self.soft * softened(said, taught, self.temperature),
            "hard": self.hard * error(said, target.values),
            "cosine": total * self.cosine * (1 - F.cosine_similarity(forward.hidden.float(), states.float())).mean(),
        }
        return Loss(torch.stack(list(parts.values())).sum(), total, parts)


def softened(said: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """T² · KL(teacher ‖ student) of answers divided by T, the mean over rows (arXiv:1503.02531 §2)."""
    student, teacher = (F.log_softmax(logits / temperature, -1) for logits in (said, taught))
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)
