"""Generation with a cache says what the whole sequence would say without one, and samples as it should."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from anyformer.architecture import Architecture, BackboneConfig, HeadConfig
from anyformer.backbone import Backbone
from anyformer.batch import Example, pack
from anyformer.errors import ConfigError, SampleError
from anyformer.mask import Mask
from anyformer.model import GREEDY, Model, Network, Sampling, Session
from anyformer.model.sampling import Dice
from anyformer.sublayers import set_backend
from anyformer.tokens import Stream, StreamSpec, Tokens

SPECS = [
    StreamSpec.discrete("text", 9, end=0),
    StreamSpec.continuous("patch", 4, rank=2),
    StreamSpec.discrete("rl.action", 3),
]
BACKBONES = {
    "rotary, grouped": {"kv_heads": 1, "norm": "rms"},
    "learned, windowed": {"positions": {"type": "learned", "size": 128}, "window": 4},
}


class Speaker(Model):
    """A model whose streams are given directly, without tokenizers."""

    def __init__(self, **backbone) -> None:
        config = BackboneConfig(**{"dim": 16, "heads": 4, "depth": 2, "hidden": 16, **backbone})
        heads = {"text": HeadConfig(), "patch": HeadConfig(bias=True), "rl.action": HeadConfig()}
        Network.__init__(self, SPECS, Architecture(config, heads))
        self.tokenizers = {}


@pytest.fixture(scope="module", params=BACKBONES)
def model(request) -> Model:
    """Large random weights: every logit depends on every token it may see."""
    torch.manual_seed(0)
    made = Speaker(**BACKBONES[request.param]).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() > 1:  # with large biases every prompt would get one answer
                parameter.normal_(std=0.5)
    return made


def words(*values: int) -> Tokens:
    return Tokens.of("text", torch.tensor(values, dtype=torch.int64))


def picture(rows: int, seed: int = 0) -> Tokens:
    grid = torch.cartesian_prod(torch.arange(rows), torch.arange(2))
    values = torch.randn(len(grid), 4, generator=torch.Generator().manual_seed(seed))
    return Tokens({"patch": Stream.whole(values)}, len(grid), grid)


def cut(tokens: Tokens, start: int, end: int) -> Tokens | None:
    """Slots start … end-1 of a sequence whose streams have one value a slot; None if there are none."""
    if start == end:
        return None
    streams = {}
    for name, stream in tokens.streams.items():
        kept = (stream.slots >= start) & (stream.slots < end)
        if bool(kept.any()):
            streams[name] = Stream.whole(stream.values[kept], stream.slots[kept] - start)
    return Tokens(streams, end - start, tokens.positions[start:end])


@torch.no_grad()
def last_hidden(model: Network, tokens: Tokens, prefix: int = 0) -> Tensor:
    """The last slot's hidden state in one forward pass without a cache."""
    return model(pack([Example(tokens, {}, prefix)], model.rank))[-1]


@st.composite
def conversations(draw) -> tuple[list[Tokens], list[list[int]]]:
    """Sequences of unequal lengths and modalities, each cut into as many chunks, empty ones too."""
    made, rounds = [], draw(st.integers(1, 4))
    for seed in range(draw(st.integers(1, 3))):
        parts = [words(*draw(st.lists(st.integers(0, 8), min_size=1, max_size=8)))]
        if draw(st.booleans()):
            parts.insert(0, picture(draw(st.integers(1, 3)), seed))
        made.append(Tokens.laid_end_to_end(parts))
    edges = [[0, *sorted(draw(st.integers(0, one.length)) for _ in range(rounds - 1)), one.length] for one in made]
    return made, edges


