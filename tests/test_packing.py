"""The invariant everything relies on: a sequence is the same alone, packed with others in any order, or
padded, for outputs and for gradients, whatever its modalities and whoever sees whom in it."""

from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.attention import flex_attention

from anyformer.architecture import Architecture, BackboneConfig, HeadConfig
from anyformer.backbone import Backbone
from anyformer.batch import SLOTS, Batch, Example, counted, pack
from anyformer.errors import ConfigError
from anyformer.mask import Mask
from anyformer.model import ForwardPass, Network
from anyformer.sublayers import PackedConv1d, set_backend
from anyformer.tokens import Stream, StreamSpec, Tokens

DIM = 12


class SoundEmbedding(nn.Module):
    """A strided convolution and a conformer block over each clip by itself, as a plugin would build it."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        recipe = ("half feed_forward", "attention", "convolution", "half feed_forward")
        self.shorten = PackedConv1d(3, dim, kernel=3, stride=2)
        self.block = Backbone(
            BackboneConfig(dim, 2, recipe=recipe, end_norm=True, final_norm=False, activation="silu", kernel=5)
        )

    def forward(self, values: Tensor, items: Tensor) -> Tensor:
        x, lengths = self.shorten(values, tuple(items[:, 0].tolist()))
        where = torch.cat([torch.arange(length) for length in lengths])[:, None]
        return self.block(x, where, Mask.bidirectional(lengths))


def halved(frames: int) -> int:
    return -(-frames // 2)


SPECS = [
    StreamSpec.discrete("text", 11, end=0),
    StreamSpec.continuous("patch", 5, rank=2),
    StreamSpec.continuous("sound", 3, slots=halved, embedder=SoundEmbedding),
    StreamSpec.continuous("rl.return", 1),
    StreamSpec.continuous("rl.state", 4),
    StreamSpec.discrete("rl.action", 3),
]

BACKBONES = {
    "rotary, grouped, pre-norm": {
        "kv_heads": 1, "head_dim": 4, "norm": "rms", "gated": True, "attention_bias": "", "feed_forward_bias": False,
        "activation": "silu",
    },
    "sinusoidal, post-norm": {
        "positions": {"type": "sinusoidal"}, "norm_placement": "post", "final_norm": False,
    },
    "learned, windowed": {"positions": {"type": "learned", "size": 64}, "window": 3},
    "buckets, by turns windowed": {"positions": {"type": "buckets", "bidirectional": True}, "window": [None, 2]},
    "distances, experts": {"positions": {"type": "shaw", "left": 3, "right": 2}, "experts": 3},
}  # fmt: skip
UNBIASED = list(BACKBONES)[:3]
"""Those that every back end can run; the others put a bias on their scores."""

RUNS = [(name, backend) for name in BACKBONES for backend in ("documents", "eager")]


@dataclass
class Maker:
    """Examples of any modality from one source of numbers."""

    generator: torch.Generator

    def words(self, count: int) -> Tokens:
        return Tokens.of("text", torch.randint(0, 11, (count,), generator=self.generator))

    def picture(self, size: int) -> Tokens:
        rows, columns = size, 1 + size % 3
        grid = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
        return Tokens({"patch": Stream.whole(self.rows(len(grid), 5))}, len(grid), grid)

    def sound(self, size: int) -> Tokens:
        frames = 2 * size + 1
        slots = torch.arange(halved(frames))
        return Tokens({"sound": Stream.whole(self.rows(frames, 3), slots)}, len(slots), slots[:, None])

    def episode(self, steps: int) -> Tokens:
        actions = torch.randint(0, 3, (steps,), generator=self.generator)
        rows = {"rl.return": self.rows(steps, 1), "rl.state": self.rows(steps, 4), "rl.action": actions}
        streams = {
            name: Stream.whole(values, torch.arange(at, 3 * steps, 3)) for at, (name, values) in enumerate(rows.items())
        }
        return Tokens(streams, 3 * steps, torch.arange(steps).repeat_interleave(3)[:, None])

    def rows(self, count: int, features: int) -> Tensor:
        return torch.randn(count, features, generator=self.generator)

    def targets(self, name: str, length: int) -> dict[str, Stream]:
        """Arbitrary values to be said at arbitrary slots: what a head reads is free of what stands there."""
        slots = torch.randint(0, length, (3,), generator=self.generator).sort().values
        values = self.rows(3, 5) if name == "patch" else torch.randint(0, 3, (3,), generator=self.generator)
        return {name: Stream.whole(values, slots)}

    def example(self, parts: str, sizes: list[int], prefix: float, key: str) -> Example:
        kinds = {"t": self.words, "p": self.picture, "s": self.sound, "r": self.episode}
        tokens = Tokens.laid_end_to_end([kinds[kind](size) for kind, size in zip(parts, sizes, strict=False)])
        predicted = {"r": "rl.action", "p": "patch"}.get(parts[-1], "text")
        targets = self.targets(predicted, tokens.length)
        return Example(tokens, targets, round(prefix * tokens.length), parts, key)


@st.composite
def batches(draw, most: int = 4) -> list[Example]:
    """A few examples: text, pictures with captions, clips with transcripts, trajectories, and mixtures;
    causal, with a prefix, or bidirectional."""
    maker = Maker(torch.Generator().manual_seed(draw(st.integers(0, 9999))))
    kinds = st.sampled_from(["t", "pt", "st", "r", "p", "s", "tptst", "sps", "rt"])
    return [
        maker.example(
            parts,
            draw(st.lists(st.integers(1, 4), min_size=len(parts), max_size=len(parts))),
            draw(st.sampled_from([0, 0, 0.5, 1])),
            str(number),
        )
        for number, parts in enumerate(draw(st.lists(kinds, min_size=1, max_size=most)))
    ]


@cache
def made(backbone: str) -> Network:
    """Two layers with large random weights: at initialisation a leak between sequences would be too faint."""
    torch.manual_seed(0)
    config = BackboneConfig(**{"dim": DIM, "heads": 2, "depth": 2, "hidden": 16, **BACKBONES[backbone]})
    heads = {"text": HeadConfig(tie=True), "patch": HeadConfig(bias=True), "rl.action": HeadConfig(tie=True)}
    return shaken(Network(SPECS, Architecture(config, heads, scale=True)))


@pytest.fixture(scope="module", params=BACKBONES)
def network(request) -> Network:
    return made(request.param)


@pytest.fixture(autouse=True, scope="module")
def uncompiled_flex():
    """FlexAttention on CPU as plain operations: compiling each shape would take most of these tests' time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flex_attention, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True, raising=False)
        yield


