"""What masked prediction hides, how often, what stands there instead, and that a model learns from it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sentences import IDS, ORDINARY, SPEC, counting, learned, ready, same, tokens

from anyformer.batch import Example, pack
from anyformer.errors import ConfigError, SampleError
from anyformer.objectives import Masked
from anyformer.objectives.choosing import Each, Geometric, Segments, cut_to, placed
from anyformer.tokens import Stream, StreamSpec, Tokens

CHOICES = ({"type": "each"}, {"type": "geometric"}, {"type": "segments"})
PATCH = StreamSpec.continuous("patch", 3)
TEXT = tokens([IDS["class"], *list(ORDINARY) * 8, IDS["separator"]])  # 8 · 49 ordinary values


def prepared(objective: Masked, count: int, sample: Tokens = TEXT, seed: int = 0) -> list[Example]:
    """So many examples of one text."""
    rng, known = np.random.default_rng(seed), ready(objective)
    return [known.prepare({"text": sample}, rng) for _ in range(count)]


def restored(example: Example) -> list[int]:
    """The input with what is to be said put in its place."""
    stream, target = example.tokens.streams["text"], example.targets["text"]
    values = stream.values.clone()
    values[target.slots] = target.values
    return values.tolist()


@pytest.mark.parametrize("rate", [0.15, 0.4, 0.8])
@pytest.mark.parametrize("choice", CHOICES)
def test_the_rate_is_kept(rate, choice):
    """15 % of BERT, and up to 80 %: the mean over many drawings, to a thousandth."""
    ordinary = len(TEXT.streams["text"].values) - 2
    chosen = [len(e.targets["text"].values) / ordinary for e in prepared(Masked(rate=rate, choice=choice), 200)]
    assert abs(np.mean(chosen) - rate) < 0.001


def test_short_texts_keep_the_rate_too():
    """Ten words at 15 % are one word or two, by turns."""
    short = tokens(list(ORDINARY)[:10])
    counts = [len(e.targets["text"].values) for e in prepared(Masked(), 2000, short)]
    assert set(counts) == {1, 2}
    assert abs(np.mean(counts) - 1.5) < 0.05


def test_eight_tenths_masks_one_tenth_random_one_tenth_itself():
    """BERT §3.1. What is drawn at random may be the word itself, once in 49 times."""
    masked = other = kept = total = 0
    for example in prepared(Masked(), 300):
        target = example.targets["text"]
        there = example.tokens.streams["text"].values[target.slots]
        masked += int((there == IDS["mask"]).sum())
        kept += int((there == target.values).sum())
        other += int(((there != IDS["mask"]) & (there != target.values)).sum())
        total += len(there)
    assert total > 15_000
    assert abs(masked / total - 0.8) < 0.01
    assert abs(other / total - 0.1 * 48 / 49) < 0.01
    assert abs(kept / total - (0.1 + 0.1 / 49)) < 0.01


def test_the_split_is_a_setting():
    """Masks alone, as at high rates (arXiv:2202.08005 §5)."""
    for example in prepared(Masked(rate=0.4, masked=1.0, random=0.0), 5):
        there = example.tokens.streams["text"].values[example.targets["text"].slots]
        assert set(there.tolist()) == {IDS["mask"]}


@pytest.mark.parametrize("choice", CHOICES)
@given(seed=st.integers(0, 2**32), length=st.integers(1, 40), rate=st.floats(0.05, 0.9))
def test_nothing_is_lost_and_special_values_stay(choice, seed, length, rate):
    """Input and targets make the text again; both sides are seen; slots rise; drawn values have no role."""
    rng = np.random.default_rng(seed)
    words = rng.choice(ORDINARY, length).tolist()
    words.insert(int(rng.integers(length + 1)), IDS["separator"])
    sample = tokens([IDS["class"], *words])
    example = ready(Masked(rate=rate, choice=choice)).prepare({"text": sample}, rng)
    stream, target = example.tokens.streams["text"], example.targets["text"]
    assert restored(example) == sample.streams["text"].values.tolist()
    assert example.prefix == example.tokens.length == length + 2
    assert bool((target.slots.diff() > 0).all())
    assert set(target.values.tolist()) <= set(ORDINARY)
    changed = stream.values[target.slots].tolist()
    assert set(changed) <= {*ORDINARY, IDS["mask"]}


def test_packs():
    """Targets point at their own document's slots."""
    examples = prepared(Masked(), 3)
    batch = pack(examples)
    wanted = torch.cat([TEXT.streams["text"].values] * 3)
    target = batch.targets[""]["text"]
    assert torch.equal(wanted[target.slots], target.values)
    assert batch.mask.prefix == batch.mask.queries


def test_equal_generators_draw_alike():
    """And others otherwise."""
    one, same_, other = (prepared(Masked(), 1, seed=seed)[0] for seed in (3, 3, 4))
    assert same(one, same_) and not same(one, other)