@pytest.mark.parametrize("backend", ["documents", "eager"])
@settings(max_examples=12, deadline=None)
@given(conversation=conversations())
def test_a_session_in_chunks_is_one_forward_pass(model, backend, conversation):
    """After every chunk each sequence stands where an uncached pass over its tokens so far would; a sequence
    whose chunk is None stays where it was."""
    sequences, edges = conversation
    session = model.session(len(sequences))
    with set_backend(backend):
        for at in range(len(edges[0]) - 1):
            session.append([cut(one, ends[at], ends[at + 1]) for one, ends in zip(sequences, edges, strict=True)])
            reached = [ends[at + 1] for ends in edges]
            assert session.lengths == reached
            for number, (one, length) in enumerate(zip(sequences, reached, strict=True)):
                if length:
                    wanted = last_hidden(model, cut(one, 0, length))
                    assert torch.allclose(session.last[number], wanted, atol=1e-4)


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_a_context_in_both_directions_is_appended_whole(model, data):
    """A prefix, then causal tokens one by one, equals the uncached pass with that prefix."""
    sequences, prefixes = [], []
    for seed in range(data.draw(st.integers(1, 3))):
        context = picture(data.draw(st.integers(1, 3)), seed)
        sequences.append(Tokens.laid_end_to_end([context, words(3, 1, 4, 1)]))
        prefixes.append(data.draw(st.sampled_from([0, context.length])))
    contexts = [one.length - 4 for one in sequences]
    session = model.session(len(sequences))
    session.append([cut(s, 0, n) for s, n in zip(sequences, contexts, strict=True)], prefixes)
    for step in range(5):
        for number, (one, length, prefix) in enumerate(zip(sequences, contexts, prefixes, strict=True)):
            wanted = last_hidden(model, cut(one, 0, length + step), prefix)
            assert torch.allclose(session.last[number], wanted, atol=1e-4)
        if step < 4:
            session.append([cut(s, n + step, n + step + 1) for s, n in zip(sequences, contexts, strict=True)])


def test_a_context_in_pieces_is_refused(model):
    """What is in the cache cannot look at what comes later, so a prefix that reaches into it is an error."""
    session = model.session(2)
    with pytest.raises(ConfigError, match="Sequence 1 has 0 slots and gets 2, with a prefix of 3"):
        session.append([words(1, 2, 3), words(1, 2)], [3, 3])
    session.append([words(1, 2, 3), words(1, 2)], [3, 0])
    session.append([words(4), words(3)], [3, 0])  # the context is behind us: nothing to look back at
    with pytest.raises(ConfigError, match="appended whole"):
        session.append([None, words(4)], [3, 4])
    with pytest.raises(ConfigError, match="appended whole"):
        session.append([None, words(4, 5, 6, 7)], [3, 4])


def test_the_cache_grows_and_keeps_what_it_has(model):
    """Past its capacity, for one long sequence beside a short one."""
    session, capacity = model.session(2), 64
    session.cache = model.backbone.new_cache(2, capacity)
    long, short = words(*(n % 9 for n in range(capacity + 9))), words(1, 2)
    session.append([cut(long, 0, capacity - 1), short])
    assert session.cache.capacity == capacity
    session.append([cut(long, capacity - 1, capacity + 9), None])
    assert session.cache.capacity > capacity
    assert session.lengths == [capacity + 9, 2]
    assert torch.allclose(session.last[0], last_hidden(model, long), atol=1e-4)
    session.append([None, words(5)])
    together = Tokens({"text": Stream.whole(torch.tensor([1, 2, 5]))}, 3, torch.tensor([[0], [1], [0]]))
    assert torch.allclose(session.last[1], last_hidden(model, together), atol=1e-4)


def test_nobody_speaking_changes_nothing(model):
    """An append of None to everybody, on an empty session and on one under way."""
    session = model.session(2)
    session.append([None, None])
    assert session.lengths == [0, 0]
    session.append([words(1), words(2, 3)])
    before = session.last.clone()
    session.append([None, None])
    assert session.lengths == [1, 2]
    assert torch.equal(session.last, before)
    with pytest.raises(ConfigError, match="2 sequences but got tokens for 1"):
        session.append([words(1)])


