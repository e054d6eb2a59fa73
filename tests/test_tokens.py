"""The currency: streams keep their values, slots move as wholes, positions follow the written rule."""

import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from anyformer.errors import ConfigError
from anyformer.tokens import Stream, StreamSpec, Tokens, spec_table, with_rank


def picture(rows: int, columns: int) -> Tokens:
    """A grid of patches: one slot each, positions (row, column)."""
    grid = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
    return Tokens({"patch": Stream.whole(torch.randn(rows * columns, 2))}, rows * columns, grid)


def test_a_caption_starts_past_the_pictures_far_corner():
    """The position rule of `laid_end_to_end`, on a case worked out by hand (a 2x3 picture ends at 2)."""
    caption = Tokens.of("text", torch.tensor([7, 8]))
    together = Tokens.laid_end_to_end([picture(2, 3), caption, caption])
    assert together.length == 10
    assert together.positions.tolist() == [
        [0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2],
        [3, 3], [4, 4],
        [5, 5], [6, 6],
    ]  # fmt: skip
    assert together.streams["text"].values.tolist() == [7, 8, 7, 8]
    assert together.streams["text"].slots.tolist() == [6, 7, 8, 9]
    assert together.streams["text"].items.tolist() == [[2, 2], [2, 2]]
    assert together.streams["patch"].slots.tolist() == [0, 1, 2, 3, 4, 5]


def test_a_part_that_starts_late_keeps_its_own_gaps():
    """Positions inside a part are moved, never renumbered: the three slots of a step go on sharing one."""
    step = Tokens({"rl": Stream.whole(torch.randn(3, 1))}, 3, torch.tensor([[4], [4], [5]]))
    together = Tokens.laid_end_to_end([step, step])
    assert together.positions[:, 0].tolist() == [4, 4, 5, 10, 10, 11]


def test_an_empty_part_takes_no_slot_and_no_position():
    """A sample with an empty caption is the sample without it."""
    empty, word = Tokens.of("text", torch.zeros(0, dtype=torch.int64)), Tokens.of("text", torch.tensor([3]))
    together = Tokens.laid_end_to_end([word, empty, word])
    assert together.length == 2
    assert together.positions.tolist() == [[0], [1]]
    assert together.streams["text"].items.tolist() == [[1, 1], [0, 0], [1, 1]]
    nothing = Tokens.laid_end_to_end([])
    assert (nothing.length, nothing.streams, nothing.positions.shape) == (0, {}, (0, 1))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=6), st.data())
def test_laying_end_to_end_is_associative(lengths, data):
    """Parts laid at once or in two goes give the same sequence, so fields may be grouped freely."""
    parts = [
        picture(length, 2) if data.draw(st.booleans()) else Tokens.of("text", torch.arange(length))
        for length in lengths
    ]
    cut = data.draw(st.integers(0, len(parts)))
    at_once = Tokens.laid_end_to_end(parts)
    halves = [half for half in (parts[:cut], parts[cut:]) if half]
    in_two = Tokens.laid_end_to_end([Tokens.laid_end_to_end(half) for half in halves])
    assert at_once.length == in_two.length == sum(part.length for part in parts)
    assert torch.equal(with_rank(at_once.positions, 2), with_rank(in_two.positions, 2))
    assert at_once.streams.keys() == in_two.streams.keys()
    for name, stream in at_once.streams.items():
        other = in_two.streams[name]
        assert torch.equal(stream.values, other.values)
        assert torch.equal(stream.slots, other.slots)
        assert torch.equal(stream.items, other.items)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=5))
def test_every_slot_is_filled_exactly_once(lengths):
    """Slots of all streams together are 0 … length-1, whatever is laid together."""
    parts = [Tokens.of("text" if at % 2 else "speech", torch.arange(length)) for at, length in enumerate(lengths)]
    together = Tokens.laid_end_to_end(parts)
    slots = torch.cat([stream.slots for stream in together.streams.values()])
    assert sorted(slots.tolist()) == list(range(together.length))


def test_laying_end_to_end_leaves_its_parts_alone():
    """Tokens are cached and shared: joining must not write into what it was given."""
    part = Tokens.of("text", torch.tensor([1, 2]))
    Tokens.laid_end_to_end([part, part])
    assert part.streams["text"].slots.tolist() == [0, 1]
    assert part.positions.tolist() == [[0], [1]]


def test_positions_are_repeated_on_further_axes_or_refused():
    """Rank 1 becomes any rank; rank 2 never silently becomes 3."""
    assert with_rank(torch.tensor([[5], [6]]), 3).tolist() == [[5, 5, 5], [6, 6, 6]]
    two = torch.tensor([[1, 2]])
    assert with_rank(two, 2) is two
    with pytest.raises(ConfigError, match=r"2 axes; expected 1 or 3.*rank=2"):
        with_rank(two, 3)
    with pytest.raises(ConfigError):
        Tokens.laid_end_to_end([picture(1, 1), Tokens({}, 1, torch.zeros(1, 3, dtype=torch.int64))])


def test_a_stream_moves_and_maps_as_a_whole():
    """`shifted` touches slots only, `map` every tensor."""
    stream = Stream.whole(torch.tensor([4, 5]), torch.tensor([1, 3]))
    assert stream.items.tolist() == [[2, 2]]
    moved = stream.shifted(10)
    assert (moved.values.tolist(), moved.slots.tolist()) == ([4, 5], [11, 13])
    doubled = stream.map(lambda tensor: tensor * 2)
    assert (doubled.values.tolist(), doubled.slots.tolist(), doubled.items.tolist()) == (
        [8, 10], [2, 6], [[4, 4]],
    )  # fmt: skip
    shorter = Stream.whole(torch.zeros(5, 2), torch.arange(3))
    assert shorter.items.tolist() == [[5, 3]]


@pytest.mark.parametrize("sizes", [{}, {"vocab_size": 3, "features": 2}, {"vocab_size": 0}, {"features": -1}])
def test_a_spec_is_discrete_or_continuous(sizes):
    """Neither, both, or an empty one is refused by name, with the cure."""
    with pytest.raises(ConfigError, match=r"'odd'.*StreamSpec\.discrete or StreamSpec\.continuous"):
        StreamSpec("odd", **sizes)


def test_a_spec_knows_its_width_and_travels():
    """Specs cross process borders, with their factories."""
    text = StreamSpec.discrete("text", 9, end=0)
    sound = StreamSpec.continuous("sound", 4, rank=2, embedder=nn.Identity)
    assert (text.is_discrete, text.width, text.slots(7)) == (True, 9, 7)
    assert (sound.is_discrete, sound.width, sound.rank) == (False, 4, 2)
    assert pickle.loads(pickle.dumps((text, sound))) == (text, sound)


def test_one_name_means_one_stream():
    """Equal specs are one stream; different ones under one name are refused."""
    text = StreamSpec.discrete("text", 9)
    assert spec_table([text, StreamSpec.discrete("text", 9)]) == {"text": text}
    with pytest.raises(ConfigError, match=r"Two different streams are named 'text'.*another name"):
        spec_table([text, StreamSpec.discrete("text", 10)])
