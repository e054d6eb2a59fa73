"""Objectives under a trainer: lengths for its plan, means over its steps, second networks beside its model, checks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import runs
import torch
from hypothesis import given
from hypothesis import strategies as st
from reading import TOKENIZERS, Logit, Read, Reading
from sentences import NAMES, ORDINARY, ROLES

import anyformer as af
from anyformer.architecture import Architecture, BackboneConfig, HeadConfig
from anyformer.batch import pack
from anyformer.contracts import Sample, prepare, ready
from anyformer.errors import CheckpointError, ConfigError, ContractError, LimitError, SampleError
from anyformer.model import ForwardPass, Network
from anyformer.objectives import (
    Choice,
    Classification,
    Continuation,
    Denoising,
    Distilled,
    ExtractiveAnswer,
    Masked,
    NextSentence,
    NextToken,
    Prefix,
    Pretraining,
    Replaced,
    ReturnConditioned,
    SentenceOrder,
    SequenceToSequence,
    Similarity,
    SpanCorruption,
    TokenClassification,
    Traversal,
)
from anyformer.registry import objectives, tasks, tokenizers
from anyformer.testing import check_task

TINY = {"dim": 16, "heads": 2, "depth": 2, "dropout": 0.1}
GENERATOR = {"backbone": {**TINY, "depth": 1}, "heads": {"text": {"tie": True, "bias": True}}}


def task_of(objective, given=("text",), **fields: str) -> Read:
    """A task of these fields; `given`: those that its samples have."""
    task = type("Reads", (Read,), {"fields": {"text": "text", **fields}, "given": given})()
    task.objective = objective
    return task


LABELLED = [
    task_of(Classification(), ("text", "label"), label="label"),
    task_of(Classification(), ("text", "other", "label"), other="text", label="label"),
    task_of(TokenClassification(), ("text", "labels"), labels="labels"),
    task_of(ExtractiveAnswer(context="text"), ("question", "text", "answer"), question="text", answer="answer"),
    task_of(Masked()),
    task_of(SequenceToSequence(), ("text", "target"), target="text"),
    task_of(SpanCorruption(rate=0.4)),
    task_of(SpanCorruption(rate=0.4, choice={"type": "each"})),
    task_of(SpanCorruption(marked=False)),
    task_of(Denoising()),
    task_of(Denoising(noise=[{"type": "infill", "rate": 0.9, "mean": 0.2}, {"type": "delete"}])),
    task_of(Continuation()),
    task_of(Traversal(), ("text", "label"), label="label"),
    task_of(NextToken()),
    task_of(Prefix("target"), ("text", "target"), target="text"),
    task_of(
        NextSentence(first="text", target="label"),
        ("text", "second", "other"),
        second="text",
        other="text",
        label="label",
    ),
    task_of(NextSentence(first="text", target="label"), ("text", "other"), other="text", label="label"),
    task_of(SentenceOrder(first="text", target="label"), label="label"),
    task_of(Pretraining({"type": "sentence_order", "first": "text", "target": "label"}), label="label"),
    task_of(Similarity(), ("text", "other", "label"), other="text", label="label"),
    task_of(
        Choice(answers=["text", "other"]),
        ("question", "text", "other", "choice"),
        question="text",
        other="text",
        choice="choice",
    ),
    task_of(Replaced(generator="x"), replaced="replaced"),
    task_of(Distilled(teacher="x")),
    task_of(ReturnConditioned(field="text", action="text")),
]
EXACT = (
    Masked,
    Distilled,
    Replaced,
    NextToken,
    Prefix,
    ReturnConditioned,
    Classification,
    TokenClassification,
    Traversal,
    Similarity,
    Choice,
)


ELSEWHERE = {  # tested in test_ctc.py, test_joint.py, test_crossing.py, test_objectives_unseen.py, test_quantised.py
    *("ctc", "ctc_and_attention", "spec_augment", "contrastive", "masked_autoencoder", "token_dropping", "quantised"),
}


def test_every_objective_is_here():
    here = {objectives.get(name) for name in objectives.installed() if name not in ELSEWHERE}
    assert {type(task.objective) for task in LABELLED} >= here


# Lengths


@pytest.mark.parametrize("task", LABELLED, ids=lambda task: type(task.objective).__name__)
@given(seed=st.integers(0, 2**32), length=st.integers(2, 24), wild=st.booleans())
def test_no_example_is_longer_than_announced(task, seed, length, wild):
    """Whatever stands in its texts; and just as long where nothing is left to chance or to a template."""
    rng = np.random.default_rng(seed)
    names = [n for n in NAMES if n not in ("mask", *(r for r in ROLES if r.startswith("sentinel")))]
    names = names if wild else [NAMES[i] for i in ORDINARY]
    values = {f: task._value(f, rng) for f in task.given}
    for field, kind in task.fields.items():
        if kind == "text" and field in values:
            values[field] = " ".join(rng.choice(names, length))
    if "labels" in values:
        values["labels"] = ["noun"] * length
    if "answer" in values:
        values["answer"] = (0, 1)
    try:
        example = prepare("it", task, TOKENIZERS, Sample("a", values), rng)
    except (SampleError, LimitError):
        return
    lengths = {f: TOKENIZERS[task.fields[f]].length(raw) for f, raw in values.items()}
    most = ready(task, TOKENIZERS).length(lengths)
    assert example.size <= most
    if isinstance(task.objective, EXACT) and not wild:
        assert example.size == most


def test_plans_hold_their_budget_with_both_axes(installed):
    """Every batch of a translation, source and target together, and nearly full."""
    mixture = af.Mixture({"text": {}}, {"reads": {"type": "translate"}}, token_budget=70)
    mixture.setup()
    loader = iter(mixture.train_dataloader())
    found = [b.tokens + b.source.tokens for b in (next(loader) for _ in range(10))]
    assert max(found) <= 70 and min(found) > 70 - 17


@pytest.fixture
def installed():
    translate = type(LABELLED[5])
    translate.default_objective = lambda self: SequenceToSequence()
    tokenizers._registered |= {"text": Reading, "replaced": Logit}
    tasks._registered |= {"read": Read, "translate": translate}
    yield
    for registry, names in ((tokenizers, ("text", "replaced")), (tasks, ("read", "translate"))):
        for name in names:
            del registry._registered[name]


# Checks


@pytest.mark.parametrize("task", LABELLED[:-3], ids=lambda task: type(task.objective).__name__)
def test_tasks_of_every_objective_keep_the_contract(task):
    kept = type(task)()
    type(task).default_objective = lambda self, o=task.objective: o
    check_task(kept, TOKENIZERS, samples=2)


class Longer(Classification):
    def length(self, lengths):
        return super().length(lengths) - 1


class LongerSource(SequenceToSequence):
    def prepare(self, tokens, rng):
        return super().prepare({**tokens, "again": tokens["text"]}, rng)


class Misled(Reading):
    def length(self, raw):
        return super().length(raw) + 1


@pytest.mark.parametrize(
    ("task", "objective", "given"),
    [
        (LABELLED[0], Longer(), TOKENIZERS),
        (LABELLED[5], LongerSource(), TOKENIZERS),
        (LABELLED[4], Masked(), {**TOKENIZERS, "text": Misled()}),
    ],
)
def test_wrong_lengths_are_told(task, objective, given):
    kind = type("Broken", (type(task),), {"default_objective": lambda self: objective})
    with pytest.raises(ContractError, match=r"'prepares its samples': expected .*slots"):
        check_task(kind(), given, samples=2)


# Means over a whole step


@pytest.mark.parametrize("task", [LABELLED[n] for n in (12, 18, 19)], ids=["traversal", "pretraining", "similarity"])
def test_four_micro_batches_have_the_gradient_of_one_batch(task):
    """In float64, where the parts hold unlike numbers of labels and of values."""
    specs = [spec for kind in ("text", "label") for spec in TOKENIZERS[kind].streams]
    torch.manual_seed(0)
    heads = {name: HeadConfig(bias=True) for name in ("text", "label")}
    network = Network(specs, Architecture(BackboneConfig(16, 2, depth=1), heads)).double()
    rng = np.random.default_rng(0)
    found = []
    for number, sample in enumerate(task.examples("train")[:12]):
        words = sample.values["text"].split()[: 3 + number % 6]
        values = {**sample.values, "text": " ".join(words)}
        found.append(prepare("it", task, TOKENIZERS, replace(sample, values=values), rng))
    whole, parts = pack(found), [pack(found[a:b]) for a, b in ((0, 1), (1, 3), (3, 4), (4, 12))]

    def gradient(batches) -> list[torch.Tensor]:
        network.zero_grad()
        for batch in batches:
            task.objective.loss(ForwardPass(network, batch), batch.targets["it"]).mean(whole.counts["it"]).backward()
        return [p.grad.clone() for p in network.parameters() if p.grad is not None]

    for one, many in zip(gradient([whole]), gradient(parts), strict=True):
        assert torch.allclose(one, many, rtol=0, atol=1e-10)


# Second networks


def electra(folder: Path, steps: int, callbacks=None, resume: bool = False) -> af.Learner:
    made = af.Learner(backbone={**TINY, "causal": False}, lr=5e-3, schedule={"type": "constant"})
    objective = {"type": "replaced", "generator": {**GENERATOR, "scale": True}}
    mixture = af.Mixture({"text": {}, "replaced": {}}, {"read": {"objective": objective}}, token_budget=64)
    run = runs.trainer(folder, steps, callbacks, accumulate_grad_batches=2)
    run.fit(made, datamodule=mixture, ckpt_path="last" if resume else None)
    return made


def test_a_generator_is_trained_with_the_model_and_goes_on_exactly(installed, tmp_path):
    """It learns, shares its embeddings, is kept with the run and not with the model, and a resumed run is bit-equal."""
    straight = electra(tmp_path / "straight", 6)
    electra(tmp_path / "parts", 6, [runs.stop_at(3)])
    resumed = electra(tmp_path / "parts", 6, resume=True)
    first, weights = electra(tmp_path / "one", 1).state_dict(), straight.state_dict()
    assert weights.keys() == resumed.state_dict().keys()
    own = [n for n in weights if n.startswith("beside.")]
    assert own and all(torch.equal(weights[n], resumed.state_dict()[n]) for n in weights)
    assert any(not torch.equal(weights[n], first[n]) for n in own if "blocks" in n)
    (generator,) = straight.beside
    assert generator.embedders["text"].table.weight is straight.model.embedders["text"].table.weight
    assert generator.heads["text"].weight is straight.model.embedders["text"].table.weight
    parameters = [p for group in straight.trainer.optimizers[0].param_groups for p in group["params"]]
    assert len(parameters) == len({id(p) for p in parameters}) == len(list(straight.parameters()))
    found = af.load(tmp_path / "straight")
    assert found.state_dict().keys() == {n.removeprefix("_model.") for n in weights if n.startswith("_model.")}
    assert list(found.heads) == ["replaced"]


def student(folder: Path, steps: int, teacher: Path, callbacks=None, resume: bool = False, **more) -> af.Learner:
    made = af.Learner(backbone={**TINY, "causal": False, "depth": 1}, start=str(teacher), **more)
    objective = {"type": "distilled", "teacher": str(teacher)}
    mixture = af.Mixture({"text": {}}, {"copy": {"objective": objective}}, start=str(teacher), token_budget=64)
    runs.trainer(folder, steps, callbacks).fit(made, datamodule=mixture, ckpt_path="last" if resume else None)
    return made


def test_a_teacher_is_read_and_never_kept(installed, tmp_path):
    """Neither in the optimiser nor in the checkpoint; read again when the run goes on, which is exact."""
    tasks._registered["copy"] = type(LABELLED[4])
    teacher = af.Model({"text": Reading()}, {**TINY, "causal": False}, ["text"])
    af.save(teacher, tmp_path / "teacher")
    try:
        straight = student(tmp_path / "straight", 5, tmp_path / "teacher", start_layers=[1])
        student(tmp_path / "parts", 5, tmp_path / "teacher", [runs.stop_at(2)], start_layers=[1])
        resumed = student(tmp_path / "parts", 5, tmp_path / "teacher", resume=True, start_layers=[1])
        begun = student(tmp_path / "none", 1, tmp_path / "teacher", start_layers=[1], lr=0.0)
        with pytest.raises(CheckpointError, match="2 layers were chosen for the model's 1"):
            student(tmp_path / "x", 1, tmp_path / "teacher", start_layers=[0, 1])
        with pytest.raises(CheckpointError, match="has no layer 7"):
            student(tmp_path / "x", 1, tmp_path / "teacher", start_layers=[7])
    finally:
        del tasks._registered["copy"]
    weights = straight.state_dict()
    assert all(torch.equal(tensor, resumed.state_dict()[name]) for name, tensor in weights.items())
    assert not len(straight.beside) and all(name.startswith("_model.") for name in weights)
    theirs = teacher.backbone.blocks[1].state_dict()
    mine = begun.model.backbone.blocks[0].state_dict()
    assert all(torch.equal(theirs[name], mine[name]) for name in theirs)


def test_networks_that_do_not_fit_are_refused(installed):
    model = af.Model(TOKENIZERS, TINY, ["replaced"])
    specs = {"text": Reading().streams, "replaced": Logit().streams}
    with pytest.raises(ConfigError, match="needs a generator"):
        Replaced().beside(model, specs, af.load)
    with pytest.raises(ConfigError, match="needs a teacher"):
        Distilled().beside(model, specs, af.load)
    with pytest.raises(ConfigError, match=r"8 wide, the model's 16.*embed_dim"):
        Replaced(generator={**GENERATOR, "backbone": {**TINY, "dim": 8}}).beside(model, specs, af.load)
