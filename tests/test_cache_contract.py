"""What a cache owes: whatever is said step by step has the hidden states that the whole sequence would have in one
pass. For every position scheme, with and without a source, with and without windows, for any number of key heads, and
for every published architecture that generates; in random pieces, with prefixes, and as a beam search goes on."""

import json
from dataclasses import dataclass, field
from functools import cache
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from schemes import SCHEMES
from torch import Tensor

from anyformer.architecture import Architecture, BackboneConfig, RecurrentConfig, names, preset, reduced
from anyformer.batch import Example, pack
from anyformer.model import Model, Session
from anyformer.tokens import Stream, StreamSpec, Tokens

WIDTH, HEADS, LONGEST = 16, 4, 12
SELF, CROSS = ("attention", "feed_forward"), ("attention", "cross_attention", "feed_forward")


def made_here(name: str, recipe: tuple[str, ...], window, kv_heads: int) -> Architecture:
    """Two layers with one position scheme."""
    backbone = BackboneConfig(
        WIDTH, HEADS, depth=2, hidden=WIDTH, recipe=recipe, window=window, kv_heads=kv_heads, positions=SCHEMES[name]
    )
    text = {"text": {"vocab_size": 11}}
    if recipe == SELF:
        return Architecture(backbone, {"text": {}}, text)
    encoder = BackboneConfig(8, 2, hidden=8, causal=False)
    return Architecture(backbone, {"text": {}}, text | {"source": {"vocab_size": 7}}, encoder, ("source",))


def key_heads(name: str) -> tuple[int, ...]:
    """All that a scheme can have."""
    return (HEADS,) if name == "transformer_xl" else (HEADS, 2, 1)


HERE = {
    f"{name}, {'self' if recipe == SELF else 'cross'}, window {window}, {heads} key heads": (
        name,
        recipe,
        window,
        heads,
    )
    for name, recipe, window in product(SCHEMES, (SELF, CROSS), (None, 3, (None, 3)))
    for heads in key_heads(name)
}


@cache
def published() -> dict[str, Architecture]:
    """Small twins of every published architecture that generates; sizes of one family have one twin."""
    twins: dict[str, tuple[str, Architecture]] = {}
    for name in names():
        twin = reduced(preset(name))
        if twin.backbone.causal:
            twins.setdefault(json.dumps(twin.as_json(), sort_keys=True), (name, twin))
    return dict(twins.values())


@cache
def shaken(name: str) -> Model:
    """With parameters of ordinary size: at initialisation a mistake could be too faint to see."""
    torch.manual_seed(0)
    model = Model.of(made_here(*HERE[name]) if name in HERE else published()[name])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.25)
            if parameter.dim() == 1:
                parameter.add_(0.5)  # norms that pass something on
    return model.eval()


@dataclass
class Speech:
    """One row of a session: what was said to it, what it reads, and the hidden states it has had."""

    source: Example | None
    parts: list[Tokens] = field(default_factory=list)
    prefix: int = 0
    hidden: list[Tensor] = field(default_factory=list)

    @property
    def tokens(self) -> Tokens:
        """All parts as one sequence, positions as they were given."""
        streams: dict[str, list[Stream]] = {}
        length = 0
        for part in self.parts:
            for name, stream in part.streams.items():
                streams.setdefault(name, []).append(stream.shifted(length))
            length += part.length
        joined = {name: Stream.joined(pieces) for name, pieces in streams.items()}
        return Tokens(joined, length, torch.cat([part.positions for part in self.parts]))

    def copy(self) -> "Speech":
        return Speech(self.source, list(self.parts), self.prefix, list(self.hidden))


