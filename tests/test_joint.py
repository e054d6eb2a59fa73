"""CTC and attention together: the loss is the weighted sum of both, whatever is packed with what; a text that both
write is the best of all texts there are."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import corpora
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from alignments import paths_to
from hypothesis import given, settings
from hypothesis import strategies as st

import anyformer as af
from anyformer.architecture import Architecture, BackboneConfig, HeadConfig
from anyformer.batch import Example, pack
from anyformer.errors import ConfigError, SampleError
from anyformer.model import Beams, ForwardPass, Model, Network
from anyformer.model.beam import search
from anyformer.objectives import CTC, CTCAndAttention, SequenceToSequence, SpecAugment
from anyformer.objectives.scorers import CTCPrefixScore, Fusion
from anyformer.objectives.transcripts import PrefixBeams, log_probabilities
from anyformer.registry import tokenizers
from anyformer.tokens import StreamSpec, Tokens
from anyformer_tasks.sound import SpeechRecognition

RNG = np.random.default_rng(0)
TEXT = StreamSpec.discrete("text", 5, end=1, special={"start": 0})
SOUND = StreamSpec.continuous("sound", 3)
SPECS = {"sound": [SOUND], "text": [TEXT]}
LETTERS = (2, 3, 4)


def network_of(width: int = 8, encoder: int = 8, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    writes = BackboneConfig(width, 2, 1, recipe=("attention", "cross_attention", "feed_forward"))
    hears = BackboneConfig(encoder, 2, 1, causal=False)
    heads = {"text": HeadConfig(bias=True)}
    made = Network([SOUND, TEXT], Architecture(writes, heads, encoder=hears, source=("sound",)))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.5)
    return made.double()


@pytest.fixture(scope="module")
def network() -> Network:
    return network_of()


def fields(length: int, values, seed: int = 0) -> dict[str, Tokens]:
    sound = torch.randn(length, 3, generator=torch.Generator().manual_seed(seed))
    return {"sound": Tokens.of("sound", sound), "text": Tokens.of("text", torch.tensor([0, *values, 1]))}


def example(length: int, values, seed: int = 0, objective=CTCAndAttention) -> Example:
    return objective(target="text").ready(SPECS).prepare(fields(length, values, seed), RNG)


def prompt(length: int, seed: int = 0) -> Example:
    given = fields(length, [], seed)
    return CTCAndAttention().ready(SPECS).prepare({"sound": given["sound"]}, RNG)


def widened(batch):
    return batch.map(lambda t: t.double() if t.is_floating_point() else t)


def loss_of(network: Network, examples: list[Example], objective=None) -> torch.Tensor:
    batch = widened(pack(examples))
    return (objective or CTCAndAttention()).loss(ForwardPass(network, batch), batch.targets[examples[0].task]).sum


def gradient(network: Network, total: torch.Tensor) -> torch.Tensor:
    weights = list(network.parameters())
    found = torch.autograd.grad(total, weights, allow_unused=True, materialize_grads=True)
    return torch.cat([one.flatten() for one in found])


def by_ctc(network: Network, examples: list[Example]) -> torch.Tensor:
    """torch's own loss of each document by itself, from the states of its source alone."""
    total = torch.zeros((), dtype=torch.float64)
    for one in examples:
        states = network.encode(widened(pack([one.source]))).states
        rows = network.read("text", states).log_softmax(-1)
        values = one.targets["text"].values[:-1]
        total = total + F.ctc_loss(rows, values, (len(rows),), (len(values),), blank=1, reduction="sum")
    return total


EXAMPLES = [(7, [2, 3, 3], 1), (3, [4], 2), (6, [2, 4], 3)]


# ── The loss ──


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_loss_is_the_weighted_sum_of_both(network, weight):
    """Values and gradients; with 0 it is sequence to sequence, with 1 CTC, and nothing else has a gradient."""
    examples = [example(*one) for one in EXAMPLES]
    ours = loss_of(network, examples, CTCAndAttention(weight=weight))
    attention = loss_of(network, examples, SequenceToSequence(target="text"))
    wanted = weight * by_ctc(network, examples) + (1 - weight) * attention
    torch.testing.assert_close(ours, wanted)
    torch.testing.assert_close(gradient(network, ours), gradient(network, wanted))
    batch = widened(pack(examples))
    found = CTCAndAttention(weight=weight).loss(ForwardPass(network, batch), batch.targets[""])
    assert found.count == SequenceToSequence(target="text").loss(ForwardPass(network, batch), batch.targets[""]).count
    assert set(found.parts) == {"ctc", "attention"}


def test_smoothing_is_attentions_alone(network):
    examples = [example(*one) for one in EXAMPLES]
    smoothed = SequenceToSequence(target="text", smoothing=0.1)
    wanted = 0.3 * by_ctc(network, examples) + 0.7 * loss_of(network, examples, smoothed)
    torch.testing.assert_close(loss_of(network, examples, CTCAndAttention(smoothing=0.1)), wanted)


