"""Connectionist temporal classification: the loss against its definition and against each document alone, decoding
against every path there is, and what is hidden of a spectrogram."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from alignments import paths_to
from hypothesis import given, settings
from hypothesis import strategies as st

from anyformer.architecture import Architecture, BackboneConfig, HeadConfig
from anyformer.batch import Example, pack
from anyformer.errors import ConfigError, PluginError, SampleError
from anyformer.model import ForwardPass, Network
from anyformer.objectives import CTC, SpecAugment
from anyformer.objectives.ctc import blank_of, least_slots
from anyformer.objectives.transcripts import PrefixBeams, greedy
from anyformer.tokens import Stream, StreamSpec, Tokens

RNG = np.random.default_rng(0)
TEXT = StreamSpec.discrete("text", 5, end=1, special={"start": 0})
SOUND = StreamSpec.continuous("sound", 3)
SPECS = {"sound": [SOUND], "text": [TEXT]}


def sound(length: int, seed: int = 0) -> Tokens:
    return Tokens.of("sound", torch.randn(length, 3, generator=torch.Generator().manual_seed(seed)))


def text(*values: int) -> Tokens:
    """As a tokenizer lays it: between a start and an end."""
    return Tokens.of("text", torch.tensor([0, *values, 1]))


def example(length: int, values: list[int], seed: int = 0) -> Example:
    return CTC().ready(SPECS).prepare({"sound": sound(length, seed), "text": text(*values)}, RNG)


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    made = Network([SOUND, TEXT], Architecture(BackboneConfig(8, 2, 1), {"text": HeadConfig(bias=True)}))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.4)
    return made.double()


def loss_of(network: Network, examples: list[Example], **more) -> tuple[torch.Tensor, float]:
    batch = pack(examples, **more).map(lambda t: t.double() if t.is_floating_point() else t)
    (targets,) = batch.targets.values()
    found = CTC().loss(ForwardPass(network, batch), targets)  # as a trainer does, which prepares nothing
    return found.sum, found.count


def gradient(network: Network, examples: list[Example], **more) -> torch.Tensor:
    network.zero_grad()
    loss_of(network, examples, **more)[0].backward()
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


# ── The example ──


def test_the_text_takes_no_slots_and_every_slot_is_read():
    """Values without a role, in their order; all slots of the sound, seen from both sides."""
    made = example(6, [3, 2, 4])
    target = made.targets["text"]
    assert target.values.tolist() == [3, 2, 4] and target.slots.tolist() == list(range(6))
    assert target.items.tolist() == [[3, 6]] and made.prefix == made.tokens.length == 6
    assert CTC().ready(SPECS).length({"sound": 6, "text": 5}) == 6
    assert CTC().predicts(SPECS) == ["text"]


def test_a_prompt_has_no_target():
    made = CTC().ready(SPECS).prepare({"sound": sound(4)}, RNG)
    assert made.targets == {} and made.prefix == 4


@pytest.mark.parametrize(("length", "values"), [(2, [2, 3, 4]), (4, [2, 2, 2]), (3, [])])
def test_a_text_that_no_path_spells_is_one_sentence(length, values):
    """Both numbers are said: the slots that it takes, with a blank between repeats, and those that there are."""
    with pytest.raises(SampleError, match=rf"{len(values)} values, which take .*expected 1 to {length}") as found:
        example(length, values)
    assert "\n" not in str(found.value)
    assert least_slots(torch.tensor([2, 2, 2])) == 5 and example(5, [2, 2, 2])


def test_the_blank_has_a_role():
    """A value of its own, or else the one that closes a text; a stream without either is refused."""
    own = StreamSpec.discrete("text", 5, end=1, special={"blank": 4})
    assert blank_of(own) == 4 and blank_of(TEXT) == 1
    with pytest.raises(ConfigError, match=r"no value of the role 'blank'.*special"):
        CTC().ready({"sound": [SOUND], "text": [StreamSpec.discrete("text", 5)]})


# ── The loss ──


def test_the_loss_is_its_definition(network):
    """-ln of the sum over all paths, by counting them."""
    made = example(4, [2, 4])
    batch = pack([made]).map(lambda t: t.double() if t.is_floating_point() else t)
    chances = ForwardPass(network, batch).read("text", made.targets["text"]).log_softmax(-1).detach()
    total, count = loss_of(network, [made])
    assert math.isclose(float(total), -math.log(paths_to(chances, 1)[2, 4]), rel_tol=1e-9) and count == 2


documents = st.lists(
    st.lists(st.integers(2, 4), min_size=1, max_size=3).flatmap(
        lambda values: st.tuples(st.integers(2 * len(values), 9), st.just(values), st.integers(0, 99))
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=15)
@given(documents, st.integers(0, 7))
def test_packed_is_alone_is_padded(network, drawn, padding):
    """Losses and gradients are the sums of each document's own."""
    examples = [example(*one) for one in drawn]
    alone = sum(loss_of(network, [one])[0].item() for one in examples)
    slots = sum(one.tokens.length for one in examples)
    assert math.isclose(loss_of(network, examples)[0].item(), alone, rel_tol=1e-9)
    assert math.isclose(loss_of(network, examples[::-1], pad_to=slots + padding)[0].item(), alone, rel_tol=1e-9)
    apart = torch.stack([gradient(network, [one]) for one in examples]).sum(0)
    torch.testing.assert_close(gradient(network, examples), apart)


