"""Training that begins with what another run has learned: its weights, and the tokenizers that they belong to."""

from __future__ import annotations

import pytest
import runs
import torch

import anyformer as af
from anyformer.checkpoint import begin_with
from anyformer.errors import CheckpointError, ConfigError

pytestmark = pytest.mark.usefixtures("toys")


@pytest.fixture(scope="module")
def first(toys, tmp_path_factory):
    """A run on words alone, and its checkpoint."""
    folder = tmp_path_factory.mktemp("first")
    data = {"tokenizers": {"letters": {}}, "tasks": {"words": {}}}
    return runs.fit(folder, 3, data=data), folder / "last"


def continued(tmp_path, start, steps=0, **more) -> af.Learner:
    """A learner on pictures and words that begins with `start`, after so many steps (0: as it begins)."""
    learned = runs.learner(start=str(start), **more)
    stop = [] if steps else [runs.Within(0, lambda trainer: kept.update(runs.weights(learned)))]
    kept: dict[str, torch.Tensor] = {}
    runs.trainer(tmp_path, max(steps, 1), stop).fit(learned, datamodule=runs.mixture(start=str(start)))
    learned.began = kept
    return learned


def test_shared_weights_are_taken_and_new_ones_begin_at_random(first, tmp_path):
    """The stack and the letters' table come from the checkpoint, the dots' embedder is new and not zero."""
    old, path = first
    began = continued(tmp_path, path).began
    shared = set(began) & set(old.state_dict())
    assert {name for name in shared if ".backbone." in name} and any(".embedders.letters." in name for name in shared)
    for name in shared:
        assert torch.equal(began[name], old.state_dict()[name]), name
    new = {name: value for name, value in began.items() if name not in shared and name.endswith("weight")}
    assert new and all(bool(value.any()) for value in new.values())


def test_the_tokenizers_are_the_checkpoints(first, tmp_path):
    """Fitted on other data, the same letters would have other numbers."""
    old, path = first
    mixture = runs.mixture(start=str(path))
    assert mixture.tokenizers["letters"].fingerprint() == old.model.tokenizers["letters"].fingerprint()
    assert not runs.mixture().tokenizers["letters"].fitted


def test_training_goes_on_from_there_and_the_checkpoint_stays(first, tmp_path):
    old, path = first
    learned = continued(tmp_path, path, steps=2)
    name = next(name for name in old.state_dict() if ".backbone." in name and name.endswith("weight"))
    assert not torch.equal(learned.state_dict()[name], old.state_dict()[name])
    assert torch.equal(af.load(path).state_dict()[name.removeprefix("_model.")], old.state_dict()[name])


def test_another_shape_is_refused_by_name(first, tmp_path):
    with pytest.raises(CheckpointError, match=r"weight '.*' has the shape \[.*\], the model's \[.*\]\. Build"):
        continued(tmp_path, first[1], backbone={"dim": 8, "heads": 2, "depth": 1})


def test_another_tokenizer_is_refused(first, tmp_path):
    """A mixture without `start` would give the weights to other letters."""
    learned = runs.learner(start=str(first[1]))
    data = {"tokenizers": {"letters": {"lower": True}}, "tasks": {"words": {}}}
    with pytest.raises(CheckpointError, match=r"tokenizer 'letters' encodes otherwise.*Mixture\(start="):
        runs.trainer(tmp_path, 1).fit(learned, datamodule=runs.mixture(**data))


def test_a_model_that_exists_needs_no_start(first):
    """It would be ignored, or overwrite what was given."""
    with pytest.raises(ConfigError, match="has its weights already"):
        runs.learner(backbone=None, model=first[0].model, start=str(first[1]))


def test_names_that_the_checkpoint_lacks_are_told(first):
    tokenizers = dict(first[0].model.tokenizers)
    model = af.Model(tokenizers, {"dim": 16, "heads": 2, "depth": 2}, ["letters"])
    lacking = begin_with(model, first[1])
    assert lacking and all(".1." in name for name in lacking), "the second block alone is new"
