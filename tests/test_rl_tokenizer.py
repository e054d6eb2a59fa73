"""The trajectory tokenizer: interleaved triples, alike recorded and acting, bad episodes named."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anyformer.errors import SampleError, TokenizerError
from anyformer.registry import tokenizers
from anyformer.testing import check_tokenizer
from anyformer.tokens import Tokens, spec_table
from anyformer_tokenizers.rl import Episode, TrajectoryTokenizer

DISCRETE = {"type": "discrete", "n": 5, "start": -2}
BOX = {"type": "box", "shape": [2, 3]}
BOUNDED = {"type": "box", "low": [-2.0, None, 0.5], "high": 7}
SETTINGS = [
    {"observation_space": observation, "action_space": action}
    for observation in (DISCRETE, BOX)
    for action in (DISCRETE, BOUNDED)
]
seeds = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def fitted(settings, return_scale: float = 10.0) -> TrajectoryTokenizer:
    rl = TrajectoryTokenizer(**settings, return_scale=return_scale)
    rl.fit([rl.example(np.random.default_rng(seed)) for seed in range(5)])
    return rl


RL = fitted({}, return_scale=100.0)
any_tokenizer = st.sampled_from([fitted(settings) for settings in SETTINGS])


def episode(steps: int = 3, **changes) -> Episode:
    whole = Episode(np.zeros((steps, 4), np.float32), np.zeros(steps, np.int64), np.ones(steps), terminated=True)
    return replace(whole, **changes)


def same(one: Tokens, other: Tokens) -> bool:
    return (
        one.length == other.length
        and torch.equal(one.positions, other.positions)
        and all(
            torch.equal(stream.values, other.streams[name].values)
            and torch.equal(stream.slots, other.streams[name].slots)
            for name, stream in (one.streams | other.streams).items()
        )
    )


def appended(parts: list[Tokens]) -> Tokens:
    """Parts one behind the other with the positions they bring, as a session appends them."""
    together = Tokens.laid_end_to_end(parts)
    return replace(together, positions=torch.cat([part.positions for part in parts]))


@given(any_tokenizer, seeds, st.integers(0, 1000))
def test_triples_are_interleaved(rl, rng, start):
    """Return, state and action at 0::3, 1::3 and 2::3, sharing the timestep; `length` is 3 a step."""
    raw = replace(rl.example(rng), start=start)
    tokens, steps = rl.encode(raw), len(raw.actions)
    assert rl.length(raw) == tokens.length == 3 * steps
    for part, name in enumerate(("rl.return", "rl.state", "rl.action")):
        assert tokens.streams[name].slots.tolist() == list(range(part, 3 * steps, 3))
        assert tokens.streams[name].items.tolist() == [[steps, steps]]
    assert tokens.positions[:, 0].tolist() == [start + slot // 3 for slot in range(3 * steps)]
    for spec in rl.streams:
        values = tokens.streams[spec.name].values
        assert values.shape == ((steps,) if spec.is_discrete else (steps, spec.width))
        assert values.dtype == (torch.int64 if spec.is_discrete else torch.float32)


@given(any_tokenizer, seeds)
def test_acting_gives_what_recording_gave(rl, rng):
    """observe and act, step by step, build exactly encode(episode): a policy sees what it was trained on."""
    raw = rl.example(rng)
    returns = raw.returns_to_go()
    parts = []
    for step in range(len(raw.actions)):
        parts.append(rl.observe(returns[step], raw.observations[step], step))
        parts.append(rl.act(raw.actions[step], step))
        assert [part.length for part in parts[-2:]] == [2, 1]
    assert same(appended(parts), rl.encode(raw))


@given(any_tokenizer, seeds, st.integers(0, 50), st.data())
def test_a_segment_is_a_part_of_its_episode(rl, rng, start, data):
    """Cut out with `start` and `return_after`, a segment has the values and positions of the whole."""
    raw = replace(rl.example(rng), start=start)
    begin = data.draw(st.integers(0, len(raw.actions) - 1))
    end = data.draw(st.integers(begin + 1, len(raw.actions)))
    segment = Episode(
        raw.observations[begin:end],
        raw.actions[begin:end],
        raw.rewards[begin:end],
        start=start + begin,
        return_after=float(np.sum(raw.rewards[end:], dtype=np.float64)),
    )
    whole, part = rl.encode(raw), rl.encode(segment)
    assert torch.equal(part.positions, whole.positions[3 * begin : 3 * end])
    for name, stream in part.streams.items():
        assert torch.allclose(stream.values, whole.streams[name].values[begin:end], atol=1e-6)


@given(any_tokenizer, seeds)
def test_decoding(rl, rng):
    """Actions come back exactly, observations and rewards up to rounding; encoding again changes nothing."""
    raw = replace(rl.example(rng), start=7)
    decoded, steps = rl.decode(rl.encode(raw)), len(raw.actions)
    assert np.array_equal(decoded.actions, raw.actions) and decoded.start == 7
    assert decoded.observations.shape == raw.observations[:steps].shape
    assert np.allclose(decoded.observations, raw.observations[:steps], atol=1e-5)
    assert np.allclose(decoded.rewards, raw.rewards, atol=1e-4)
    again = rl.encode(decoded)
    for name, stream in rl.encode(raw).streams.items():
        assert torch.allclose(stream.values, again.streams[name].values, atol=1e-5)


@given(any_tokenizer, seeds)
def test_a_sampled_value_becomes_an_action(rl, rng):
    """One value of the action stream, as a session samples it, is the action it encodes."""
    raw = rl.example(rng)
    for wanted, value in zip(raw.actions, rl.encode(raw).streams["rl.action"].values, strict=True):
        action = rl.action(value)
        assert np.array_equal(action, wanted)
        assert isinstance(action, int) or action.dtype == np.float32


def test_a_regressed_action_is_clipped_to_its_bounds():
    """A head knows no bounds; the environment does."""
    rl = TrajectoryTokenizer(action_space=BOUNDED)
    assert rl.action(torch.tensor([-9.0, -9.0, 9.0])).tolist() == [-2.0, -9.0, 7.0]
    for values in (torch.tensor([1.0, torch.nan, 1.0]), torch.ones(2), torch.ones(2, 3)):
        with pytest.raises(TokenizerError):
            rl.action(values)
    for values in (torch.tensor(2), torch.tensor([-1]), torch.tensor([0, 1]), torch.tensor([0.5])):
        with pytest.raises(TokenizerError):
            RL.action(values)


def test_returns_are_undiscounted_and_scaled():
    """Rewards 1, 2, 3 and 4 afterwards: returns-to-go 10, 9, 7 over the scale."""
    rl = fitted({}, return_scale=2.0)
    tokens = rl.encode(episode(rewards=[1, 2, 3], return_after=4.0))
    assert tokens.streams["rl.return"].values.tolist() == [[5.0], [4.5], [3.5]]
    assert rl.observe(10, np.zeros(4), 0).streams["rl.return"].values.tolist() == [[5.0]]


NAN, HUGE = np.array([1, np.nan, 1]), np.array([1, 1, 1e308])
BAD = {
    "not an episode": ([1, 2, 3], "list; expected anyformer.episode.Episode"),
    "empty": (episode(0), "no steps"),
    "NaN reward": (episode(rewards=NAN), "reward at step 1 is nan"),
    "infinite reward": (episode(rewards=[0, 0, -np.inf]), "reward at step 2"),
    "overflowing rewards": (episode(rewards=HUGE), "return-to-go at step 0"),
    "infinite sum": (episode(rewards=[1e308] * 3), "return-to-go at step 0"),
    "missing reward": (episode(rewards=np.ones(2)), r"rewards \[2\].*expected \[3\]"),
    "rewards in a column": (episode(rewards=np.ones((3, 1))), r"rewards \[3, 1\]"),
    "missing observation": (episode(observations=np.zeros((2, 4))), r"observations \[2, 4\]"),
    "too many observations": (episode(observations=np.zeros((5, 4))), r"observations \[5, 4\]"),
    "observation of another shape": (episode(observations=np.zeros((3, 5))), r"shape \[5\]; expected \[4\]"),
    "ragged observations": (episode(observations=[[0], [0, 0], [0]]), "not one array"),
    "observations of text": (episode(observations=np.full((3, 4), "0")), "expected numbers"),
    "NaN observation": (episode(observations=np.diag([1, np.nan, 1, 1])), "at step 1 is nan in place 1"),
    "huge observation": (episode(observations=np.full((3, 4), 1e300)), "observation at step 0 is inf"),
    "action outside": (episode(actions=[0, 2, 0]), "action at step 1 is 2; expected .* 0 to 1"),
    "action below": (episode(actions=[0, 0, -1], start=40), "action at step 42 is -1"),
    "fractional action": (episode(actions=[0.5, 0, 0]), "action at step 0 is 0.5"),
    "NaN action": (episode(actions=[0, np.nan, 0]), "action at step 1 is nan"),
    "two actions a step": (episode(actions=np.zeros((3, 2))), r"action has shape \[2\]"),
    "no actions": (episode(actions=None), "expected numbers"),
    "one action for all": (episode(actions=np.int64(1)), "no steps"),
    "start before 0": (episode(start=-1), "timestep -1"),
    "start fractional": (episode(start=0.5), "timestep 0.5"),
    "return after is None": (episode(return_after=None), "return_after=None"),
    "terminated is an array": (episode(terminated=np.zeros(3)), "expected booleans"),
    "return after is NaN": (episode(return_after=float("nan")), "return_after=nan"),
}  # fmt: skip


@pytest.mark.parametrize("raw, says", BAD.values(), ids=BAD)
def test_a_bad_episode_is_one_typed_error(raw, says):
    """Each names the step and what was expected there; none becomes NaN or a shorter episode."""
    with pytest.raises(SampleError, match=says):
        RL.encode(raw)


def test_a_box_action_outside_its_bounds_is_named():
    """Bounds are inclusive, and may be missing on one side."""
    rl = fitted({"action_space": BOUNDED})
    inside = np.array([[-2, -1e6, 0.5], [7, 7, 7]], np.float32)
    assert rl.encode(episode(2, actions=inside)).streams["rl.action"].values.tolist() == inside.tolist()
    with pytest.raises(SampleError, match=r"action at step 1 is 0\.25 in place 2; .* from 0\.5 to 7"):
        rl.encode(episode(2, actions=np.array([[0, 0, 1], [0, 0, 0.25]])))
    with pytest.raises(SampleError, match="action at step 3 is 8 in place 0"):
        rl.act([8, 0, 1], 3)


def test_acting_is_checked_like_recording():
    """observe and act refuse what encode refuses, naming the timestep."""
    with pytest.raises(SampleError, match="step 5 is nan"):
        RL.observe(1.0, [0, 0, np.nan, 0], 5)
    with pytest.raises(SampleError, match="return-to-go at step 5"):
        RL.observe(float("inf"), np.zeros(4), 5)
    for wanted in (None, [1.0, 2.0], "high"):
        with pytest.raises(SampleError, match="return-to-go"):
            RL.observe(wanted, np.zeros(4), 5)
    with pytest.raises(SampleError, match="action at step 5 is 3"):
        RL.act(3, 5)
    with pytest.raises(SampleError, match="timestep -1"):
        RL.act(0, -1)


@pytest.mark.parametrize(
    "raw",
    [
        episode(1),
        episode(terminated=False),
        episode(truncated=True),
        episode(rewards=[1e38, -1e38, 0]),
        episode(observations=torch.zeros(4, 4, dtype=torch.float64), actions=[True, False, True]),
        episode(observations=np.zeros((3, 4), np.uint8), actions=torch.tensor([[0], [1], [0]])),
        episode(observations=[[0] * 4] * 3, actions=[0.0, 1.0, 0.0], rewards=[1, 1, 1]),
    ],
)
def test_unusual_episodes_that_are_documented(raw):
    """One step, no ending, huge but finite rewards, and numbers of any kind, encode to finite values."""
    tokens = RL.encode(raw)
    assert tokens.length == 3 * len(raw.actions)
    assert all(stream.values.isfinite().all() for stream in tokens.streams.values())


@pytest.mark.parametrize(
    "tokens",
    [
        Tokens.of("rl.action", torch.zeros(2, dtype=torch.int64)),
        RL.observe(1.0, np.zeros(4), 0),
        replace(RL.encode(episode(2)), streams=RL.encode(episode(2)).streams | RL.act(0, 0).streams),
    ],
)
def test_incomplete_triples_cannot_be_decoded(tokens):
    """An action without its state, or fewer actions than states."""
    with pytest.raises(TokenizerError, match=r"rl\.action"):
        RL.decode(tokens)


# What is learned, and what travels.


def test_fit_standardises_observations_and_travels():
    """Fitted states have mean 0 and deviation 1, a constant one is only centred; the state restores it."""
    rng = np.random.default_rng(0)
    scale = np.array([1e-3, 1, 1000, 0], np.float32)
    episodes = [episode(50, observations=rng.normal(size=(50, 4)) * scale + 7) for _ in range(4)]
    rl = TrajectoryTokenizer()
    assert not rl.fitted and rl.state() == {}
    before = rl.fingerprint()
    rl.fit(iter(episodes))
    assert rl.fitted and rl.fingerprint() != before
    states = torch.cat([rl.encode(raw).streams["rl.state"].values for raw in episodes])
    assert states.mean(0).abs().max() < 1e-3
    assert (states.std(0, correction=0) - torch.tensor([1.0, 1.0, 1.0, 0.0])).abs().max() < 1e-2
    other = TrajectoryTokenizer()
    other.restore(rl.state())
    assert other.fingerprint() == rl.fingerprint() and same(other.encode(episodes[0]), rl.encode(episodes[0]))


def test_discrete_observations_have_nothing_to_learn():
    """Such a tokenizer is fitted from the start, and `fit` leaves it alone."""
    rl = TrajectoryTokenizer(observation_space=DISCRETE)
    assert rl.fitted
    rl.fit([rl.example(np.random.default_rng(0))])
    assert rl.state() == {}


@pytest.mark.parametrize("content", [b"", b"{", b'{"mean": [0, 0, 0], "deviation": [1, 1, 1]}'])
def test_unreadable_state_is_refused(content):
    """Missing, malformed, or of other observations."""
    for state in ({"statistics.json": content}, {"other": content}):
        with pytest.raises(TokenizerError, match="statistics"):
            TrajectoryTokenizer().restore(state)


def test_it_must_be_fitted():
    """Before `fit` no state is encoded or decoded; lengths, streams and actions need no statistics."""
    rl, raw = TrajectoryTokenizer(), episode()
    tokens = RL.encode(raw)
    for door in (lambda: rl.encode(raw), lambda: rl.observe(1, np.zeros(4), 0), lambda: rl.decode(tokens)):
        with pytest.raises(TokenizerError, match="not fitted; call fit"):
            door()
    assert rl.length(episode()) == 9 and rl.streams == RL.streams and same(rl.act(1, 0), RL.act(1, 0))
    with pytest.raises(TokenizerError, match="at least one"):
        rl.fit([])


@given(any_tokenizer, seeds)
def test_it_travels_into_workers(rl, rng):
    """It pickles, encodes alike there, and equal tokenizers have equal specs."""
    raw, again = rl.example(rng), pickle.loads(pickle.dumps(rl))
    assert same(again.encode(raw), rl.encode(raw))
    spec_table([*rl.streams, *again.streams])


def test_it_is_made_by_name():
    """Without settings it has CartPole's spaces, and any name prefixes its streams."""
    assert tokenizers.create("rl") == RL
    assert [spec.name for spec in tokenizers.create("rl", {"name": "pole"}).streams] == [
        "pole.return",
        "pole.state",
        "pole.action",
    ]
    env = TrajectoryTokenizer.for_env("CartPole-v1")
    assert [spec.width for spec in env.streams] == [spec.width for spec in RL.streams] == [1, 4, 2]


@pytest.mark.parametrize("settings", [{}, *SETTINGS], ids=str)
def test_the_contract_holds_for_every_kind_of_space(settings):
    """Box and Discrete, observed and done."""
    check_tokenizer(TrajectoryTokenizer(**settings))


def test_render_is_a_line_and_a_picture():
    """How long, what return, how it ended; and a PNG."""
    shown = RL.render(episode(3, start=2))
    assert shown["text/plain"] == "3 steps from 2, return 3, terminated"
    assert shown["image/png"].startswith(b"\x89PNG")
