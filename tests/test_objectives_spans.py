"""T5's objectives (arXiv:1910.10683 tables 3 and 4): what is taken out, what stands there instead, what is said."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sentences import IDS, ORDINARY, SPEC, counting, ids, learned, names, ready, same, tokens

from anyformer.batch import Example, counted, pack
from anyformer.errors import ConfigError, LimitError, SampleError
from anyformer.objectives import Continuation, Denoising, SpanCorruption
from anyformer.tokens import StreamSpec, Tokens

SENTENCE = "Thank you for inviting me to your party last week ."
LONG = StreamSpec.discrete("text", 1000, end=1, special={"pad": 0, **{f"sentinel_{i}": 900 + i for i in range(100)}})
CHOICES = ({"type": "segments", "mean": 3.0}, {"type": "each"}, {"type": "geometric"})


def source_of(example: Example) -> torch.Tensor:
    assert example.source is not None and example.source.prefix == example.source.tokens.length
    return example.source.tokens.streams["text"].values


def target_of(example: Example) -> torch.Tensor:
    """What is said; each value is read from the slot before it, the first from the start."""
    given_, target = example.tokens.streams["text"].values, example.targets["text"]
    assert target.slots.tolist() == list(range(len(given_)))
    assert torch.equal(given_[1:], target.values[:-1]) and example.prefix == 0
    return target.values


def taken_out(*words: str) -> np.ndarray:
    return np.array([word in words for word in SENTENCE.split()])


def test_the_papers_example():
    """Figure 2: `for inviting` and `last` are dropped; each gap is one sentinel, and a last one closes the target."""
    objective = ready(SpanCorruption(start="pad"))
    left, said = objective.divided(np.array(ids(SENTENCE)), taken_out("for", "inviting", "last"))
    assert names(torch.from_numpy(left)) == "Thank you sentinel_0 me to your party sentinel_1 week ."
    assert names(torch.from_numpy(said)) == "sentinel_0 for inviting sentinel_1 last sentinel_2"
    example = objective.example(left, said)
    assert names(target_of(example)) == "sentinel_0 for inviting sentinel_1 last sentinel_2 end"
    assert names(example.tokens.streams["text"].values) == "pad sentinel_0 for inviting sentinel_1 last sentinel_2"
    assert names(source_of(example)) == "Thank you sentinel_0 me to your party sentinel_1 week ."


def test_the_papers_example_of_spans():
    """Table 3's last row: `for inviting me` and `your party last`."""
    left, said = ready(SpanCorruption()).divided(
        np.array(ids(SENTENCE)), taken_out("for", "inviting", "me", "your", "party", "last")
    )
    assert names(torch.from_numpy(left)) == "Thank you sentinel_0 to sentinel_1 week ."
    assert names(torch.from_numpy(said)) == "sentinel_0 for inviting me sentinel_1 your party last sentinel_2"


def test_the_papers_example_of_dropping():
    """Table 3, i.i.d. noise, drop tokens: nothing marks the gaps."""
    objective = ready(SpanCorruption(marked=False))
    left, said = objective.divided(np.array(ids(SENTENCE)), taken_out("for", "inviting", "last"))
    assert names(torch.from_numpy(left)) == "Thank you me to your party week ."
    assert names(torch.from_numpy(said)) == "for inviting last"


def test_the_other_rows_of_table_3():
    """BERT-style and MASS-style keep the length and ask for the whole text; deshuffling keeps the words; prefix
    language modelling cuts once."""
    rng = np.random.default_rng(5)
    text = {"text": tokens(SENTENCE)}
    bert = ready(Denoising(noise=[{"type": "mask", "random": 0.1}])).prepare(text, rng)
    mass = ready(Denoising(noise=[{"type": "mask"}])).prepare(text, rng)
    shuffled = ready(Denoising(noise=[{"type": "shuffle"}])).prepare(text, rng)
    for example in (bert, mass, shuffled):
        assert names(target_of(example)) == f"{SENTENCE} end"
        assert len(source_of(example)) == len(SENTENCE.split())
    changed = [a for a, b in zip(names(source_of(mass)).split(), SENTENCE.split(), strict=True) if a != b]
    assert set(changed) == {"mask"}
    assert sorted(names(source_of(shuffled)).split()) == sorted(SENTENCE.split())
    assert names(source_of(shuffled)) != SENTENCE
    rest = ready(Continuation()).prepare(text, rng)
    assert f"{names(source_of(rest))} {names(target_of(rest))}" == f"{SENTENCE} end"