def test_dynamic_draws_anew_and_static_never():
    """RoBERTa against BERT: one fixed drawing, or ten of them, each as likely; another text draws others."""

    def drawings(objective: Masked, sample: Tokens = TEXT) -> set[tuple]:
        examples = prepared(objective, 200, sample)
        return {(*e.targets["text"].slots.tolist(), *e.tokens.streams["text"].values.tolist()) for e in examples}

    assert len(drawings(Masked())) == 200
    assert len(drawings(Masked(static=1))) == 1
    assert len(drawings(Masked(static=10))) == 10
    turned = tokens([*list(ORDINARY)[::-1]])
    slots = lambda found: {drawing[:3] for drawing in found}  # noqa: E731
    assert slots(drawings(Masked(static=1), turned)) != slots(drawings(Masked(static=1), tokens(ORDINARY)))


def test_whole_words_are_hidden_or_stay():
    """Pieces of a word together; each piece still has a fate of its own (BERT's whole-word masking)."""
    sizes = [1, *[1, 2, 3, 1] * 20, 1]
    values = [IDS["class"], *list(ORDINARY) * 4, IDS["separator"]][: sum(sizes) - 1]
    sample = tokens([*values, IDS["separator"]], sizes)
    word = np.repeat(np.arange(len(sizes)), sizes)
    mixed, rates = 0, []
    for example in prepared(Masked(unit="item"), 200, sample):
        target = example.targets["text"]
        chosen = np.zeros(len(word), bool)
        chosen[target.slots.numpy()] = True
        for number in range(len(sizes)):
            assert chosen[word == number].all() or not chosen[word == number].any()
            there = example.tokens.streams["text"].values.numpy()[word == number] == IDS["mask"]
            mixed += bool(there.any() and not there.all())
        rates.append(chosen.sum() / (len(word) - 2))
    assert mixed > 100
    assert abs(np.mean(rates) - 0.15) < 0.01


def test_words_that_nobody_told_apart_are_refused():
    """One item for a whole text would be hidden as a whole."""
    for sample in (TEXT, tokens(list(ORDINARY) * 3)):
        with pytest.raises(SampleError, match=r"does not tell its words apart.*items: words"):
            prepared(Masked(unit="item"), 1, sample)


def test_span_lengths_are_spanberts():
    """Figure 2 of SpanBERT: Geo(0.2) up to 10 words has the mean 3.8."""
    lengths = Geometric().lengths(200_000, np.random.default_rng(0))
    assert (lengths.min(), lengths.max()) == (1, 10)
    assert abs(lengths.mean() - 3.797) < 0.02
    assert abs((lengths == 1).mean() - 0.2 / (1 - 0.8**10)) < 0.005


def test_a_span_shares_one_fate():
    """SpanBERT §3.1: all of a span are masks, or random words, or themselves; random words differ in it."""
    whole, random = 0, 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        sample = tokens(rng.choice(ORDINARY, 60).tolist())
        objective = ready(Masked(choice={"type": "geometric", "p": 0.01, "longest": 9}, rate=0.1))
        example = objective.prepare({"text": sample}, rng)
        target = example.targets["text"]
        if int(target.slots[-1] - target.slots[0]) + 1 != len(target.slots) or len(target.slots) < 5:
            continue
        there = example.tokens.streams["text"].values[target.slots]
        masks = int((there == IDS["mask"]).sum())
        whole += masks == len(there)
        random += masks == 0 and not torch.equal(there, target.values)
        assert masks in (0, len(there)) or _two_spans_touch(seed)
    assert whole > 50 and random > 3


def _two_spans_touch(seed: int) -> bool:
    """Whether the run of this seed is made of two spans that stand side by side."""
    rng = np.random.default_rng(seed)
    rng.choice(ORDINARY, 60)
    return len(Geometric(0.01, 9).spans(60, 0.1, rng)) > 1


@given(st.integers(1, 80), st.floats(0.01, 1.0), st.integers(0, 2**32), st.sampled_from([Each, Geometric, Segments]))
def test_spans_are_apart_and_inside(count, rate, seed, choice):
    """Whatever is asked for: in order, no part twice, none outside, at least one."""
    spans = choice().spans(count, rate, np.random.default_rng(seed))
    ends = [start + length for start, length in spans]
    assert spans and all(length > 0 for _, length in spans)
    assert all(end <= start for end, (start, _) in zip(ends, spans[1:], strict=False))
    assert 0 <= spans[0][0] and ends[-1] <= count


def test_each_arrangement_is_as_likely():
    """One span of two among five parts: four places, each a quarter."""
    rng = np.random.default_rng(0)
    starts = [placed(5, np.array([2]), rng)[0][0] for _ in range(8000)]
    assert np.abs(np.bincount(starts, minlength=4) / 8000 - 0.25).max() < 0.02
    assert cut_to(5, np.array([2, 2, 9, 1])).tolist() == [2, 2, 1]


