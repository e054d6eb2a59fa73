"""Objectives with a second network: ELECTRA's generator, DistilBERT's teacher."""

from __future__ import annotations

import json
import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sentences import IDS, ORDINARY, SPEC, counting, ready, same, tokens

from anyformer.architecture import HeadConfig, preset, reduced, without
from anyformer.batch import counted, pack
from anyformer.errors import ConfigError
from anyformer.model import ForwardPass, Network
from anyformer.objectives import Distilled, Masked, Replaced
from anyformer.objectives.second import at, filled, softened
from anyformer.tokens import StreamSpec

REPLACED = StreamSpec.continuous("replaced", 1, input=False)
SPECS = {"text": [SPEC], "replaced": [REPLACED]}


def twin(model: str, *specs: StreamSpec, heads: list[str], seed: int = 0) -> Network:
    torch.manual_seed(seed)
    small = reduced(preset(model))
    described = {name: small.heads.get(name) or HeadConfig(bias=True) for name in heads}
    return Network(specs, without(replace(small, heads=described), [*small.streams])).eval()


def given(objective: Replaced | Distilled, network: Network) -> Replaced | Distilled:
    """With its second network, as a Learner gives it one."""
    objective.network = network
    return objective


def runs(count: int) -> list[dict]:
    rng = np.random.default_rng(0)
    return [{"text": tokens([IDS["class"], *counting(rng), IDS["separator"]])} for _ in range(count)]


def test_every_ordinary_value_is_asked_of():
    """All tokens, not 15 %: where masks hide one, and where none does; special ones are left out."""
    (sample,) = runs(1)
    example = Replaced().ready(SPECS).prepare(sample, np.random.default_rng(0))
    whole = sample["text"].streams["text"].values
    assert list(example.targets) == ["text", "replaced"] and Replaced().predicts(SPECS) == ["replaced"]
    was, hidden = example.targets["replaced"], example.targets["text"]
    assert was.slots.tolist() == list(range(1, 11)) and torch.equal(was.values, whole[1:-1])
    assert set(example.tokens.streams["text"].values[hidden.slots].tolist()) == {IDS["mask"]}
    assert torch.equal(whole[hidden.slots], hidden.values)
    again, other = (Replaced().ready(SPECS).prepare(sample, np.random.default_rng(seed)) for seed in (0, 3))
    assert same(example, again) and not same(example, other)
    prompt = Replaced().ready(SPECS).prepare({"text": tokens("Thank mask for")}, np.random.default_rng(0))
    assert prompt.targets == {}


def test_what_the_generator_gets_right_is_the_texts_own():
    """§2: a perfect generator replaces nothing, one that always says one word replaces all but that word."""
    objective, rng = Replaced(masked={"rate": 0.5, "masked": 1.0, "random": 0.0}), np.random.default_rng(0)
    batch = pack([objective.ready(SPECS).prepare(sample, rng) for sample in runs(4)])
    hidden, was = batch.targets[""]["text"], batch.targets[""]["replaced"]
    right = filled(batch, "text", hidden.slots, hidden.values)
    assert torch.equal(at(right, "text", was.slots), was.values)
    wrong = filled(batch, "text", hidden.slots, torch.full_like(hidden.values, ORDINARY[0]))
    other = at(wrong, "text", was.slots) != was.values
    assert int(other.sum()) == int((hidden.values != ORDINARY[0]).sum())
    assert set(was.slots[other].tolist()) <= set(hidden.slots.tolist())


def test_electras_loss_is_a_sum_of_two_means():
    """L_MLM + 50 · L_Disc; nothing flows from the second into the generator."""
    generator, model = twin("electra-small-generator", SPEC, heads=["text"]), None
    model = twin("electra-small-discriminator", SPEC, REPLACED, heads=["replaced"])
    objective, rng = given(Replaced(), generator), np.random.default_rng(0)
    batch = pack([objective.ready(SPECS).prepare(sample, rng) for sample in runs(4)])
    torch.manual_seed(3)
    loss = objective.loss(ForwardPass(model, batch), batch.targets[""])
    hidden, was = batch.targets[""]["text"], batch.targets[""]["replaced"]
    torch.manual_seed(3)
    logits = generator.read("text", generator(batch)[hidden.slots])
    drawn = torch.multinomial(logits.softmax(-1), 1)[:, 0]
    seen = filled(batch, "text", hidden.slots, drawn)
    said = model.read("replaced", model(seen)[was.slots])[:, 0]
    wanted = (at(seen, "text", was.slots) != was.values).float()
    whole = F.cross_entropy(logits, hidden.values) + 50 * F.binary_cross_entropy_with_logits(said, wanted)
    assert math.isclose(float(loss.mean()), float(whole), rel_tol=1e-5)
    assert sum(term.count for term in loss.terms) == counted(batch.counts[""])
    loss.mean().backward()
    mine = [p.grad.clone() for p in generator.parameters() if p.grad is not None]
    generator.zero_grad()
    F.cross_entropy(generator.read("text", generator(batch)[hidden.slots]), hidden.values).backward()
    theirs = [p.grad for p in generator.parameters() if p.grad is not None]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(mine, theirs, strict=True))