def shaken(network: Network) -> Network:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.35)
    return network.eval()


def hidden_states(network: Network, batch: Batch) -> dict[str, Tensor]:
    """Each sequence's own rows of the hidden states, by its key."""
    pieces = network(batch).split(batch.mask.queries)
    return dict(zip(batch.keys, pieces, strict=False))  # a padding document has no key


def loss(network: Network, batch: Batch) -> Tensor:
    forward, total = ForwardPass(network, batch), torch.zeros(())
    for targets in batch.targets.values():
        for name, target in targets.items():
            said = forward.read(name, target)
            if target.values.is_floating_point():
                total = total + F.mse_loss(said, target.values, reduction="sum")
            else:
                total = total + F.cross_entropy(said, target.values, reduction="sum")
    return total


def gradients(network: Network, batches: list[Batch]) -> dict[str, Tensor]:
    """Gradients of the summed loss of all batches."""
    network.zero_grad()
    for batch in batches:
        loss(network, batch).backward()
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in network.named_parameters()
    }


def assert_close(found: Tensor, wanted: Tensor, scale: float | None = None) -> None:
    """|Δ| <= 1e-5 x scale."""
    scale = max(1.0, float(wanted.abs().max())) if scale is None else scale
    assert float((found - wanted).abs().max()) <= 1e-5 * scale


