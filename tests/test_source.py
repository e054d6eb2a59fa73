"""The second axis: what an encoder reads and a decoder attends to. The invariant holds there too: a sequence with
its source is the same alone, packed with others in any order, beside some that have no source, or padded."""

from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from anyformer.architecture import Architecture
from anyformer.batch import Batch, Example, pack
from anyformer.errors import ConfigError
from anyformer.mask import Mask
from anyformer.model import ForwardPass, Model
from anyformer.sublayers import set_backend
from anyformer.tokens import Stream, Tokens

DECODER = {
    "dim": 12, "heads": 2, "depth": 2, "hidden": 16, "recipe": ["attention", "cross_attention", "feed_forward"],
}  # fmt: skip
ENCODER = {"dim": 12, "heads": 2, "depth": 2, "hidden": 16, "causal": False}

ARCHITECTURES = {
    "one table for both axes, buckets": {  # T5's plan
        "backbone": DECODER | {"positions": {"type": "buckets"}, "score_scale": 1.0, "kv_heads": 1},
        "encoder": ENCODER | {"positions": {"type": "buckets", "bidirectional": True}, "score_scale": 1.0},
        "source": ["text"],
    },
    "another width and kind of input, post-norm, windowed": {
        "backbone": DECODER | {"positions": {"type": "learned", "size": 64}, "norm_placement": "post", "window": 2},
        "encoder": ENCODER | {"dim": 8, "window": [3, None], "attention_bias": "qvo"},
        "source": ["patch", "sound"],
    },
}
STREAMS = {
    "text": {"vocab_size": 11, "end": 0},
    "patch": {"features": 5, "rank": 2},
    "sound": {"features": 3, "embedder": {"type": "convolutions", "layers": [[None, 3, 2, 1]]}},
}
RUNS = [(name, backend) for name in ARCHITECTURES for backend in ("documents", "eager")]


