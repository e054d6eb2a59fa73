"""Which parts of a model train: frozen ones, adapters, and beginnings that take a part alone."""

from __future__ import annotations

import math

import pytest
import runs
import torch

import anyformer as af
from anyformer.checkpoint import begin_with
from anyformer.errors import CheckpointError, ConfigError
from anyformer.model.parts import freeze, in_parts
from anyformer.training.adapters import Adapters, layers, merged, parted


@pytest.fixture(autouse=True)
def toys():
    with runs.registered():
        yield


@pytest.fixture
def model(toys) -> af.Model:
    mixture = runs.mixture()
    mixture.setup()
    torch.manual_seed(0)
    return af.Model(mixture.tokenizers, {"dim": 16, "heads": 2, "depth": 2}, mixture.heads())


def fit(folder, steps=4, stop=(), resume=False, **settings) -> af.Learner:
    learned = runs.learner(**settings)
    ckpt = "last" if resume else None
    runs.trainer(folder, steps, list(stop)).fit(learned, datamodule=runs.mixture(), ckpt_path=ckpt)
    return learned


def changed(before: af.Model, after: af.Model) -> set[str]:
    other = after.state_dict()
    return {name for name, value in before.state_dict().items() if not torch.equal(value, other[name])}


# ── Freezing ──


def test_what_is_frozen_stays_and_norms_do_not(tmp_path):
    """Lu et al.: of the stack only norms are trained, and everything that leads in and out of it."""
    start = fit(tmp_path / "start", steps=1).model
    learned = fit(tmp_path / "run", start=str(tmp_path / "start"), freeze=["backbone"], start_parts=[]).model
    moved = changed(start, learned)
    stack = {name for name in moved if name.startswith("backbone.")}
    assert stack and all("norm" in name for name in stack)
    assert {"embedders", "heads"} <= {name.split(".")[0] for name in moved}


def test_norms_and_one_streams_embedder_can_be_frozen_too(model):
    freeze(model, ["backbone", "embed.letters"], norms=True)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert not any(in_parts(name, ["backbone", "embed.letters"]) for name in trained)
    assert any(name.startswith("embedders.dots") for name in trained)


def test_parts_that_are_not_there_are_named(model):
    with pytest.raises(ConfigError, match="backbone"):
        freeze(model, ["backbon"])
    with pytest.raises(ConfigError, match=r"embed\.letters"):
        freeze(model, ["embed.leters"])
    with pytest.raises(ConfigError, match="nothing of the model to train"):
        freeze(model, ["backbone", "embed", "head"], norms=True)


def test_a_part_within_a_part(model):
    freeze(model, ["backbone.blocks.0"])
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen and all(name.startswith("backbone.blocks.0.") for name in frozen)


def test_a_frozen_run_resumes_exactly(tmp_path):
    whole = fit(tmp_path / "whole", steps=6, freeze=["backbone"])
    fit(tmp_path / "parts", steps=6, stop=[runs.stop_at(3)], freeze=["backbone"])
    resumed = fit(tmp_path / "parts", steps=6, resume=True, freeze=["backbone"])
    assert not changed(whole.model, resumed.model)


# ── Beginning with a part ──


def test_only_the_chosen_parts_begin_with_another(model, tmp_path):
    """The stack comes along, while streams of the same names may mean something else."""
    af.save(model, tmp_path / "one")
    torch.manual_seed(1)
    other = af.Model(model.tokenizers, model.architecture.backbone, list(model.architecture.heads))
    model.tokenizers["letters"] = type(model.tokenizers["letters"])("letters")
    lacking = begin_with(other, tmp_path / "one", parts=["backbone"])
    assert all(name.startswith("backbone.") != (name in lacking) for name in other.state_dict())
    assert all(torch.equal(other.state_dict()[n], v) for n, v in model.state_dict().items() if n not in lacking)
    with pytest.raises(ConfigError, match="backbone"):
        begin_with(other, tmp_path / "one", parts=["bckbone"])
    with pytest.raises(CheckpointError, match="no weight of the model's backbone"):
        begin_with(other, tmp_path / "one", parts=["embed"])


# ── Adapters ──


@pytest.fixture
def peft():
    return pytest.importorskip("peft")


def test_adapters_begin_as_nothing_and_only_they_train_in_what_they_adapt(peft, model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    freeze(model, ["backbone"])
    Adapters.of({"rank": 2}).attach(model)
    found = merged(model, model.state_dict())
    assert all(torch.equal(found[name], value) for name, value in before.items())
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    stack = {name for name in trained if name.startswith("backbone.")}
    assert any("lora_A" in name for name in stack)
    assert all("lora" in name or "norm" in name for name in stack)
    assert any(name.startswith("embedders.") for name in trained), "what is not frozen trains on"


def test_merging_is_the_published_equation_and_parting_undoes_it(peft, model):
    """W + α/r · B·A, and back to the last bit."""
    Adapters.of({"rank": 2, "alpha": 6}).attach(model)
    for _, layer in layers(model):
        torch.nn.init.normal_(layer.lora_B["default"].weight)
    state = model.state_dict()
    found = merged(model, state)
    name, layer = next(layers(model))
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    assert torch.allclose(found[f"{name}.weight"], layer.base_layer.weight + 3 * b @ a, atol=1e-5)
    back = parted(found, model)
    assert back.keys() == state.keys() and all(torch.equal(back[key], state[key]) for key in state)


def test_a_run_with_adapters_resumes_exactly_and_its_checkpoint_is_a_plain_model(peft, tmp_path):
    settings = {"freeze": ["backbone"], "lora": {"rank": 2, "alpha": 4}}
    whole = fit(tmp_path / "whole", steps=6, **settings)
    fit(tmp_path / "parts", steps=6, stop=[runs.stop_at(3)], **settings)
    resumed = fit(tmp_path / "parts", steps=6, resume=True, **settings)
    assert not changed(whole.model, resumed.model)
    assert any(float(layer.lora_B["default"].weight.detach().abs().max()) > 0 for _, layer in layers(whole.model))
    plain = af.load(tmp_path / "whole")
    assert not any("lora" in name for name in plain.state_dict())
    found = merged(whole.model, whole.model.state_dict())
    assert all(torch.equal(found[name], value) for name, value in plain.state_dict().items())


def test_adapters_of_another_run_are_refused(peft, tmp_path):
    fit(tmp_path, steps=2)
    with pytest.raises(ConfigError, match="settings of `lora`"):
        fit(tmp_path, steps=4, resume=True, lora={"rank": 2})


def test_wrong_settings_of_adapters_are_refused(model):
    with pytest.raises(ConfigError, match="rank"):
        Adapters.of({"rnk": 2})
    with pytest.raises(ConfigError, match="rank=0"):
        Adapters.of({"rank": 0})
    with pytest.raises(ConfigError, match="qkv"):
        Adapters.of({"weights": ["query"]}).attach(model)
    assert math.isclose(Adapters.of({}).alpha, 16)
