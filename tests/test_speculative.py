"""Speculative, contrastive and diverse search: the distribution, the choice and the groups that the papers define."""

from itertools import product

import pytest
import torch
from test_beam_search import END, made, probability, prompts_of, text

from anyformer.batch import Example, pack
from anyformer.errors import ConfigError
from anyformer.model import Beams, Contrastive, Model, Sampling, Speculative
from anyformer.tokens import Tokens


def said(model: Model, prompts, strategy, room: int = 9, end=END) -> list[list[int]]:
    return [one.streams["text"].values.tolist() for one in model.generate(prompts, "text", room, strategy, end)]


@pytest.mark.parametrize("kind", ["rotary, grouped", "learned, windowed", "translator"])
@pytest.mark.parametrize("ahead", [1, 3, 20])
@pytest.mark.parametrize("draft_seed", [0, 9])
def test_a_greedy_draft_changes_nothing(kind, ahead, draft_seed):
    """With a draft that agrees always, and one that hardly ever does."""
    model, prompts = made(kind, 0), prompts_of(kind, 0, count=4)
    strategy = Speculative(made(kind, draft_seed), ahead)
    for end in (END, None):
        assert said(model, prompts, Sampling(0), end=end) and said(model, prompts, strategy, end=end) == said(
            model, prompts, Sampling(0), end=end
        )


def test_what_is_said_has_the_large_models_distribution():
    """Chi-square of 6000 answers of three values among 4^3 = 64: below the 99.9 % quantile for 63 degrees of freedom,
    103.4; the draft's own distribution is far above it."""
    model, draft = made("rotary, grouped", 3, letters=4), made("rotary, grouped", 8, letters=4)
    prompt, count = Example(text(2, 3), {}), 6000
    runs = list(product(range(4), repeat=3))

    def distance(answers: list[list[int]]) -> float:
        found = dict.fromkeys(runs, 0)
        for one in answers:
            found[tuple(one)] += 1
        wanted = {run: count * torch.tensor(probability(model, prompt, run)).exp().item() for run in runs}
        return sum((found[run] - wanted[run]) ** 2 / wanted[run] for run in runs)

    speculative = Speculative(draft, 2, Sampling(seed=4))
    assert distance(said(model, [prompt] * count, speculative, 3, None)) < 103.4
    assert distance(said(draft, [prompt] * count, Sampling(seed=4), 3, None)) > 200


def test_a_recurrent_stack_cannot_forget():
    model, prompts = made("recurrent", 0), prompts_of("recurrent", 0)
    with pytest.raises(ConfigError, match="keeps a state and no tokens"):
        said(model, prompts, Speculative(made("recurrent", 5), 3), end=None)


def test_a_cut_session_goes_on_as_if_nothing_had_been_there():
    model = made("rotary, grouped", 0)
    session, plain = model.session(2), model.session(2)
    session.append([text(2, 3, 4, 5), text(6)])
    session.cut([2, 1])
    assert (session.lengths, session.said("text")) == ([2, 1], [[2, 3], [6]])
    plain.append([text(2, 3), text(6)])
    for one in (session, plain):
        one.append([text(5), text(4)])
    assert torch.allclose(session.last, plain.last, atol=1e-12)
    with pytest.raises(ConfigError, match="cannot be cut"):
        session.cut([9, 1])


@torch.no_grad()
def contrasted(model: Model, prompt: Example, width: int, penalty: float, room: int) -> list[int]:
    """Contrastive search without a cache, as eq. 5 of arXiv:2202.06417 has it."""
    tokens, values = prompt.tokens, []
    while len(values) < room:
        states = model(pack([Example(tokens, {})], model.rank))
        shares, candidates = model.read("text", states[-1:])[0].float().softmax(-1).topk(width)
        scores = []
        for share, value in zip(shares.tolist(), candidates.tolist(), strict=True):
            longer = Tokens.laid_end_to_end([tokens, text(value)])
            own = model(pack([Example(longer, {})], model.rank))[-1]
            like = torch.cosine_similarity(own[None], states, dim=-1).max().item()
            scores.append((1 - penalty) * share - penalty * like)
        values.append(candidates[scores.index(max(scores))].item())
        tokens = Tokens.laid_end_to_end([tokens, text(values[-1])])
    return values


@pytest.mark.parametrize("kind", ["rotary, grouped", "learned, windowed"])
def test_contrastive_search_is_the_papers(kind):
    model, prompts = made(kind, 1), prompts_of(kind, 1, count=3)
    for penalty in (0.0, 0.4, 0.8):
        wanted = [contrasted(model, prompt, 3, penalty, 6) for prompt in prompts]
        assert said(model, prompts, Contrastive(3, penalty), 6, None) == wanted
    assert said(model, prompts, Contrastive(3, 0.0)) == said(model, prompts, Sampling(0))


def diverse(model: Model, prompt: Example, settings: Beams) -> list[tuple[tuple[int, ...], float]]:
    """Diverse beam search without an end, from scratch at each step: groups of runs with their log probabilities."""
    width = settings.beams // settings.groups
    groups = [[((), 0.0)] for _ in range(settings.groups)]
    for _ in range(settings.max_new):
        costs = [0.0] * 7
        for number, group in enumerate(groups):
            longer = [(*run, value) for run, _ in group for value in range(7)]
            told = {run: probability(model, prompt, run) for run in longer}
            best = sorted(longer, key=lambda run: told[run] - costs[run[-1]], reverse=True)[:width]
            groups[number] = [(run, told[run]) for run in best]
            for run in best:
                costs[run[-1]] += settings.diversity
    found = [(run, total / settings.max_new) for group in groups for run, total in group]
    return sorted(found, key=lambda one: -one[1])


@pytest.mark.parametrize(("beams", "groups", "diversity"), [(4, 2, 0.7), (6, 3, 2.0), (3, 3, 50.0), (4, 2, 0.0)])
def test_diverse_beams_are_the_papers(beams, groups, diversity):
    model, prompts = made("rotary, grouped", 4), prompts_of("rotary, grouped", 4, count=2)
    settings = Beams(beams, 4, returns=beams, groups=groups, diversity=diversity)
    for prompt, found in zip(prompts, model.beam_search(prompts, "text", settings, None), strict=True):
        wanted = diverse(model, prompt, settings)
        assert [one.score for one in found] == pytest.approx([score for _, score in wanted], abs=1e-5)
        assert {tuple(one.tokens.streams["text"].values.tolist()) for one in found} == {run for run, _ in wanted}
    if diversity == 50.0:  # each group says something else from the first value on
        firsts = [one.tokens.streams["text"].values[0].item() for one in found]
        assert len(set(firsts)) == groups