@cache
def made(name: str) -> Model:
    """With large random weights: at initialisation a leak between sequences would be too faint."""
    torch.manual_seed(0)
    heads = {"text": {"tie": True}}
    model = Model.of(Architecture.of({"streams": STREAMS, "heads": heads, **ARCHITECTURES[name]}, "model"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.35)
    return model.eval()


def words(generator: torch.Generator, count: int) -> Tokens:
    return Tokens.of("text", torch.randint(0, 11, (count,), generator=generator))


def picture(generator: torch.Generator, rows: int) -> Tokens:
    grid = torch.cartesian_prod(torch.arange(rows), torch.arange(2))
    return Tokens({"patch": Stream.whole(torch.randn(len(grid), 5, generator=generator))}, len(grid), grid)


def sound(generator: torch.Generator, frames: int) -> Tokens:
    slots = torch.arange(-(-frames // 2))
    values = torch.randn(frames, 3, generator=generator)
    return Tokens({"sound": Stream.whole(values, slots)}, len(slots), slots[:, None])


NOTHING = Example(Tokens({}, 0, torch.zeros(0, 1, dtype=torch.int64)), {})


def sources(name: str) -> list:
    return [words] if name.startswith("one table") else [picture, sound]


@st.composite
def pairs(draw, name: str, absent: bool = True) -> list[Example]:
    """Targets with sources of any length, the first with one for sure; others may have none."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9999)))
    examples = []
    for number in range(draw(st.integers(1, 4))):
        read = draw(st.sampled_from(sources(name)))(generator, draw(st.integers(1, 6)))
        source = Example(read, {}, read.length)
        if absent and number:
            source = draw(st.sampled_from([source, source, NOTHING, None]))
        target = words(generator, draw(st.integers(1, 6)))
        says = Stream.whole(torch.randint(0, 11, (target.length,), generator=generator))
        prefix = draw(st.sampled_from([0, 0, target.length]))
        examples.append(Example(target, {"text": says}, prefix, "say", str(number), source))
    return examples


def alone(model: Model, example: Example) -> Batch:
    """One example as a batch; where it has no source, with one of no slots, without which it could not run."""
    return pack([example if example.source else replace(example, source=NOTHING)], model.rank)


def rows(model: Model, batch: Batch) -> dict[str, Tensor]:
    return dict(zip(batch.keys, model(batch).split(batch.mask.queries), strict=False))


def close(found: Tensor, wanted: Tensor, scale: float = 1.0) -> bool:
    return float((found - wanted).abs().max()) <= 1e-5 * max(scale, float(wanted.abs().max()))


@pytest.mark.parametrize(("name", "backend"), RUNS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_a_pair_is_the_same_in_any_company(name, backend, data):
    """Outputs alone = packed in any order = packed and padded, with absent sources beside present ones."""
    model, examples = made(name), data.draw(pairs(name))
    order, padding = data.draw(st.permutations(examples)), data.draw(st.integers(1, 5))
    slots = sum(example.tokens.length for example in examples)
    with torch.no_grad(), set_backend(backend):
        packed = rows(model, pack(order, model.rank))
        padded = rows(model, pack(order, model.rank, pad_to=slots + padding))
        for example in examples:
            wanted = model(alone(model, example))
            assert close(packed[example.key], wanted)
            assert close(padded[example.key], wanted)


def gradients(model: Model, batches: list[Batch]) -> dict[str, Tensor]:
    model.zero_grad()
    for batch in batches:
        target = batch.targets["say"]["text"]
        F.cross_entropy(ForwardPass(model, batch).read("text", target), target.values, reduction="sum").backward()
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}


@pytest.mark.parametrize(("name", "backend"), RUNS)
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_gradients_are_the_same_in_any_company(name, backend, data):
    """The encoder's and the decoder's, summed over the sequences alone."""
    model, examples = made(name), data.draw(pairs(name))
    with set_backend(backend):
        wanted = gradients(model, [alone(model, example) for example in examples])
        packed = gradients(model, [pack(data.draw(st.permutations(examples)), model.rank)])
    largest = max(float(gradient.abs().max()) for gradient in wanted.values())
    assert any(bool(g.any()) for n, g in wanted.items() if n.startswith("encoder."))
    for parameter, gradient in wanted.items():
        assert close(packed[parameter], gradient, largest), parameter


@pytest.mark.parametrize("name", ARCHITECTURES)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_a_source_reaches_its_own_target_and_no_other(name, data):
    """Another source changes every row of its target, the first one too, for it is seen whole; and no row else."""
    model, examples = made(name), data.draw(pairs(name))
    first = examples[0]
    streams = {
        key: replace(
            stream, values=1 - stream.values if stream.values.is_floating_point() else (stream.values + 1) % 11
        )
        for key, stream in first.source.tokens.streams.items()
    }
    source = replace(first.source, tokens=replace(first.source.tokens, streams=streams))
    other = [replace(first, source=source), *examples[1:]]
    with torch.no_grad():
        before, after = (rows(model, pack(these, model.rank)) for these in (examples, other))
    for key, wanted in before.items():
        moved = (after[key] - wanted).abs().amax(-1)
        assert bool((moved > 1e-4).all()) if key == first.key else float(moved.max()) <= 1e-6


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_absent_source_is_read_as_zeros(name):
    """Before the output projection, so that its bias is all that cross-attention adds; in every layer."""
    model, generator = made(name), torch.Generator().manual_seed(0)
    read = sources(name)[0](generator, 3)
    present = Example(words(generator, 4), {}, source=Example(read, {}, read.length))
    seen = []
    with torch.no_grad():
        model(
            pack([present, Example(words(generator, 3), {})], model.rank),
            probe={"cross_attention.heads": lambda layer, heads: seen.append((layer, heads))},
        )
    assert [layer for layer, _ in seen] == [0, 1]
    for _, heads in seen:
        assert heads.shape == (7, 2, 6)
        assert not heads[4:].any()
        assert bool(heads[:4].abs().amin(0).min() > 0)


def test_the_source_axis_is_packed_like_the_other():
    """Lengths, slots, positions and who sees whom; nothing for whoever has no source, and for padding."""
    generator = torch.Generator().manual_seed(0)
    patches, clip = picture(generator, 2), sound(generator, 3)
    examples = [
        Example(words(generator, 2), {}, key="a", source=Example(patches, {}, 4)),
        Example(words(generator, 3), {}, key="b"),
        Example(words(generator, 1), {}, key="c", source=Example(clip, {}, 1)),
    ]
    batch = pack(examples, pad_to=9)
    assert batch.mask.queries == (2, 3, 1, 3)
    assert batch.source.mask == Mask.prefixed((4, 0, 2, 0), (4, 0, 1, 0))
    assert batch.source.positions.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [0, 0], [1, 1]]
    assert batch.source.streams["sound"].slots.tolist() == [4, 5]
    assert (batch.source.source, batch.positions.shape[1]) == (None, 1)
    assert pack(examples[1:2]).source is None
    moved = batch.to("meta").source
    assert {t.device.type for t in (moved.positions, moved.streams["patch"].values)} == {"meta"}


def test_a_source_that_nobody_reads_is_refused():
    """A model without an encoder, and one with an encoder and nothing to read."""
    generator = torch.Generator().manual_seed(0)
    one = Example(words(generator, 2), {})
    single = Model.of(Architecture.of({"streams": {"text": {"vocab_size": 11}}, "backbone": ENCODER}, "model"))
    with pytest.raises(ConfigError, match="has a source, but the model has no encoder"):
        single(pack([replace(one, source=one)]))
    with pytest.raises(ConfigError, match="no source to read; give each example a `source`"):
        made(next(iter(ARCHITECTURES)))(pack([one]))


def test_likelihoods_and_generation_read_the_source():
    """Each its own, in any company; a session encodes it once."""
    name = list(ARCHITECTURES)[1]
    model, generator = made(name), torch.Generator().manual_seed(3)
    reads = [picture(generator, 3), sound(generator, 6), picture(generator, 1)]
    target = words(generator, 5)
    says = {"text": Stream.whole(torch.tensor([1, 2, 3, 4, 5]))}
    examples = [Example(target, says, source=Example(read, {}, read.length)) for read in reads]
    found = model.log_likelihoods(examples)
    assert len({round(nats, 3) for nats, _ in found}) == 3
    for example, (nats, count) in zip(examples, found, strict=True):
        ((wanted, number),) = model.log_likelihoods([example])
        assert abs(nats - wanted) < 1e-4
        assert count == number == 5
    together = model.generate(examples, "text", 4)
    for example, said in zip(examples, together, strict=True):
        (wanted,) = model.generate([example], "text", 4)
        assert torch.equal(said.streams["text"].values, wanted.streams["text"].values)