def test_the_gradient_is_that_of_torch_on_each_document(network):
    """From the same hidden states, document by document, with nothing padded."""
    examples = [example(7, [2, 3, 3], 1), example(3, [4], 2)]
    ours = gradient(network, examples)
    network.zero_grad()
    for one in examples:
        batch = pack([one]).map(lambda t: t.double() if t.is_floating_point() else t)
        rows = ForwardPass(network, batch).read("text", one.targets["text"]).log_softmax(-1)
        values = one.targets["text"].values
        F.ctc_loss(rows, values, (len(rows),), (len(values),), blank=1, reduction="sum").backward()
    theirs = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
    torch.testing.assert_close(ours, theirs)


# ── Decoding ──


chances = st.tuples(st.integers(1, 5), st.integers(0, 10**6)).map(
    lambda drawn: torch.randn(drawn[0], 3, generator=torch.Generator().manual_seed(drawn[1])).mul(2).log_softmax(-1)
)


@settings(max_examples=40)
@given(chances)
def test_beams_find_what_all_paths_say(rows):
    """With room for every prefix, each text has the probability of all its paths, and the best one comes first."""
    every = paths_to(rows, blank=0)
    found = PrefixBeams(beams=1000).best(rows, blank=0)
    assert {said: pytest.approx(math.log(every[said])) for said, _ in found} == dict(found)
    assert set(dict(found)) == set(every) and sum(every.values()) == pytest.approx(1)
    assert every[PrefixBeams(beams=1000)(rows, 0)] == pytest.approx(max(every.values()))


@settings(max_examples=40)
@given(chances, st.floats(0, 2), st.floats(-1, 1))
def test_a_language_model_has_its_say(rows, weight, bonus):
    """ln p + weight · ln p_language + bonus · values, over all texts; the model is asked with the prefix."""
    odd, even = [1e-9, 0.8, 0.2], [1e-9, 0.3, 0.7]
    language = lambda prefixes: np.log([odd if sum(prefix) % 2 else even for prefix in prefixes])  # noqa: E731
    prior = lambda said: sum(language([said[:i]])[0][said[i]] for i in range(len(said)))  # noqa: E731
    scores = {s: math.log(p) + weight * prior(s) + bonus * len(s) for s, p in paths_to(rows, 0).items()}
    found = dict(PrefixBeams(1000, language, weight, bonus).best(rows, 0))
    assert found == {said: pytest.approx(score) for said, score in scores.items()}


@given(chances)
def test_greedy_spells_the_likeliest_path(rows):
    path = rows.argmax(-1).tolist()
    assert greedy(rows, 0) == tuple(value for value, _ in itertools.groupby(path) if value != 0)


def test_texts_beat_paths():
    """The known case in which the best path is not the best text (Graves et al. 2006, figure 2 in kind)."""
    rows = torch.tensor([[0.6, 0.4], [0.6, 0.4]]).log()
    assert greedy(rows, 0) == () and PrefixBeams(4)(rows, 0) == (1,)


def test_beams_are_at_least_one():
    with pytest.raises(ConfigError, match="beams=0"):
        PrefixBeams(0)


# ── What is hidden ──


def masked(seed: int, length: int = 40, **more) -> Example:
    chosen = SpecAugment(stream="sound", **{"bands": 2, "frames": 9, "objective": {"type": "ctc"}} | more)
    return chosen.ready(SPECS).prepare({"sound": sound(length), "text": text(2)}, np.random.default_rng(seed))


