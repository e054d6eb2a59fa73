"""The model as users hold it: the network, the tokenizers it belongs to, and what one does with both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from types import EllipsisType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float

from anyformer.architecture import Architecture, HeadConfig, StackConfig
from anyformer.batch import Example, pack, within
from anyformer.contracts import Sample, Task, Tokenizer, prepare
from anyformer.errors import ConfigError, TokenizerError, unknown
from anyformer.model.beam import Beams, Hypothesis, search
from anyformer.model.network import ForwardPass, Network, pooled
from anyformer.model.sampling import GREEDY, Said
from anyformer.model.saying import Strategy, say
from anyformer.model.session import Session
from anyformer.tokens import Stream, StreamSpec, Tokens


class Model(Network):
    """A network with its tokenizers.

    tokenizers: fitted, by name. backbone: a BackboneConfig or the same as plain data. heads: the streams that are
    predicted, or a HeadConfig for each. tie: heads that are only named share a discrete stream's table with its
    embedder. scale: multiply tables by √dim on the way in. encoder, source, streams, context, family: see Architecture.
    """

    def __init__(
        self,
        tokenizers: Mapping[str, Tokenizer],
        backbone: StackConfig | Mapping[str, Any],
        heads: Sequence[str] | Mapping[str, Any],
        tie: bool = True,
        scale: bool = True,
        encoder: StackConfig | Mapping[str, Any] | None = None,
        source: Sequence[str] = (),
        streams: Mapping[str, Any] | None = None,
        context: Sequence[int] = (),
        family: str | None = None,
    ) -> None:
        for name, tokenizer in tokenizers.items():
            if not tokenizer.fitted:
                raise TokenizerError(f"Tokenizer {name!r} is not fitted; call its fit(samples) or restore(state).")
        specs = [spec for tokenizer in tokenizers.values() for spec in tokenizer.streams]
        described = heads if isinstance(heads, Mapping) else _plain_heads(heads, specs, tie)
        architecture = {
            "backbone": backbone, "heads": described, "streams": streams or {}, "encoder": encoder, "source": source,
            "scale": scale, "context": context, "family": family,
        }  # fmt: skip
        super().__init__(specs, Architecture.of(architecture, "model"))
        self.tokenizers = dict(tokenizers)
        self.origin: Any = None  # what published weights brought beside what is learned, to be written back with them

    @classmethod
    def of(cls, architecture: Architecture, tokenizers: Mapping[str, Tokenizer] | None = None) -> Model:
        """A model with random weights."""
        return cls(tokenizers or {}, **{f.name: getattr(architecture, f.name) for f in fields(architecture)})

    @classmethod
    def like(
        cls,
        architecture: Architecture,
        tokenizers: Mapping[str, Tokenizer],
        heads: Sequence[str],
        changes: Mapping[str, Any] | None = None,
    ) -> Model:
        """An architecture over the streams of these tokenizers, with heads for those that are predicted.

        A head keeps the architecture's own form where it has one of that name. changes: settings of the backbone
        that are to differ.
        """
        specs = [spec for tokenizer in tokenizers.values() for spec in tokenizer.streams]
        plain = _plain_heads(heads, specs, tie=True)
        known = {name: head for name, head in architecture.heads.items() if name in plain}
        backbone = type(architecture.backbone).of({**architecture.backbone.as_json(), **(changes or {})}, "backbone")
        return cls.of(replace(architecture, streams={}, heads={**plain, **known}, backbone=backbone), tokenizers)

    def config(self) -> dict[str, Any]:
        """Everything but weights and tokenizers, as plain JSON values."""
        return self.architecture.as_json()

    def opening(self, stream: str) -> int | None:
        """The value that a decoder's answer begins behind: as published weights say, or the stream's own start."""
        stated = None if self.origin is None else self.origin.config.get("decoder_start_token_id")
        return self.specs[stream].special.get("start") if stated is None else int(stated)

    def session(self, count: int, seed: int = 0, source: Sequence[Example] | None = None) -> Session:
        """`count` parallel sequences to append to and sample from, each with its source if the model reads one."""
        return Session(self, count, seed, source)

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Example],
        stream: str,
        max_new: int,
        sampling: Strategy = GREEDY,
        end: int | EllipsisType | None = ...,
    ) -> list[Tokens]:
        """New values of a discrete stream behind each prompt, up to and including `end`: by default the stream's own;
        None never ends. sampling: also Contrastive or Speculative.

        Prompts may differ in length and in modality; an empty one is a SampleError. Each result holds the new
        values alone.
        """
        rounds = list(say(self, prompts, stream, max_new, sampling, end))
        said = [[one.value for each in rounds for one in each[row]] for row in range(len(prompts))]
        return [Tokens.of(stream, torch.tensor(values, dtype=torch.int64)) for values in said]

    def stream(
        self,
        prompt: Example,
        stream: str,
        max_new: int,
        sampling: Strategy = GREEDY,
        end: int | EllipsisType | None = ...,
    ) -> Iterator[Said]:
        """What `generate` says behind one prompt, value by value as it is found. `spoken` makes text of it."""
        return (one for (each,) in say(self, [prompt], stream, max_new, sampling, end) for one in each)

    def beam_search(
        self, prompts: Sequence[Example], stream: str, settings: Beams, end: int | EllipsisType | None = ...
    ) -> list[list[Hypothesis]]:
        """For each prompt the likeliest continuations in a discrete stream that beam search finds, best first.

        They are up to and including `end`: by default the stream's own; None never ends. Prompts may differ in length
        and in modality; an empty one is a SampleError. Fewer than `settings.returns` come back where there are no more.
        """
        return search(self, prompts, stream, settings, end)

    def complete(
        self,
        name: str,
        task: Task,
        samples: Sequence[Sample],
        field: str,
        max_new: int,
        sampling: Strategy = GREEDY,
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
    def vectors(self, examples: Sequence[Example]) -> Float[torch.Tensor, "examples dim"]:
        """Where each sequence stands: the mean of its hidden states, of length 1. What `contrastive` brings together,
        and what retrieval compares. One batch."""
        batch = pack(examples, self.rank).to(self.device)
        lengths = torch.tensor(batch.mask.queries, device=self.device)
        whole = Stream(lengths, torch.arange(batch.tokens, device=self.device), torch.stack((lengths, lengths), 1))
        return F.normalize(pooled(self(batch), whole).float(), dim=-1)

    @torch.no_grad()
    def log_likelihoods(
        self, examples: Sequence[Example], token_budget: int = 8192, read: Reading = ForwardPass.read_each
    ) -> list[tuple[float, int]]:
        """For each example, the sum of log probabilities (nats) of its discrete targets and places, and their number.

        read: what the model says of a target, a row for each value; an objective's own `read`, where it has one.
        ConfigError for targets that have no probabilities.
        """
        found: list[tuple[float, int]] = []
        for part in within(examples, token_budget, lambda example: example.size):
            forward = ForwardPass(self, pack(part, self.rank).to(self.device))
            of = _example_of_slots(part).to(self.device)
            sums = torch.zeros(len(part), dtype=torch.float64, device=self.device)
            counts = torch.zeros(len(part), dtype=torch.int64, device=self.device)
            for targets in forward.batch.targets.values():
                for name, target in targets.items():
                    nats = _log_probabilities(read(forward, name, target), name, target)
                    values, slots = target.items.unbind(1)
                    whose = of[target.slots[slots.cumsum(0) - slots]].repeat_interleave(values)
                    sums.index_add_(0, whose, nats.double())
                    counts.index_add_(0, whose, torch.ones_like(whose))
            found += zip(sums.tolist(), counts.tolist(), strict=True)
        return found


Reading = Callable[[ForwardPass, str, Stream], torch.Tensor]


def _log_probabilities(said: torch.Tensor, name: str, target: Stream) -> torch.Tensor:
    if target.values.is_floating_point():
        raise ConfigError(f"Stream {name!r} is continuous; only discrete values have probabilities here.")
    return -F.cross_entropy(said.float(), target.values, reduction="none")


def _example_of_slots(examples: Sequence[Example]) -> torch.Tensor:
    """int64[tokens]: which of these each slot of their batch belongs to; what is apart stands behind them all."""
    lengths = [(i, one.tokens.length) for i, one in enumerate(examples)]
    lengths += [(i, other.tokens.length) for i, one in enumerate(examples) for other in one.apart]
    whose, sizes = torch.tensor(lengths).unbind(1)
    return whose.repeat_interleave(sizes)


def _plain_heads(names: Sequence[str], specs: Sequence[StreamSpec], tie: bool) -> dict[str, HeadConfig]:
    """Heads that are only named: logits against a table, the embedder's own where it has one, or a linear map."""
    known = {spec.name: spec for spec in specs}
    for name in names:
        if name not in known:
            raise unknown("stream", name, known)
    tied = {name: tie and (spec := known[name]).is_discrete and spec.input and spec.embedder is None for name in names}
    return {name: HeadConfig(tie=tied[name], bias=not known[name].is_discrete) for name in names}


def _chunks(items: Sequence, size: int) -> Iterator[Sequence]:
    return (items[start : start + size] for start in range(0, len(items), size))
