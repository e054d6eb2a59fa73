"""Objectives with a second network: one that corrupts what a model reads, one that a model takes after.

A trainer makes the network from the objective's settings (`Objective.beside`). It does not travel to data workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anyformer.architecture import read
from anyformer.batch import SLOTS, Batch, Example
from anyformer.contracts import Loss
from anyformer.errors import ConfigError
from anyformer.model import ForwardPass, Model, Network
from anyformer.objectives.knowing import Knowing, Symbols, frozen, main_stream
from anyformer.objectives.loss import count, error, sum_of_means
from anyformer.objectives.masked import Masked
from anyformer.objectives.pairs import masking
from anyformer.sublayers.positions import LearnedPositions
from anyformer.tokens import Stream, StreamSpec, Tokens


@dataclass
class Replaced(Knowing):
    """Which values a generator has replaced (ELECTRA, arXiv:2003.10555 §2): it fills in masks, and the model is asked
    of every ordinary value whether it is the text's own. What the generator happens to get right is.

    target: the field that brings the stream of the answers, of one feature. masked: the settings of `masked`; 15 %, and
    masks alone. weight: λ of the model's loss beside the generator's (50, appendix A).
    generator: its architecture, as a Learner's `preset`: a name, a YAML file, or what such a file would hold. It is
    trained with the model, whose tables of values and positions are its own too (§3.2), and left behind when
    training has ended.
    """

    target: str = "replaced"
    masked: dict[str, Any] = field(default_factory=lambda: {"masked": 1.0, "random": 0.0})
    weight: float = 50.0
    generator: str | dict[str, Any] = ""
    network: Network | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._masked = masking(self.masked)
        if self.weight < 0:
            raise ConfigError(f"replaced has weight={self.weight}; expected 0 or more.")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "network": None}

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

    def beside(
        self, model: Model, specs: Mapping[str, Sequence[StreamSpec]], load: Callable[[str], Model]
    ) -> nn.Module | None:
        if not self.generator:
            raise ConfigError("replaced needs a generator: the name of a model, such as electra-small-generator.")
        (text,) = self._masked.predicts(specs)
        self.network = Model.like(read(self.generator), model.tokenizers, [text])
        share_embeddings(self.network, model, text)
        return self.network

    def length(self, lengths: Mapping[str, int]) -> int:
        return sum(length for name, length in lengths.items() if name != self.target)

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
        if self.network is None:
            raise ConfigError("replaced has no generator yet: a Learner makes it, from the setting `generator`.")
        (text, hidden), (name, was) = targets.items()  # as `prepare` puts them
        logits = ForwardPass(self.network, forward.batch).read(text, hidden)
        with torch.no_grad():  # nothing flows back through what was drawn
            drawn = torch.multinomial(logits.float().softmax(-1), 1)[:, 0]
        corrupted = filled(forward.batch, text, hidden.slots, drawn)
        is_other = at(corrupted, text, was.slots) != was.values
        said = ForwardPass(forward.model, corrupted).read(name, was).float()[:, 0]
        found = F.binary_cross_entropy_with_logits(said, is_other.float(), reduction="sum")
        return sum_of_means({text: error(logits, hidden.values), name: found}, targets, {name: self.weight})


def share_embeddings(network: Network, other: Network, stream: str) -> None:
    """Let a network use another's tables of values and of positions, where they have the same shape; ConfigError where
    those of this stream have not."""
    ours, theirs = (dict(_embeddings(each)) for each in (network, other))
    shared = {id(p): theirs[n] for n, p in ours.items() if n in theirs and theirs[n].shape == p.shape}
    missed = [n for n, p in ours.items() if n.startswith(f"{stream.replace('.', '/')}.") and id(p) not in shared]
    if missed:
        raise ConfigError(
            f"The generator's embeddings of {stream!r} are {ours[missed[0]].shape[-1]} wide, the model's "
            f"{other.backbone.config.embed_width}; expected the same, to share them. Set the generator's embed_dim."
        )
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) in shared:  # heads that are tied to a table too
                setattr(module, name, shared[id(parameter)])


def _embeddings(network: Network) -> Iterator[tuple[str, nn.Parameter]]:
    yield from network.embedders.named_parameters()
    if isinstance(network.backbone.positions, LearnedPositions):
        yield from network.backbone.positions.named_parameters(prefix="/positions")


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

    soft, hard, cosine: weights of the three losses, each a mean. temperature: of both softened answers. teacher: the
    checkpoint of a model with the same tokenizers, as wide as the student where cosine is above 0; it is not trained,
    and read again when a run goes on. A student of every other layer begins with the teacher's own: Learner(start=...,
    start_layers=[0, 2, 4, ...]) (§2).
    """

    soft: float = 5.0
    hard: float = 2.0
    cosine: float = 1.0
    temperature: float = 2.0
    teacher: str = ""
    network: Network | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.soft, self.hard, self.cosine) < 0 or self.temperature <= 0:
            raise ConfigError(
                f"distilled has soft={self.soft}, hard={self.hard}, cosine={self.cosine}, temperature="
                f"{self.temperature}; expected weights of 0 or more and a temperature above 0."
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "network": None}

    def beside(
        self, model: Model, specs: Mapping[str, Sequence[StreamSpec]], load: Callable[[str], Model]
    ) -> nn.Module | None:
        """The teacher is read; nothing of it is trained."""
        if not self.teacher:
            raise ConfigError("distilled needs a teacher: the path of a model's checkpoint.")
        teacher = load(self.teacher)
        for name in teacher.tokenizers.keys() & model.tokenizers.keys():
            if teacher.tokenizers[name].fingerprint() != model.tokenizers[name].fingerprint():
                raise ConfigError(
                    f"The teacher {self.teacher} has another tokenizer {name!r} than the student. Give the mixture the "
                    "teacher's own: start."
                )
        wide, narrow = teacher.backbone.config.width, model.backbone.config.width
        if self.cosine and wide != narrow:
            raise ConfigError(f"The teacher is {wide} wide, the student {narrow}; expected the same, or set cosine: 0.")
        self.network = teacher.requires_grad_(False)
        return None

    def loss(self, forward: ForwardPass, targets: Mapping[str, Stream]) -> Loss:
        if self.network is None:
            raise ConfigError("distilled has no teacher yet: a Learner reads it, from the setting `teacher`.")
        ((name, target),) = targets.items()
        said = forward.read(name, target).float()
        with torch.no_grad():
            teaching = ForwardPass(self.network.to(said.device), forward.batch)
            taught, states = teaching.read(name, target).float(), teaching.hidden
        parts = {
            "soft": self.soft * softened(said, taught, self.temperature),
            "hard": self.hard * error(said, target.values),
        }
        away = 1 - F.cosine_similarity(forward.hidden.float(), states.float())
        turned = Loss(self.cosine * away.sum(), float(len(away)), over=SLOTS)
        return Loss(torch.stack(list(parts.values())).sum(), count(targets), parts, plus=(turned,))


def softened(said: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """T² · KL(teacher ‖ student) of answers divided by T, summed over rows (arXiv:1503.02531 §2)."""
    student, teacher = (F.log_softmax(logits / temperature, -1) for logits in (said, taught))
    return temperature**2 * F.kl_div(student, teacher, reduction="sum", log_target=True)