@dataclass
class Speaker:
    """Random input of any architecture, from its streams."""

    model: Model
    generator: torch.Generator

    def values(self, spec: StreamSpec, count: int) -> Tensor:
        if spec.is_discrete:
            return torch.randint(0, spec.width, (count,), generator=self.generator)
        return torch.randn(count, spec.width, generator=self.generator)

    def source(self, frames: int) -> Example | None:
        """One item of the first source stream, seen whole; None where nothing reads a source."""
        architecture = self.model.architecture
        if architecture.encoder is None:
            return None
        spec = self.model.specs[architecture.source[0]]
        slots = torch.arange(spec.slots(frames))
        stream = Stream.whole(self.values(spec, frames), slots)
        return Example(Tokens({spec.name: stream}, len(slots), slots[:, None]), {}, len(slots))

    def part(self, length: int, start: int) -> Tokens:
        """So many slots of the streams of the target axis, one after the other, from this position on."""
        architecture = self.model.architecture
        shared = architecture.source and set(architecture.streams) == set(architecture.source)
        own = [
            spec for name, spec in self.model.specs.items()
            if spec.input and not spec.overlay and (shared or name not in architecture.source)
        ]  # fmt: skip
        streams = {}
        for number, spec in enumerate(own):
            slots = torch.arange(length)[number :: len(own)]
            if len(slots):
                streams[spec.name] = Stream.whole(self.values(spec, len(slots)), slots)
        return Tokens(streams, length, torch.arange(start, start + length)[:, None].expand(-1, self.model.rank))


@torch.no_grad()
def decoded(model: Model, data: st.DataObject) -> list[Speech]:
    """A session in random pieces: unequal lengths, rows that stay silent, prefixes, gaps between positions, and now
    and then another choice of rows, as beams are chosen."""
    speaker = Speaker(model, torch.Generator().manual_seed(data.draw(st.integers(0, 999))))
    rows = [Speech(speaker.source(data.draw(st.integers(1, 6)))) for _ in range(data.draw(st.integers(1, 3)))]
    sources = None if rows[0].source is None else [row.source for row in rows]
    seen: list[Tensor] = []
    hook = model.backbone.register_forward_hook(lambda stack, inputs, out: seen.append(out))
    session = model.session(len(rows), source=sources)
    session.cache = model.backbone.new_cache(len(rows), capacity=data.draw(st.sampled_from([1, 5, 40])))
    recurrent = isinstance(model.backbone.config, RecurrentConfig)
    for _ in range(data.draw(st.integers(1, 5))):
        if data.draw(st.integers(0, 2)) == 0:
            chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=4))
            session.select(chosen)
            rows = [rows[row].copy() for row in chosen]
        spoken, prefixes = [], []
        for row in rows:
            have = sum(part.length for part in row.parts)
            length = data.draw(st.sampled_from([0, 1, 1, 1, 2, 5])) if have < LONGEST - 5 else 0
            prefix = 0 if have or recurrent else data.draw(st.integers(0, length))
            spoken.append(speaker.part(length, _next(row) + data.draw(st.integers(0, 2))) if length else None)
            prefixes.append(prefix)
            row.prefix = row.prefix if have else prefix
        session.append(spoken, prefixes)
        hidden = seen.pop().split([0 if one is None else one.length for one in spoken])
        for row, one, states in zip(rows, spoken, hidden, strict=True):
            if one is not None:
                row.parts.append(one)
                row.hidden.append(states)
    hook.remove()
    assert_ends(session, rows)
    return rows


def _next(row: Speech) -> int:
    return int(row.parts[-1].positions.max()) + 1 if row.parts else 0


def assert_ends(session: Session, rows: list[Speech]) -> None:
    """A session knows how long each of its rows is, and the last hidden state of each."""
    assert session.lengths == [sum(part.length for part in row.parts) for row in rows]
    for row, last in zip(rows, session.last, strict=True):
        assert torch.equal(last, row.hidden[-1][-1] if row.hidden else torch.zeros_like(last))


def assert_same_as_at_once(model: Model, rows: list[Speech]) -> None:
    """Each row's hidden states against one pass over all of it, alone and without a cache."""
    for row in rows:
        if row.parts:
            with torch.no_grad():
                wanted = model(pack([Example(row.tokens, {}, row.prefix, source=row.source)], model.rank))
            found = torch.cat(row.hidden)
            assert found.shape == wanted.shape
            assert float((found - wanted).abs().max()) <= 2e-5 * max(1.0, float(wanted.abs().max()))


@pytest.mark.parametrize("name", HERE)
@settings(max_examples=4, deadline=None)
@given(data=st.data())
def test_step_by_step_is_at_once(name, data):
    """Every scheme x source x window x key heads."""
    model = shaken(name)
    assert_same_as_at_once(model, decoded(model, data))


@pytest.mark.parametrize("name", published())
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_published_architectures_speak_step_by_step(name, data):
    """Every one whose backbone is causal, as its small twin."""
    model = shaken(name)
    assert_same_as_at_once(model, decoded(model, data))