def test_t5_figures():
    """§3.1.4 and §3.3.4: 15 % are taken out, in spans of 3 in the mean; of 512 values 77 in 26 spans."""
    objective = SpanCorruption(start="pad").ready({"text": [LONG]})
    rng, sample = np.random.default_rng(0), tokens(np.random.default_rng(1).integers(2, 900, 512).tolist())
    taken, spans, length = [], [], set()
    for _ in range(200):
        example = objective.prepare({"text": sample}, rng)
        source, target = source_of(example), target_of(example)
        spans.append(int((source >= 900).sum()))
        taken.append(512 + spans[-1] - len(source))
        length.add(len(target) - taken[-1] - spans[-1])
    assert abs(np.mean(taken) / 512 - 0.15) < 0.001
    assert abs(np.mean(taken) / np.mean(spans) - 3) < 0.1
    assert length == {2}  # the closing sentinel and the end


def test_single_values_that_touch_are_one_gap():
    """Table 3, i.i.d. noise, replace spans: of n chosen at rate r about n · (1 - r) gaps are left."""
    objective = SpanCorruption(choice={"type": "each"}, rate=0.3, start="pad").ready({"text": [LONG]})
    rng, sample = np.random.default_rng(0), tokens(np.random.default_rng(1).integers(2, 900, 100).tolist())
    gaps = [int((source_of(objective.prepare({"text": sample}, rng)) >= 900).sum()) for _ in range(400)]
    assert abs(np.mean(gaps) - (30 * 70 / 100 + 30 / 100)) < 0.3


def rebuilt(source: list[int], said: list[int], sentinels: list[int]) -> list[int]:
    """The text again: what stands behind each sentinel of the target, in that sentinel's place."""
    inside: dict[int, list[int]] = {}
    for value in said:
        if value in sentinels:
            inside[value] = found = []
        elif value != IDS["end"]:
            found.append(value)
    return [value for at in source for value in (inside[at] if at in sentinels else [at])]


@pytest.mark.parametrize("choice", CHOICES)
@given(seed=st.integers(0, 2**32), length=st.integers(1, 24), rate=st.floats(0.0, 0.5))
def test_nothing_is_lost(choice, seed, length, rate):
    """Source and target make the text again, sentinels come in their order, and special values stay in the source."""
    rng = np.random.default_rng(seed)
    text = [IDS["class"], *rng.choice(ORDINARY, length).tolist(), IDS["end"]]
    if length > 2:
        text.insert(int(rng.integers(2, length)), IDS["separator"])
    sentinels = [IDS[f"sentinel_{i}"] for i in range(8)]
    try:
        example = ready(SpanCorruption(rate=rate, choice=choice)).prepare({"text": tokens(text)}, rng)
    except LimitError:
        assert choice["type"] != "segments" and length * rate > 7
        return
    source, said = source_of(example).tolist(), target_of(example).tolist()
    assert rebuilt(source, said, sentinels) == text
    used = [value for value in source if value in sentinels]
    assert used == sentinels[: len(used)]
    assert [value for value in said if value in sentinels] == sentinels[: len(used) + 1]
    assert said[-1] == IDS["end"] and used


@given(seed=st.integers(0, 2**32), length=st.integers(2, 24))
def test_a_continuation_is_cut_once(seed, length):
    """At any place between two words, with what its tokenizer put around the text; both sides have a word."""
    rng = np.random.default_rng(seed)
    text = [IDS["start"], *rng.choice(ORDINARY, length).tolist(), IDS["end"]]
    example = ready(Continuation()).prepare({"text": tokens(text)}, rng)
    source, said = source_of(example).tolist(), target_of(example).tolist()
    assert source + said == text
    assert len(source) >= 2 and len(said) >= 2


def test_cuts_are_even():
    """Each of four places a quarter."""
    rng, objective = np.random.default_rng(0), ready(Continuation())
    sample = {"text": tokens("Thank you for inviting me")}
    lengths = [len(source_of(objective.prepare(sample, rng))) for _ in range(4000)]
    assert np.abs(np.bincount(lengths, minlength=5)[1:5] / 4000 - 0.25).max() < 0.03


