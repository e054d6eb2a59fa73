"""BART's five noises (arXiv:1910.13461 §2.2), alone and one after another."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sentences import IDS, ORDINARY, SPEC, counting, learned, ready, same, tokens

from anyformer.batch import Example, pack
from anyformer.errors import ConfigError, SampleError
from anyformer.objectives import Denoising
from anyformer.objectives.noise import Infill
from anyformer.tokens import StreamSpec

MASK = IDS["mask"]
TEXT = tokens([IDS["start"], *list(ORDINARY) * 4, IDS["end"]], [1, *[4] * 49, 1])


def noisy(*types: str, seed: int = 0, sample=TEXT, **settings) -> Example:
    objective = ready(Denoising(noise=[{"type": name, **settings} for name in types]))
    return objective.prepare({"text": sample}, np.random.default_rng(seed))


def source_of(example: Example) -> list[int]:
    return example.source.tokens.streams["text"].values.tolist()  # ty: ignore[unresolved-attribute]


WHOLE = TEXT.streams["text"].values.tolist()
INNER = WHOLE[1:-1]


@pytest.mark.parametrize("name", ["mask", "delete", "infill", "permute_sentences", "rotate", "shuffle"])
def test_the_target_is_the_whole_text(name):
    """Whatever was done to it; its own start is given, its end is said, and what stood around the source stays."""
    example = noisy(name)
    assert example.tokens.streams["text"].values.tolist() == WHOLE[:-1]
    assert example.targets["text"].values.tolist() == WHOLE[1:]
    assert (source_of(example)[0], source_of(example)[-1]) == (IDS["start"], IDS["end"])
    assert source_of(example) != WHOLE
    assert example.source.prefix == len(source_of(example))  # ty: ignore[unresolved-attribute]


def test_masking_keeps_places():
    """Token masking: a mask for each value, the rest where it was, 15 % of them."""
    hidden = []
    for seed in range(200):
        source = source_of(noisy("mask", seed=seed))
        assert all(a in (b, MASK) for a, b in zip(source, WHOLE, strict=True))
        hidden.append(source.count(MASK) / len(INNER))
    assert abs(np.mean(hidden) - 0.15) < 0.002


def test_deletion_says_nothing_of_where():
    """Token deletion: what is left is a subsequence, 15 % shorter."""
    left = []
    for seed in range(200):
        source, rest = source_of(noisy("delete", seed=seed)), iter(WHOLE)
        assert all(value in rest for value in source) and MASK not in source
        left.append(1 - (len(source) - 2) / len(INNER))
    assert abs(np.mean(left) - 0.15) < 0.002


def test_infilling_takes_thirty_per_cent_in_spans_of_three():
    """Text infilling: a mask a span, Poisson(3) long; among the drawn lengths are those of no length."""
    taken, masks = 0, 0
    for seed in range(300):
        source = source_of(noisy("infill", seed=seed))
        masks += source.count(MASK)
        taken += len(WHOLE) - (len(source) - source.count(MASK))
        rest = iter(WHOLE)
        assert all(value in rest for value in source if value != MASK)
    assert abs(taken / 300 / len(INNER) - 0.3) < 0.002
    assert abs(taken / masks - 3) < 0.1
    rng = np.random.default_rng(0)
    lengths = np.concatenate([Infill().lengths(100, rng)[:-1] for _ in range(3000)])  # the last is cut to the budget
    for length in range(7):
        poisson = np.exp(-3) * 3**length / np.prod(np.arange(1, length + 1))
        assert abs((lengths == length).mean() - poisson) < 0.006


def test_infilling_of_no_length_puts_a_mask_in():
    """A mean near zero: masks among words, nearly nothing taken."""
    source = source_of(noisy("infill", rate=0.01, mean=0.2))
    assert source.count(MASK) > 1
    assert len([value for value in source if value != MASK]) >= len(WHOLE) - 3


def test_sentences_are_permuted_whole():
    """Sentence permutation: each of them as it was, in another order; each order as likely."""
    sample = tokens([IDS["start"], *list(ORDINARY)[:6], IDS["end"]], [1, 1, 2, 3, 1])
    first, second, third = list(ORDINARY)[:1], list(ORDINARY)[1:3], list(ORDINARY)[3:6]
    seen = Counter(tuple(source_of(noisy("permute_sentences", seed=s, sample=sample))[1:-1]) for s in range(3000))
    orders = {
        (*a, *b, *c)
        for a, b, c in (
            (first, second, third), (first, third, second), (second, first, third),
            (second, third, first), (third, first, second), (third, second, first),
        )
    }  # fmt: skip
    assert set(seen) == orders
    assert all(abs(count / 3000 - 1 / 6) < 0.025 for count in seen.values())


def test_rotation_begins_anywhere():
    """Document rotation: the same ring of values; each beginning as likely."""
    sample = tokens(list(ORDINARY)[:5])
    seen = Counter(source_of(noisy("rotate", seed=s, sample=sample))[0] for s in range(2000))
    assert all(abs(seen[value] / 2000 - 0.2) < 0.03 for value in list(ORDINARY)[:5])
    source = source_of(noisy("rotate", seed=3))[1:-1]
    assert any(source == INNER[i:] + INNER[:i] for i in range(len(INNER)))


def test_barts_own_mixture():
    """§4.1: sentences are permuted and then 30 % are filled in; both can be seen in the source."""
    masks = inversions = 0
    for seed in range(20):
        example = ready(Denoising()).prepare({"text": TEXT}, np.random.default_rng(seed))
        source = source_of(example)
        masks += source.count(MASK)
        words = [value for value in source[1:-1] if value != MASK]
        rest = iter(INNER)
        inversions += not all(word in rest for word in words)
        assert not Counter(words) - Counter(INNER)
        assert abs(len(words) / len(INNER) - 0.7) < 0.01
    assert masks > 200 and inversions == 20


@given(
    seed=st.integers(0, 2**32),
    length=st.integers(1, 20),
    noise=st.lists(st.sampled_from(["mask", "delete", "infill", "permute_sentences", "rotate", "shuffle"]), min_size=1),
)
def test_any_noises_compose(seed, length, noise):
    """In any order, as often as one likes, on the shortest texts: words only vanish, and the target is whole."""
    rng = np.random.default_rng(seed)
    words = rng.choice(ORDINARY, length).tolist()
    cut = int(rng.integers(length + 1))
    sizes = [1, *[size for size in (cut, length - cut) if size], 1]
    sample = tokens([IDS["start"], *words, IDS["end"]], sizes)
    example = noisy(*noise, seed=seed, sample=sample)
    source = source_of(example)
    assert not Counter(value for value in source[1:-1] if value != MASK) - Counter(words)
    assert example.targets["text"].values.tolist() == [*words, IDS["end"]]
    assert pack([example, example]).source.tokens == 2 * len(source)  # ty: ignore[unresolved-attribute]


def test_equal_generators_draw_alike():
    one, again, other = (ready(Denoising()).prepare({"text": TEXT}, np.random.default_rng(s)) for s in (1, 1, 2))
    assert same(one, again) and not same(one, other)


def test_a_text_with_a_mask_is_a_prompt():
    """What a person corrupted is mended."""
    example = noisy("infill", sample=tokens("Thank mask week"))
    assert source_of(example) == [IDS["Thank"], MASK, IDS["week"]] and example.targets == {}
    assert example.tokens.streams["text"].values.tolist() == [IDS["start"]]


def test_barts_decoder_starts_with_the_end():
    """As in the published weights: `</s>` is given, the text's own start is said."""
    example = ready(Denoising(start="end")).prepare({"text": TEXT}, np.random.default_rng(0))
    assert example.tokens.streams["text"].values.tolist() == [IDS["end"], *WHOLE[:-1]]
    assert example.targets["text"].values.tolist() == WHOLE


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        ([], r"noise=\[\]; expected a list"),
        ([{"type": "infil"}], r"noise 'infil'.*Did you mean 'infill'"),
        ([{"type": "infill", "mean": 0}], "mean=0; expected more than 0"),
        ([{"type": "mask", "rate": -1}], "rate=-1; expected a number from 0 to 1"),
        ([{"type": "rotate", "rate": 1}], "'rotate' cannot be made"),
    ],
)
def test_bad_noises_are_refused(noise, message):
    with pytest.raises(ConfigError, match=message):
        Denoising(noise=noise)


def test_bad_streams_are_refused():
    """A vocabulary without a mask; sentences that nobody told apart."""
    plain = StreamSpec.discrete("text", 9, end=1, special={"start": 0})
    with pytest.raises(ConfigError, match=r"no value of the role 'mask'"):
        ready(Denoising(), spec=plain)
    assert ready(Denoising(noise=[{"type": "delete"}]), spec=plain)
    with pytest.raises(SampleError, match=r"does not tell its sentences apart.*items: sentences"):
        noisy("permute_sentences", sample=tokens("start Thank you . end"))


def test_bart_learns_it():
    """A few steps on rising runs in two sentences."""
    rng = np.random.default_rng(0)
    samples = [{"text": tokens([IDS["start"], *counting(rng), IDS["end"]], [1, 5, 5, 1])} for _ in range(32)]
    before, after = learned("bart-base", ready(Denoising()), samples, [SPEC], ["text"])
    assert before > 3 and after < 0.75 * before