@pytest.mark.parametrize(("name", "backend"), RUNS)
@settings(max_examples=12, deadline=None)
@given(examples=batches(), data=st.data())
def test_a_sequence_is_the_same_in_any_company(name, backend, examples, data):
    """Outputs alone = packed in any order = packed and padded = padded alone."""
    order, padding = data.draw(st.permutations(examples)), data.draw(st.integers(1, 9))
    with set_backend(backend):
        assert_same_in_any_company(made(name), examples, order, padding)


@pytest.mark.parametrize("name", UNBIASED)
@settings(max_examples=4, deadline=None)
@given(examples=batches(most=3), data=st.data())
def test_a_sequence_is_the_same_in_any_company_for_flex(name, examples, data):
    """The same with FlexAttention, which is slow here: a few examples."""
    order, padding = data.draw(st.permutations(examples)), data.draw(st.integers(1, 9))
    with set_backend("flex"):
        assert_same_in_any_company(made(name), examples, order, padding)


@torch.no_grad()
def assert_same_in_any_company(network: Network, examples: list[Example], order: list[Example], padding: int) -> None:
    alone = {e.key: network(pack([e], network.rank)) for e in examples}
    slots = sum(e.tokens.length for e in examples)
    packed = hidden_states(network, pack(order, network.rank))
    padded = hidden_states(network, pack(order, network.rank, pad_to=slots + padding))
    lonely = hidden_states(network, pack(examples[:1], network.rank, pad_to=slots + padding))
    for key, wanted in alone.items():
        assert_close(packed[key], wanted)
        assert_close(padded[key], wanted)
    assert_close(lonely["0"], alone["0"])


@pytest.mark.parametrize(("name", "backend"), RUNS)
@settings(max_examples=6, deadline=None)
@given(examples=batches(), data=st.data())
def test_gradients_are_the_same_in_any_company(name, backend, examples, data):
    """The gradient of a packed batch's loss is the sum of the gradients of its sequences alone."""
    with set_backend(backend):
        assert_same_gradients(made(name), examples, data.draw(st.permutations(examples)))


def assert_same_gradients(network: Network, examples: list[Example], order: list[Example]) -> None:
    alone = gradients(network, [pack([e], network.rank) for e in examples])
    batch = pack(order, network.rank)
    packed = gradients(network, [batch])
    padded = gradients(network, [pack(examples, network.rank, pad_to=batch.tokens + 4)])
    largest = max(1.0, *(float(gradient.abs().max()) for gradient in alone.values()))
    for name, wanted in alone.items():
        assert_close(packed[name], wanted, largest)
        assert_close(padded[name], wanted, largest)


@settings(max_examples=10, deadline=None)
@given(examples=batches(), data=st.data())
def test_a_neighbours_values_do_not_matter(network, examples, data):
    """Other values in one sequence, of whatever stream, change that sequence and no other."""
    changed = data.draw(st.sampled_from(examples))
    other = replace(changed, tokens=replace(changed.tokens, streams=altered(changed.tokens.streams)))
    with torch.no_grad():
        before = hidden_states(network, pack(examples, network.rank))
        after = hidden_states(network, pack([other if e is changed else e for e in examples], network.rank))
    for key, wanted in before.items():
        if key == changed.key:
            assert not torch.allclose(after[key], wanted, atol=1e-3)
        else:
            assert torch.allclose(after[key], wanted, atol=1e-6)


def altered(streams: dict[str, Stream]) -> dict[str, Stream]:
    def other(values: Tensor) -> Tensor:
        return 1 - values if values.is_floating_point() else (values + 1) % 3

    return {name: replace(stream, values=other(stream.values)) for name, stream in streams.items()}