documents = st.lists(
    st.lists(st.integers(2, 4), min_size=1, max_size=3).flatmap(
        lambda values: st.tuples(st.integers(2 * len(values), 9), st.just(values), st.integers(0, 99))
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=6, deadline=None)
@given(drawn=documents, others=st.booleans())
def test_packed_is_alone(network, drawn, others):
    """Beside documents of another task, with and without a source, too: each is read from its own sound."""
    examples = [example(*one) for one in drawn]
    alone = sum(loss_of(network, [one]).item() for one in examples)
    strangers = [replace(example(5, [3], 7, SequenceToSequence), task="a"), Example(fields(1, [2])["text"], {})]
    mixed = [strangers[0], *examples, strangers[1]] if others else examples
    batch = widened(pack(mixed))
    found = CTCAndAttention().loss(ForwardPass(network, batch), batch.targets[""])
    assert math.isclose(found.sum.item(), alone, rel_tol=1e-9)


def test_what_cannot_be_learned_from_is_one_sentence(network):
    """A text that no path spells; a head that cannot read both; a stream without a blank; a weight out of range."""
    with pytest.raises(SampleError, match=r"2 values, which take 3 slots.*expected 1 to 2"):
        example(2, [3, 3])
    with pytest.raises(SampleError, match="0 values"):
        example(3, [])
    with pytest.raises(ConfigError, match="encoder is 4 wide and the decoder 8"):
        loss_of(network_of(encoder=4), [example(4, [2])])
    with pytest.raises(ConfigError, match="no source"):
        loss_of(network, [replace(example(4, [2]), source=None)])
    with pytest.raises(ConfigError, match="'blank'"):
        bare = StreamSpec.discrete("text", 5, special={"start": 0})
        CTCAndAttention().ready({"sound": [SOUND], "text": [bare]})
    with pytest.raises(ConfigError, match="weight=2"):
        CTCAndAttention(weight=2)


def test_bands_are_hidden_of_the_source():
    around = SpecAugment({"type": "ctc_and_attention", "weight": 0.5}, "sound", bands=3, frames=6)
    made = [around.ready(SPECS).prepare(fields(8, [2, 3]), np.random.default_rng(seed)) for seed in range(9)]
    heard = [one.source.tokens.streams["sound"].values for one in made]
    assert any((rows == 0).any() for rows in heard) and around.predicts(SPECS) == ["text"]


# ── Writing together ──


def texts_of(chances: torch.Tensor, blank: int) -> dict[tuple[int, ...], float]:
    """ln p of every text, by all paths that spell it."""
    return {said: math.log(p) for said, p in paths_to(chances, blank).items()}


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 5), st.integers(0, 10**6))
def test_prefix_scores_are_all_texts_that_begin_so(slots, seed):
    """Along short texts, with repeats: what is added up is ln p of all texts with that beginning; with the end, of the
    text itself."""
    drawn = torch.randn(slots, 5, generator=torch.Generator().manual_seed(seed))
    chances = drawn.double().mul(2).log_softmax(-1)
    every = texts_of(chances, blank=1)
    rule = CTCPrefixScore(chances, TEXT, 1.0)
    zero = torch.zeros(1, 5, dtype=torch.float64)
    some = itertools.chain(*(itertools.product(LETTERS, repeat=n) for n in (0, 1, 2)), [(2, 2, 3), (3, 3, 3)])
    for said in some:
        total = 0.0
        for size, value in enumerate(said):
            total += float(rule(zero, [[0, *said[:size]]])[0, value])
        begun = [math.exp(p) for text, p in every.items() if text[: len(said)] == said]
        assert math.exp(total) == pytest.approx(sum(begun), abs=1e-9)
        ended = total + float(rule(zero, [[0, *said]])[0, 1])
        assert math.exp(ended) == pytest.approx(math.exp(every.get(said, -math.inf)), abs=1e-9)
        assert float(rule(zero, [[0, *said]])[0, 0]) == -math.inf, "a start is never said"


def language(prefixes) -> np.ndarray:
    """Of what was said last: the same is unlikely, a 4 ends soon."""
    odds = {(): [0, 1, 5, 3, 2], 2: [0, 1, 1, 5, 3], 3: [0, 2, 4, 1, 3], 4: [0, 6, 1, 2, 1]}
    rows = np.array([odds[prefix[-1] if prefix else ()] for prefix in prefixes], dtype=float)
    with np.errstate(divide="ignore"):
        return np.log(rows / rows.sum(1, keepdims=True))


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 0.0), (0.7, 0.4)])
@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_joint_search_finds_the_best_of_all_texts(weight, alpha, beta):
    """(1 - λ) ln p_attention + λ ln p_ctc (+ α ln p_language + β values) of all texts of up to three letters, each by
    itself: with room for all, the search has just these scores; with a few beams, no score that is not among them."""
    for seed in range(2):
        network, asked = network_of(seed=seed).float(), prompt(3, seed)
        (chances,) = log_probabilities(network, [asked], "text")
        ctc = texts_of(chances, blank=1)
        scores = {}
        for said in itertools.chain(*(itertools.product(LETTERS, repeat=n) for n in range(4))):
            if said in ctc:
                attention = attended(network, 3, said, seed)
                told = sum(language([said[:i]])[0][v] for i, v in enumerate((*said, 1)))
                scores[said] = (1 - weight) * attention + weight * ctc[said] + alpha * told + beta * len(said)
        rules = (CTCPrefixScore(chances, TEXT, weight), Fusion(language, TEXT, alpha, beta))
        wide = Beams(beams=130, max_new=4, returns=len(scores), length_penalty=0.0, rules=rules, stopping="never")
        (found,) = search(network, [asked], "text", wide)
        said = {tuple(one.tokens.streams["text"].values.tolist()[:-1]): one.score for one in found}
        assert said == {text: pytest.approx(score, abs=1e-4) for text, score in scores.items()}
        (few,) = search(network, [asked], "text", replace(wide, beams=3, returns=1))
        best = tuple(few[0].tokens.streams["text"].values.tolist()[:-1])
        assert few[0].score == pytest.approx(scores[best], abs=1e-4)