def test_a_text_with_a_mask_is_a_prompt():
    """What a person masked is asked for, and nothing else is hidden."""
    sample = tokens("class Thank mask for separator")
    example = ready(Masked()).prepare({"text": sample}, np.random.default_rng(0))
    assert example.targets == {} and example.prefix == 5
    assert torch.equal(example.tokens.streams["text"].values, sample.streams["text"].values)


@pytest.mark.parametrize(("noise", "deviation"), [(0.0, 0.0), (0.5, 0.5)])
def test_rows_are_hidden_by_zeros_or_noise(noise, deviation):
    """Patches and frames: the target is the row itself; one in ten is another row of the sequence."""
    rows = torch.arange(100, 1300, dtype=torch.float32).reshape(400, 3)
    sample = Tokens({"patch": Stream.whole(rows)}, 400, torch.arange(400)[:, None])
    objective = Masked(rate=0.5, noise=noise).ready({"image": [PATCH]})
    example = objective.prepare({"image": sample}, np.random.default_rng(0))
    target = example.targets["patch"]
    assert torch.equal(rows[target.slots], target.values)
    there = example.tokens.streams["patch"].values[target.slots]
    hidden = (there.abs() < 5).all(1) & (there != target.values).any(1)
    assert abs(float(hidden.float().mean()) - 0.8) < 0.06
    assert abs(float(there[hidden].std()) - deviation) < 0.03
    known = {tuple(row) for row in rows.tolist()}
    assert all(tuple(row) in known for row in there[~hidden].tolist())


def test_masks_the_stream_it_is_told_to():
    """By default the first field's; a picture beside a text stays whole."""
    specs = {"image": [PATCH], "text": [SPEC]}
    assert Masked().predicts(specs) == ["patch"]
    assert Masked(stream="text").predicts(specs) == ["text"]
    image = Tokens({"patch": Stream.whole(torch.ones(4, 3))}, 4, torch.arange(4)[:, None])
    fields = {"image": image, "text": tokens(list(ORDINARY))}
    example = Masked(stream="text").ready(specs).prepare(fields, np.random.default_rng(0))
    assert list(example.targets) == ["text"] and int(example.targets["text"].slots.min()) >= 4
    assert torch.equal(example.tokens.streams["patch"].values, image.streams["patch"].values)


def test_ready_is_made_once():
    """A worker asks before each sample; equal specs and settings give the same object, changed ones another."""
    objective = Masked()
    first = ready(objective)
    assert ready(objective) is first and ready(objective, "other") is not first
    before = ready(objective)
    objective.rate = 0.3
    assert ready(objective) is not before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate": 1.5}, "rate=1.5; expected a number from 0 to 1"),
        ({"rate": 0}, "rate=0; expected more"),
        ({"masked": 0.8, "random": 0.3}, r"rest=-0\.1; expected a number from 0 to 1"),
        ({"unit": "word"}, "unit 'word'"),
        ({"choice": {"type": "spans"}}, "choice 'spans'"),
        ({"choice": {"type": "geometric", "q": 1}}, "choice 'geometric' cannot be made"),
        ({"choice": {"type": "geometric", "p": 0}}, "p=0, longest=10"),
        ({"choice": "each"}, "'each'; expected a mapping with a type"),
        ({"static": -1}, "static=-1"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        Masked(**settings)


def test_bad_streams():
    """A vocabulary without a mask, a stream nobody has, a sample without it, an objective that was not made ready."""
    with pytest.raises(ConfigError, match="no value of the role 'mask'; its roles are: end"):
        ready(Masked(), spec=StreamSpec.discrete("text", 9, end=1))
    with pytest.raises(ConfigError, match=r"stream 'txt'.*Did you mean 'text'"):
        Masked(stream="txt").predicts({"text": [SPEC]})
    with pytest.raises(SampleError, match="needs the stream 'text'"):
        ready(Masked()).prepare({}, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="must know its fields' streams"):
        Masked().prepare({"text": TEXT}, np.random.default_rng(0))


@pytest.mark.parametrize("settings", [{}, {"choice": {"type": "geometric"}, "rate": 0.3}], ids=["bert", "spans"])
def test_bert_learns_it(settings):
    """A few steps on rising runs, on drawings that it has not seen."""
    rng = np.random.default_rng(0)
    samples = [{"text": tokens([IDS["class"], *counting(rng), IDS["separator"]])} for _ in range(32)]
    before, after = learned("bert-base", ready(Masked(**settings)), samples, [SPEC], ["text"], steps=60)
    assert before > 3.5 and after < 0.75 * before


def test_rows_are_learned():
    """The same step for a continuous stream, whose loss is squared error."""
    rng = np.random.default_rng(0)
    rows = [torch.from_numpy(np.repeat(rng.normal(size=(1, 3)), 6, 0)).float() for _ in range(32)]
    samples = [{"image": Tokens({"patch": Stream.whole(r)}, 6, torch.arange(6)[:, None])} for r in rows]
    objective = Masked(rate=0.3).ready({"image": [PATCH]})
    before, after = learned("bert-base", objective, samples, [PATCH], ["patch"])
    assert after < 0.5 * before
