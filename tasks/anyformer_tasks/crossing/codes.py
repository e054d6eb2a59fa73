"""Pictures as codes: how well a bottleneck rebuilds them, and pictures drawn from words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from anyformer.batch import pack
from anyformer.contracts import Metric, Sample, Score
from anyformer.model import ForwardPass
from anyformer.model.sampling import Sampling
from anyformer.objectives import Prefix, Quantised
from anyformer.objectives.quantised import codebook, nearest_codes, rebuilt
from anyformer_tasks.crossing.pictures import OfPictures
from anyformer_tasks.language.judgement import prepared

if TYPE_CHECKING:
    from anyformer.contracts import Objective
    from anyformer.model import Model

SHOWN = 6
"""Pictures that are drawn for the report."""


@dataclass
class PictureCoding(OfPictures):
    """A picture through a bottleneck of codes, see the objective `quantised`. error: the mean squared error of its
    values as the tokenizer gives them; codes_used: how many of a picture's codes differ.

    A sample is {"image": uint8[height, width, 3]}; the field `codes` only names the codebook's tokenizer.
    """

    fields: ClassVar[Mapping[str, str]] = {"image": "image", "codes": "codes"}
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("error", False), Metric("codes_used", True))

    def default_objective(self) -> Objective:
        return Quantised(field="image", codes="codes")

    def examples(self, split: Any) -> Sequence[Sample]:
        return Without(super().examples(split), "text")

    def score(self, model: Model, samples: Sequence[Sample]) -> Iterator[Score]:
        for sample in samples:
            (example,) = prepared("picture_coding", self, model, [sample])
            forward = ForwardPass(model, pack([example], model.rank).to(model.device))
            ((name, target),) = forward.batch.targets["picture_coding"].items()
            table = codebook(model, "codes")
            chosen, _ = nearest_codes(forward.hidden[target.slots], table)
            said = rebuilt(model, forward.batch, name, target.slots, table[chosen])
            streams = {**example.tokens.streams, name: replace(target, values=said.cpu())}
            again = model.tokenizers[self.fields["image"]].decode(replace(example.tokens, streams=streams))
            shown = {"image": np.hstack((sample.values["image"], again))}
            yield Score(sample.id, "error", float((said - target.values).pow(2).mean()), shown=shown)
            yield Score(sample.id, "codes_used", float(len(chosen.unique())))

    def baselines(self) -> Mapping[str, Mapping[str, float]]:
        """The mean picture of the training split, at a mean of 0.5 and a deviation of 0.5 as the tokenizer has them."""
        levels = lambda split: np.stack([s.values["image"] for s in self.examples(split)]) / 127.5 - 1  # noqa: E731
        seen, asked = levels("train"), levels("test")
        return {"error": {"mean picture": float(np.mean((asked - seen.mean(0)) ** 2))}}


@dataclass
class Drawing(OfPictures):
    """A picture drawn from words, code by code, by a model that reads both. bits_per_code: of the true picture's codes
    behind its words; less is better. The report shows pictures that the model draws.

    temperature, top_k: how those are drawn.
    """

    temperature: float = 1.0
    top_k: int = 32

    fields: ClassVar[Mapping[str, str]] = {"text": "text", "image": "picture"}
    modality: ClassVar[str] = "text → image"
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("bits_per_code", higher_is_better=False),)

    def default_objective(self) -> Objective:
        return Prefix(target="image")

    def score(self, model: Model, samples: Sequence[Sample]) -> Iterator[Score]:
        tokenizer = model.tokenizers[self.fields["image"]]
        drawn = self.drawn(model, samples[:SHOWN])
        for number, sample in enumerate(samples):
            ((nats, codes),) = model.log_likelihoods(prepared("drawing", self, model, [sample]))
            shown = {"text": sample.values["text"]}
            if number < len(drawn):
                shown["image"] = tokenizer.decode(drawn[number])
            yield Score(sample.id, "bits_per_code", -nats / np.log(2) / max(1, codes), weight=codes, shown=shown)

    def drawn(self, model: Model, samples: Sequence[Sample]) -> list[Any]:
        """Codes of as many patches as the samples' own pictures have."""
        tokenizer = model.tokenizers[self.fields["image"]]
        asked = [replace(sample, values={"text": sample.values["text"]}) for sample in samples]
        prompts = prepared("drawing", self, model, asked)
        found = []
        for sample, prompt in zip(samples, prompts, strict=True):
            sampling = Sampling(temperature=self.temperature, top_k=self.top_k)
            count = tokenizer.length(sample.values["image"])
            found += model.generate([prompt], tokenizer.streams[0].name, count, sampling, end=None)
        return found


class Without(Sequence[Sample]):
    """Samples without one of their fields."""

    def __init__(self, samples: Sequence[Sample], field: str) -> None:
        self.samples, self.field = samples, field

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        sample = self.samples[index]
        return replace(sample, values={key: value for key, value in sample.values.items() if key != self.field})