@pytest.mark.parametrize(("name", "backend"), RUNS)
@settings(max_examples=10, deadline=None)
@given(length=st.integers(2, 8), data=st.data())
def test_the_past_does_not_see_the_future(name, backend, length, data):
    """A changed word changes its own slot and what may see it: later slots, and the prefix if it is in it."""
    prefix = data.draw(st.integers(0, length))
    place = data.draw(st.integers(0, length - 1))
    words = torch.arange(length) % 11
    changed = words.clone()
    changed[place] = 10
    network = made(name)
    with torch.no_grad(), set_backend(backend):
        old, new = (
            network(pack([Example(Tokens.of("text", values), {}, prefix)], network.rank)) for values in (words, changed)
        )
    before = slice(0, place) if place >= prefix else slice(0, 0)
    assert torch.allclose(old[before], new[before], atol=1e-6)
    assert not torch.allclose(old[place], new[place], atol=1e-3)
    if place < prefix:  # bidirectional: the first slot sees the whole prefix, or as far as the narrowest window
        windows = [network.backbone.config.window_of(layer) or length for layer in range(2)]
        first = max(0, place - min(windows) + 1)
        assert not torch.allclose(old[first], new[first], atol=1e-4)


def test_packing_lays_out_what_it_says():
    """Lengths, slots, positions, targets and counts of a hand-written batch."""
    picture = Tokens({"patch": Stream.whole(torch.zeros(2, 5))}, 2, torch.tensor([[0, 0], [0, 1]]))
    says = {"text": Stream.whole(torch.tensor([7]), torch.tensor([1]))}
    first = Example(Tokens.of("text", torch.tensor([1, 2, 3])), says, task="copy", key="a")
    caption = Tokens.laid_end_to_end([picture, Tokens.of("text", torch.tensor([4]))])
    second = Example(caption, says, prefix=2, task="caption", key="b")
    batch = pack([first, second, replace(first, key="c")])
    assert (len(batch), batch.tokens, batch.starts) == (3, 9, [0, 3, 6])
    assert batch.mask == Mask.prefixed((3, 3, 3), (0, 2, 0))
    assert batch.positions.tolist() == [
        [0, 0], [1, 1], [2, 2], [0, 0], [0, 1], [2, 2], [0, 0], [1, 1], [2, 2],
    ]  # fmt: skip
    assert batch.streams["text"].values.tolist() == [1, 2, 3, 4, 1, 2, 3]
    assert batch.streams["text"].slots.tolist() == [0, 1, 2, 5, 6, 7, 8]
    assert batch.streams["patch"].slots.tolist() == [3, 4]
    assert batch.targets["copy"]["text"].slots.tolist() == [1, 7]
    assert batch.targets["caption"]["text"].slots.tolist() == [4]
    counts = {task: (counted(of), of[SLOTS]) for task, of in batch.counts.items()}
    assert counts == {"copy": (2.0, 6.0), "caption": (1.0, 3.0)}
    assert (batch.tasks, batch.keys) == (("copy", "caption", "copy"), ("a", "b", "c"))
    assert first.targets["text"].slots.tolist() == [1]  # examples are cached: packing must not move theirs


def test_padding_is_one_document_behind_the_others():
    """It has slots and positions but no key, no stream and no target."""
    example = Example(Tokens.of("text", torch.tensor([1, 2])), {}, prefix=2, key="a")
    batch = pack([example], rank=3, pad_to=5)
    assert batch.mask == Mask.bidirectional((2, 3))
    assert batch.positions.shape == (5, 3)
    assert (len(batch), batch.starts, batch.tokens) == (1, [0], 5)
    assert pack([example], pad_to=2).mask == Mask.bidirectional((2,))
    with pytest.raises(ConfigError, match=r"2 slots does not fit pad_to=1"):
        pack([example], pad_to=1)


def test_nothing_cannot_be_packed():
    """An empty list is refused by name."""
    with pytest.raises(ConfigError, match="at least one"):
        pack([])


def test_moving_a_batch_moves_every_tensor():
    """`to` reaches values, slots, items, positions and targets; what is on the host stays there."""
    says = {"text": Stream.whole(torch.tensor([7]), torch.tensor([1]))}
    batch = pack([Example(Tokens.of("text", torch.tensor([1, 2])), says, task="copy", key="a")])
    moved = batch.to("meta")
    tensors = [moved.positions]
    for stream in (moved.streams["text"], moved.targets["copy"]["text"]):
        tensors += [stream.values, stream.slots, stream.items]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert (moved.mask, moved.keys, moved.counts) == (batch.mask, batch.keys, batch.counts)
    assert batch.positions.device.type == "cpu"