def test_a_cache_is_an_argument(model):
    """Sessions side by side on one model do not meet, and the model keeps nothing of them."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    one, two = model.session(1), model.session(1)
    one.append([words(1, 2)])
    two.append([words(7)])
    one.append([words(3)])
    alone = model.session(1)
    alone.append([words(1, 2)])
    alone.append([words(3)])
    assert torch.equal(one.last, alone.last)
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_session_runs_under_autocast(model):
    """In bfloat16 the cache keeps its own precision and the answer stays near."""
    session = model.session(2)
    with torch.autocast("cpu", torch.bfloat16):
        session.append([words(1, 2, 3), words(4)])
        session.append([words(5), words(6)])
    exact = model.session(2)
    exact.append([words(1, 2, 3), words(4)])
    exact.append([words(5), words(6)])
    assert torch.isfinite(session.last).all()
    assert float((session.last - exact.last).norm()) < 0.1 * float(exact.last.norm())


def test_what_cannot_be_cached_says_so():
    """A convolution needs its whole item; a recipe without attention has nothing to keep."""
    conv = BackboneConfig(8, 2, recipe=("attention", "convolution"), kernel=3)
    network = Network(SPECS, Architecture(conv))
    with pytest.raises(ConfigError, match="convolution needs its whole item"):
        Session(network, 1).append([words(1)])
    with pytest.raises(ConfigError, match="no attention"):
        Backbone(BackboneConfig(8, 2, recipe=("feed_forward",))).new_cache(1)


# Generation


@torch.no_grad()
def greedily(model: Model, prompt: Example, max_new: int, end: int | None = 0) -> list[int]:
    """The reference: one uncached pass over everything for each new value."""
    tokens, said = prompt.tokens, []
    while len(said) < max_new and (not said or said[-1] != end):
        logits = model.read("text", last_hidden(model, tokens, prompt.prefix)[None])[0]
        said.append(int(logits.argmax()))
        tokens = Tokens.laid_end_to_end([tokens, words(said[-1])])
    return said


@contextmanager
def ending(model: Model, end: int | None) -> Iterator[None]:
    """The model with another end of text."""
    model.specs["text"] = replace(SPECS[0], end=end)
    try:
        yield
    finally:
        model.specs["text"] = SPECS[0]


@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_greedy_generation_is_argmax_without_a_cache(model, data):
    """Prompts of unequal lengths and modalities together, each as if it were alone."""
    prompts = []
    for seed in range(data.draw(st.integers(1, 3))):
        context = data.draw(st.sampled_from([words(4), words(1, 2, 3), picture(2, seed), picture(1, seed)]))
        prompts.append(Example(context, {}, data.draw(st.sampled_from([0, context.length]))))
    said = model.generate(prompts, "text", 6)
    assert [one.streams["text"].values.tolist() for one in said] == [greedily(model, p, 6) for p in prompts]
    for one in said:
        assert one.length == len(one.streams["text"].values)


def test_the_end_closes_a_run_and_no_other(model):
    """One sequence ends early and keeps silent, its neighbour goes on to the limit."""
    prompts = [Example(words(first, second), {}) for first in range(1, 9) for second in (1, 5)]
    whole = [greedily(model, prompt, 8, end=None) for prompt in prompts]
    early, late, end = next(
        (early, late, end)
        for early, late in permutations(range(len(prompts)), 2)
        for end in whole[early][1:6]
        if end not in whole[late]
    )
    with ending(model, end):
        said = [
            one.streams["text"].values.tolist() for one in model.generate([prompts[early], prompts[late]], "text", 8)
        ]
    assert said[0] == whole[early][: whole[early].index(end) + 1]
    assert said[1] == whole[late]


def test_generation_at_its_edges(model):
    """No prompt, an empty one, no room, no such stream."""
    assert model.generate([], "text", 3) == []
    with pytest.raises(SampleError, match="prompt is empty; expected at least one token"):
        model.generate([Example(words(1), {}), Example(words(), {})], "text", 3)
    nothing = model.generate([Example(words(1), {})], "text", 0)[0]
    assert (nothing.length, nothing.streams["text"].values.dtype) == (0, torch.int64)
    with pytest.raises(ConfigError, match=r"discrete stream 'patch'.*rl\.action, text"):
        model.generate([Example(words(1), {})], "patch", 3)
    with pytest.raises(ConfigError, match="Did you mean 'text'"):
        model.generate([Example(words(1), {})], "txt", 3)


def test_equal_seeds_draw_equal_values(model):
    """And other seeds draw others, within one batch as well."""
    prompts = [Example(words(1, 2), {})] * 3
    with ending(model, None):
        one, again, other = (
            [said.streams["text"].values.tolist() for said in model.generate(prompts, "text", 12, sampling)]
            for sampling in (
                Sampling(temperature=2.0, seed=1),
                Sampling(temperature=2.0, seed=1),
                Sampling(temperature=2.0, seed=2),
            )
        )
    assert one == again
    assert one != other
    assert len({tuple(said) for said in one}) == 3


def test_a_continuous_stream_is_said_as_it_is(model):
    """A head of features answers with features; nothing is drawn."""
    session = model.session(2)
    session.append([words(1), words(2)])
    said = session.sample("patch")
    assert torch.equal(said, model.read("patch", session.last))
    assert said.shape == (2, 4)


# Sampling


def drawn(sampling: Sampling, logits: list[float], times: int = 4000) -> Tensor:
    """How often each value was chosen, as a fraction."""
    values = sampling.choose(torch.tensor([logits]).expand(times, -1), [[]] * times, Dice(sampling.seed, times))
    return torch.bincount(values, minlength=len(logits)) / times


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-8, 8), min_size=2, max_size=8, unique=True), st.integers(0, 99))
def test_one_choice_is_the_greedy_one(logits, seed):
    """top_k=1, and a top_p below the largest of a few probabilities, are argmax; so is temperature 0."""
    rows, best = torch.tensor([logits] * 5) / 2, [max(range(len(logits)), key=logits.__getitem__)] * 5
    for sampling in (GREEDY, Sampling(top_k=1, seed=seed), Sampling(top_p=0.1, seed=seed)):
        assert sampling.choose(rows, [[]] * 5, Dice(seed, 5)).tolist() == best


@settings(max_examples=40, deadline=None)
@given(
    weights=st.lists(st.integers(1, 50), min_size=2, max_size=6, unique=True),
    top_p=st.floats(0.05, 0.99),
    top_k=st.none() | st.integers(1, 7),
)
def test_only_the_likeliest_values_are_kept(weights, top_p, top_k):
    """top_p keeps the smallest set that holds that much probability, of what top_k left: exactly that set, in
    the proportions it had."""
    order = sorted(range(len(weights)), key=lambda value: -weights[value])[:top_k]
    total = sum(weights[value] for value in order)
    kept, mass = [], 0.0
    for value in order:
        if mass >= top_p - 1e-4 and abs(mass - top_p) > 1e-4:
            break
        if abs(mass - top_p) <= 1e-4:
            return  # on the edge, rounding decides
        kept.append(value)
        mass += weights[value] / total
    share = drawn(Sampling(top_p=top_p, top_k=top_k), torch.tensor(weights).log().tolist())
    for value, weight in enumerate(weights):
        wanted = weight / sum(weights[one] for one in kept) if value in kept else 0.0
        assert abs(float(share[value]) - wanted) < 0.05
        assert value in kept or share[value] == 0


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_temperature_divides_the_logits(temperature):
    """Frequencies follow softmax(logits / temperature)."""
    logits = [0.0, 1.0, 2.5, -1.0]
    wanted = (torch.tensor(logits) / temperature).softmax(0)
    assert torch.allclose(drawn(Sampling(temperature=temperature), logits), wanted, atol=0.03)


@pytest.mark.parametrize(
    "settings_",
    [{"temperature": -0.1}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_p": float("nan")}],
)
def test_a_wrong_sampling_is_named(settings_):
    """Out of range, each with its name and value."""
    (name,) = settings_
    with pytest.raises(ConfigError, match=name):
        Sampling(**settings_)


def test_the_mask_of_a_cache_counts_from_the_start():
    """New queries behind what is there; a prefix is counted from each sequence's first slot."""
    cache = Backbone(BackboneConfig(8, 2)).new_cache(2)
    cache.advance((3, 0))
    assert cache.mask((1, 2)) == Mask((1, 2), (4, 2), (0, 0))
    assert cache.mask((1, 2), (4, 1)) == Mask((1, 2), (4, 2), (4, 1))
