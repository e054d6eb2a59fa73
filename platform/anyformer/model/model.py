"""The model as users hold it: the network, the tokenizers it belongs to, and what one does with both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from anyformer.backbone import BackboneConfig
from anyformer.batch import Example, pack
from anyformer.contracts import Sample, Task, Tokenizer, prepare
from anyformer.errors import ConfigError, SampleError, TokenizerError, unknown
from anyformer.model.network import Network
from anyformer.model.session import GREEDY, Sampling, Session
from anyformer.tokens import Stream, Tokens


class Model(Network):
    """A network with its tokenizers.

    tokenizers: fitted, by name. backbone: a BackboneConfig or the same as plain data. heads: the streams that
    are predicted. tie: share a discrete stream's table between its embedder and its head. scale: multiply tables
    by √dim on the way in.
    """

    def __init__(
        self,
        tokenizers: Mapping[str, Tokenizer],
        backbone: BackboneConfig | dict[str, Any],
        heads: Sequence[str],
        tie: bool = True,
        scale: bool = True,
    ) -> None:
        for name, tokenizer in tokenizers.items():
            if not tokenizer.fitted:
                raise TokenizerError(f"Tokenizer {name!r} is not fitted; call its fit(samples) or restore(state).")
        specs = [spec for tokenizer in tokenizers.values() for spec in tokenizer.streams]
        super().__init__(specs, BackboneConfig.of(backbone), heads, tie, scale)
        self.tokenizers = dict(tokenizers)
        self._config = {"heads": list(heads), "tie": tie, "scale": scale}

    def config(self) -> dict[str, Any]:
        """Everything but weights and tokenizers, as plain JSON values."""
        return {"backbone": self.backbone.config.as_json(), **self._config}

    def session(self, count: int, seed: int = 0) -> Session:
        """`count` parallel sequences to append to and sample from."""
        return Session(self, count, seed)

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[Example], stream: str, max_new: int, sampling: Sampling = GREEDY
    ) -> list[Tokens]:
        """New values of a discrete stream behind each prompt, up to and including the stream's `end`.

        Prompts may differ in length and in modality; an empty one is a SampleError. Each result holds the new
        values alone.
        """
        spec = self.specs.get(stream)
        if spec is None or not spec.is_discrete:
            raise unknown("discrete stream", stream, [s.name for s in self.specs.values() if s.is_discrete])
        if not all(prompt.tokens.length for prompt in prompts):
            raise SampleError("A prompt is empty; expected at least one token to go on from.")
        if not prompts:
            return []
        session = self.session(len(prompts), sampling.seed)
        session.append([prompt.tokens for prompt in prompts], [prompt.prefix for prompt in prompts])
        at = [_next_position(prompt.tokens) for prompt in prompts]
        said: list[list[int]] = [[] for _ in prompts]
        going = [True] * len(prompts)
        for step in range(max_new):
            for one, value in enumerate(session.sample(stream, sampling).tolist()):
                if going[one]:
                    said[one].append(value)
                    going[one] = value != spec.end
            if step + 1 == max_new or not any(going):
                break
            session.append(
                [_one(stream, s[-1], p + step) if go else None for s, p, go in zip(said, at, going, strict=True)]
            )
        return [Tokens.of(stream, torch.tensor(values, dtype=torch.int64)) for values in said]

    def complete(
        self,
        name: str,
        task: Task,
        samples: Sequence[Sample],
        field: str,
        max_new: int,
        sampling: Sampling = GREEDY,
    ) -> list[Any]:
        """The model's own value for one field of each sample, the others given: a caption, a transcript."""
        if field not in task.fields:
            raise unknown("field", field, task.fields)
        tokenizer = self.tokenizers[task.fields[field]]
        if len(tokenizer.streams) != 1:
            raise ConfigError(f"Field {field!r} has several streams; use a session to complete it.")
        answers = []
        for part in _chunks(samples, 64):
            given = [replace(s, values={k: v for k, v in s.values.items() if k != field}) for s in part]
            prompts = [prepare(name, task, self.tokenizers, s, np.random.default_rng(0)) for s in given]
            answers += self.generate(prompts, tokenizer.streams[0].name, max_new, sampling)
        return [tokenizer.decode(tokens) for tokens in answers]

    @torch.no_grad()
    def log_likelihoods(self, examples: Sequence[Example], token_budget: int = 8192) -> list[tuple[float, int]]:
        """For each example, the sum of log probabilities (nats) of its discrete targets, and their number."""
        found: list[tuple[float, int]] = []
        for part in _within_budget(examples, token_budget):
            batch = pack(part, self.rank).to(self.device)
            hidden = self(batch)
            sums = torch.zeros(len(part), dtype=torch.float64, device=self.device)
            counts = torch.zeros(len(part), dtype=torch.int64, device=self.device)
            document = batch.mask.document_of(batch.mask.queries).to(self.device)
            for targets in batch.targets.values():
                for name, target in targets.items():
                    nats = self._log_probabilities(name, hidden, target)
                    of = document[target.slots]
                    sums.index_add_(0, of, nats.double())
                    counts.index_add_(0, of, torch.ones_like(of))
            found += zip(sums.tolist(), counts.tolist(), strict=True)
        return found

    def _log_probabilities(self, name: str, hidden: torch.Tensor, target: Stream) -> torch.Tensor:
        if not self.specs[name].is_discrete:
            raise ConfigError(f"Stream {name!r} is continuous; only discrete values have probabilities here.")
        return -F.cross_entropy(self.read(name, hidden[target.slots]).float(), target.values, reduction="none")


def _next_position(tokens: Tokens) -> int:
    return int(tokens.positions.max()) + 1 if tokens.length else 0


def _one(stream: str, value: int, position: int) -> Tokens:
    return Tokens({stream: Stream.whole(torch.tensor([value]))}, 1, torch.tensor([[position]]))


def _chunks(items: Sequence, size: int) -> Iterator[Sequence]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _within_budget(examples: Sequence[Example], budget: int) -> Iterator[list[Example]]:
    """Consecutive runs of examples of at most `budget` slots; one longer than that stands alone."""
    run: list[Example] = []
    for example in examples:
        if run and sum(e.tokens.length for e in run) + example.tokens.length > budget:
            yield run
            run = []
        run.append(example)
    if run:
        yield run