def test_both_networks_learn():
    """A few steps of each from one loss."""
    generator = twin("electra-small-generator", SPEC, heads=["text"])
    model = twin("electra-small-discriminator", SPEC, REPLACED, heads=["replaced"])
    objective, samples = given(Replaced(), generator), runs(20)
    optimiser = torch.optim.AdamW([*generator.parameters(), *model.parameters()], lr=6e-3, fused=True)
    losses = []
    for step in range(40):
        rng = np.random.default_rng(step)
        batch = pack([objective.ready(SPECS).prepare(sample, rng) for sample in samples])
        loss = objective.loss(ForwardPass(model, batch), batch.targets[""])
        optimiser.zero_grad()
        loss.mean().backward()
        optimiser.step()
        losses.append([float(term.sum) / term.count for term in loss.terms])
    first, last = np.array(losses[0]), np.mean(losses[-5:], 0)
    assert (last < [0.9 * first[0], 0.7 * first[1]]).all()


def test_distillation_adds_three_means():
    """5 · T² KL(teacher ‖ student) + 2 · masked + 1 · (1 - cosine), with T = 2; the teacher has no gradient."""
    student, teacher = twin("distilbert-base", SPEC, heads=["text"]), twin("bert-base", SPEC, heads=["text"])
    objective, rng = given(Distilled(), teacher), np.random.default_rng(0)
    batch = pack([ready(objective).prepare(sample, rng) for sample in runs(4)])
    loss = objective.loss(ForwardPass(student, batch), batch.targets[""])
    target = batch.targets[""]["text"]
    mine, theirs = student(batch), teacher(batch)
    said, taught = (m.read("text", h[target.slots]) for m, h in ((student, mine), (teacher, theirs)))
    p, q = (taught / 2).softmax(-1), (said / 2).softmax(-1)
    soft = 4 * (p * (p.log() - q.log())).sum(-1).mean()
    cosine = (mine * theirs).sum(-1) / (mine.norm(dim=-1) * theirs.norm(dim=-1))
    whole = 5 * soft + 2 * F.cross_entropy(said, target.values) + (1 - cosine).mean()
    assert math.isclose(float(loss.mean()), float(whole), rel_tol=1e-4)
    loss.mean().backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert float(softened(said, said, 2.0)) / len(said) == pytest.approx(0, abs=1e-6)


def test_a_student_takes_after_its_teacher():
    """A few steps with nothing else to learn from: its answers and its states come nearer."""
    student = twin("distilbert-base", SPEC, heads=["text"], seed=1)
    teacher = twin("bert-base", SPEC, heads=["text"])
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.mul_(2)
    objective, samples = given(Distilled(hard=0.0), teacher), runs(16)
    optimiser = torch.optim.AdamW(student.parameters(), lr=6e-3, fused=True)
    losses = []
    for step in range(40):
        batch = pack([ready(objective).prepare(s, np.random.default_rng([step, i])) for i, s in enumerate(samples)])
        loss = objective.loss(ForwardPass(student, batch), batch.targets[""])
        optimiser.zero_grad()
        loss.mean().backward()
        optimiser.step()
        losses.append([float(term.sum) / term.count for term in loss.terms])
    first, last = np.array(losses[0]), np.mean(losses[-5:], 0)
    assert (last < 0.7 * first).all()


def test_settings_are_plain_and_networks_stay():
    """config() is JSON and makes an equal objective; a data worker gets no network."""
    network = twin("bert-base", SPEC, heads=["text"])
    for objective in (given(Replaced(), network), given(Distilled(rate=0.3), network)):
        assert type(objective)(**json.loads(json.dumps(objective.config()))) == objective
        assert len(pickle.dumps(objective)) < 5000 < len(pickle.dumps(network))
    distilled = ready(Distilled(rate=0.3)).prepare(runs(1)[0], np.random.default_rng(0))
    assert same(distilled, ready(Masked(rate=0.3)).prepare(runs(1)[0], np.random.default_rng(0)))


def test_what_does_not_fit_is_refused():
    batch = pack([ready(Masked()).prepare(runs(1)[0], np.random.default_rng(0))])
    forward = ForwardPass(twin("bert-base", SPEC, heads=["text"]), batch)
    with pytest.raises(ConfigError, match=r"no generator yet"):
        Replaced().loss(forward, batch.targets[""])
    with pytest.raises(ConfigError, match=r"no teacher yet"):
        Distilled().loss(forward, batch.targets[""])
    with pytest.raises(ConfigError, match="expected one of one feature, a logit"):
        Replaced().predicts({"text": [SPEC], "replaced": [StreamSpec.discrete("replaced", 2, input=False)]})
    with pytest.raises(ConfigError, match="weight=-1"):
        Replaced(weight=-1)
    with pytest.raises(ConfigError, match="temperature=0; expected weights"):
        Distilled(temperature=0)