def attended(network: Network, length: int, said, seed: int) -> float:
    """ln p of a text and its end by the decoder, without a cache."""
    objective = SequenceToSequence(target="text").ready(SPECS)
    one = objective.prepare(fields(length, said, seed), RNG)
    batch = pack([one])
    with torch.no_grad():
        return -float(objective.loss(ForwardPass(network, batch), batch.targets[""]).sum)


def test_attention_cannot_leave_out_what_is_heard():
    """A decoder that wants to stop at once is held by CTC, to which nothing yet has been said."""
    chances = torch.full((4, 5), 1e-4).log()
    chances[[0, 1, 2, 3], [2, 1, 3, 1]] = math.log(1 - 4e-4)
    stops = torch.tensor([[0.01, 0.97, 0.01, 0.005, 0.005]]).log()
    both = CTCPrefixScore(chances, TEXT, 0.5)(stops, [[0]])
    assert int(both.argmax()) == 2 and int(CTCPrefixScore(chances, TEXT, 0.0)(stops, [[0]]).argmax()) == 1


# ── The task ──


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    corpora.yesno(folder, np.random.default_rng(0))
    return folder


def recognition(shelf, **decoding) -> tuple[SpeechRecognition, Model]:
    task = SpeechRecognition("yesno", str(shelf), decoding=decoding)
    task.objective = CTCAndAttention()
    made = {"audio": tokenizers.create("audio", {"sample_rate": 8000, "mels": 8, "layers": 0})}
    made["text"] = tokenizers.create("characters", {"name": "text"})
    for field in made:
        made[field].fit(task.corpus(field))
    torch.manual_seed(0)
    writes = BackboneConfig(16, 2, 1, recipe=("attention", "cross_attention", "feed_forward"))
    hears = BackboneConfig(16, 2, 1, causal=False)
    return task, Model(made, writes, ["text"], encoder=hears, source=["audio"]).eval()


@pytest.mark.parametrize("decoding", [{}, {"beams": 2}, {"beams": 3, "ctc": 0.4, "order": 2, "weight": 0.5}])
def test_a_model_with_both_is_judged(decoding, shelf):
    """By every way to find a text, alone as beside others."""
    task, model = recognition(shelf, **decoding)
    samples = task.examples("test")[:2]
    said = task.written(model, samples)
    assert all(set(text) <= set("noyes ") for text in said) and task.written(model, samples[1:]) == said[1:]


def test_ctc_alone_finds_the_same_by_both_ways(shelf):
    """λ = 1 in the decoder's search, value by value, and prefix beams, slot by slot, are two searches for one text."""
    task, model = recognition(shelf, beams=40, ctc=1.0)
    samples = task.examples("test")[:1]
    asked = replace(samples[0], values={"audio": samples[0].values["audio"]})
    one = af.prepare("it", task, model.tokenizers, asked, RNG)
    (chances,) = log_probabilities(model, [one], "text")
    sharp = (chances * 6).log_softmax(-1)  # so that a search of few beams is sure to find it
    spec = model.specs["text"]
    wanted = PrefixBeams(40)(sharp, spec.end)
    settings = Beams(40, len(sharp) + 1, length_penalty=0.0, rules=(CTCPrefixScore(sharp, spec, 1.0),))
    ((found, *_),) = model.beam_search([one], "text", settings)
    assert tuple(found.tokens.streams["text"].values.tolist()[:-1]) == wanted
    assert isinstance(task.written(model, samples)[0], str)


def test_decodings_are_checked(shelf):
    with pytest.raises(ConfigError, match=r"no setting 'ctd' of its decoding.*Did you mean 'ctc'"):
        SpeechRecognition(decoding={"ctd": 0.3})
    for wrong in ({"beams": 0}, {"ctc": 1.2}, {"order": 2, "language": "runs/x"}, {"weight": -1.0}):
        with pytest.raises(ConfigError, match="expected at least one beam"):
            SpeechRecognition(decoding=wrong)
    task, model = recognition(shelf, ctc=0.3)
    task.objective = CTC(target="text")
    hears = Model(model.tokenizers, BackboneConfig(16, 2, 1, causal=False), ["text"]).eval()
    with pytest.raises(ConfigError, match="which this model lacks"):
        task.written(hears, task.examples("test")[:1])