def test_bands_and_moments_are_hidden():
    """Whole columns and runs of rows are 0, no more than asked for, and the rest is as it was."""
    as_it_was = sound(40).streams["sound"].values
    widest, longest = 0, 0
    for seed in range(30):
        found = masked(seed, band_masks=1, frame_masks=1).tokens.streams["sound"].values
        columns, rows = (found == 0).all(0), (found == 0).all(1)
        left = as_it_was.clone()
        left[:, columns], left[rows] = 0, 0
        assert torch.equal(found, left)
        widest, longest = max(widest, int(columns.sum())), max(longest, int(rows.sum()))
    assert (widest, longest) == (2, 9), "the most that is drawn is drawn"


def test_what_is_hidden_is_a_matter_of_the_generator():
    one, again, other = (masked(seed).tokens.streams["sound"].values for seed in (3, 3, 4))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert torch.equal(masked(3).targets["text"].values, torch.tensor([2]))


def test_clips_are_masked_one_by_one():
    """At most `most` of each, however long the others are."""
    short, long = sound(4, 1), sound(60, 2)
    both = Tokens.laid_end_to_end([short, long])
    chosen = SpecAugment(stream="sound", bands=0, frames=50, frame_masks=1, most=0.5).ready(SPECS)
    hidden = []
    for seed in range(40):
        rows = (
            chosen.prepare({"sound": both, "text": text(2)}, np.random.default_rng(seed)).tokens.streams["sound"].values
        )
        hidden.append([int((part == 0).all(1).sum()) for part in rows.split([4, 60])])
    assert max(short for short, _ in hidden) == 2 and 20 < max(long for _, long in hidden) <= 30


def test_values_are_moved_each_by_its_own_and_a_clips_feature_by_one_more():
    """As widely as was asked for; twice alike from one generator; a feature's offset is one in all of a clip's rows
    and another in the next clip."""
    nothing = {"bands": 0, "frames": 0}
    still = masked(5, 400, **nothing).tokens.streams["sound"].values
    noisy, again = (masked(5, 400, noise=0.5, **nothing).tokens.streams["sound"].values for _ in range(2))
    assert torch.equal(noisy, again) and 0.4 < float((noisy - still).std()) < 0.6
    clips = Tokens.laid_end_to_end([sound(4, 1), sound(6, 2)])
    chosen = SpecAugment({"type": "ctc"}, "sound", **nothing, offset=1.0).ready(SPECS)
    moved = chosen.prepare({"sound": clips, "text": text(2)}, np.random.default_rng(0)).tokens.streams["sound"].values
    one, other = (moved - clips.streams["sound"].values).split([4, 6])
    assert one.std(0).max() < 1e-5 and other.std(0).max() < 1e-5 and (one[0] - other[0]).abs().min() > 1e-3


def test_a_prompt_is_left_as_it_is():
    """It has no targets; the task's own tokens are never changed."""
    given_ = sound(40)
    chosen = SpecAugment(stream="sound").ready(SPECS)
    before = given_.streams["sound"].values.clone()
    assert torch.equal(chosen.prepare({"sound": given_}, RNG).tokens.streams["sound"].values, before)
    chosen.prepare({"sound": given_, "text": text(2)}, RNG)
    assert torch.equal(given_.streams["sound"].values, before)


def test_it_wraps_any_objective_and_is_its_settings():
    chosen = SpecAugment({"type": "classification", "target": "text"}, "sound")
    assert chosen.predicts(SPECS) == ["text"] and SpecAugment(**chosen.config()).config() == chosen.config()
    assert SpecAugment(stream="sound").ready(SPECS).length({"sound": 6, "text": 5}) == 6
    with pytest.raises(ConfigError, match=r"stream='audio'.*rows, of: sound\.$"):
        SpecAugment().ready(SPECS)
    with pytest.raises(ConfigError, match="most=2"):
        SpecAugment(most=2)
    for wrong in ({"noise": -1.0}, {"offset": float("nan")}):
        with pytest.raises(ConfigError, match="deviations of 0 or more"):
            SpecAugment(**wrong)
    with pytest.raises((ConfigError, PluginError), match="ctd"):
        SpecAugment({"type": "ctd"})


def test_on_the_other_axis_too():
    """An encoder's source is masked as well."""
    inner = Example(sound(30), {}, 30)
    outer = Example(Tokens.of("text", torch.tensor([2])), {"text": Stream.whole(torch.tensor([2]))}, source=inner)
    found = SpecAugment(stream="sound")._masked(outer, np.random.default_rng(1))
    assert found.source is not None
    assert not torch.equal(found.source.tokens.streams["sound"].values, inner.tokens.streams["sound"].values)