def test_packs_on_both_axes():
    """Sources beside sources, targets beside targets."""
    objective = ready(SpanCorruption())
    examples = [objective.prepare({"text": tokens(SENTENCE)}, np.random.default_rng(s)) for s in range(3)]
    batch = pack(examples)
    assert batch.source is not None and batch.source.mask.prefix == batch.source.mask.queries
    assert batch.source.mask.queries == tuple(len(source_of(e)) for e in examples)
    assert torch.equal(batch.targets[""]["text"].values, torch.cat([target_of(e) for e in examples]))
    assert counted(batch.counts[""]) == batch.tokens


@pytest.mark.parametrize("objective", [SpanCorruption(), Continuation(), SpanCorruption(marked=False)])
def test_equal_generators_draw_alike(objective):
    one, again, other = (
        ready(objective).prepare({"text": tokens(SENTENCE)}, np.random.default_rng(s)) for s in (1, 1, 2)
    )
    assert same(one, again) and not same(one, other)


def test_a_text_with_sentinels_is_a_prompt():
    """What a person left out is asked for."""
    objective = ready(SpanCorruption(start="pad"))
    example = objective.prepare({"text": tokens("Thank you sentinel_0 week .")}, np.random.default_rng(0))
    assert names(source_of(example)) == "Thank you sentinel_0 week ."
    assert names(example.tokens.streams["text"].values) == "pad" and example.targets == {}


def test_bad_settings_and_texts():
    """One sentence each."""
    with pytest.raises(ConfigError, match=r"rate=2; expected a number from 0 to 1"):
        SpanCorruption(rate=2)
    with pytest.raises(ConfigError, match=r"mean=0.5; expected a length of at least 1"):
        SpanCorruption(choice={"type": "segments", "mean": 0.5})
    plain = StreamSpec.discrete("text", 9, end=1, special={"pad": 0})
    with pytest.raises(ConfigError, match=r"needs two sentinels or more in stream 'text', which has 0"):
        ready(SpanCorruption(start="pad"), spec=plain)
    with pytest.raises(ConfigError, match=r"role 'start'; its roles are: pad, end"):
        ready(Continuation(), spec=plain)
    with pytest.raises(ConfigError, match=r"no discrete stream of its own"):
        ready(Continuation(), spec=StreamSpec.continuous("text", 2))
    rng = np.random.default_rng(0)
    with pytest.raises(LimitError, match=r"has 10 gaps; expected at most 7"):
        one_in_two = SpanCorruption(choice={"type": "segments", "mean": 1}, rate=0.5)
        ready(one_in_two).prepare({"text": tokens(list(ORDINARY)[:20])}, rng)
    with pytest.raises(SampleError, match=r"has no ordinary value"):
        ready(SpanCorruption()).prepare({"text": tokens("class end")}, rng)
    with pytest.raises(SampleError, match=r"needs the field 'text'; the sample has \['other'\]"):
        ready(SpanCorruption()).prepare({"other": tokens("Thank you")}, rng)
    endless = StreamSpec.discrete("text", 9, special={"pad": 0})
    with pytest.raises(SampleError, match=r"is empty, and the stream has no end to say"):
        ready(Continuation(start="pad"), spec=endless).prepare({"text": Tokens.of("text", torch.tensor([3]))}, rng)


def test_one_value_is_continued_by_the_end_of_its_text():
    example = ready(Continuation()).prepare({"text": tokens("Thank end")}, np.random.default_rng(0))
    assert (names(source_of(example)), names(target_of(example))) == ("Thank", "end")


@pytest.mark.parametrize(
    "objective",
    [SpanCorruption(rate=0.3), SpanCorruption(rate=0.3, choice={"type": "each"}), Continuation()],
    ids=["spans", "values", "continuation"],
)
def test_t5_learns_it(objective):
    """A few steps on rising runs, on drawings that it has not seen."""
    rng = np.random.default_rng(0)
    samples = [{"text": tokens([*counting(rng), IDS["end"]])} for _ in range(32)]
    before, after = learned("t5-small", ready(objective), samples, [SPEC], ["text"])
    assert before > 3 and after < 0.75 * before
