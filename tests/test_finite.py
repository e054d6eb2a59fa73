"""NaN and infinity: what each policy does about them, that every rank agrees, and that a resumed run repeats it."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import pytest
import runs
import torch
from toys import Dots, Quadrants

from anyformer import checkpoint
from anyformer.batch import pack
from anyformer.errors import ConfigError, NonFiniteError
from anyformer.objectives import Prefix
from anyformer.training.finite import RollBack, Skip, Stop, make_policy, spoilt

pytestmark = [pytest.mark.usefixtures("toys"), pytest.mark.filterwarnings("ignore:.*not finite")]

SPOILT = "train-3"


class Spoil(L.Callback):
    """Writes what is not finite into a gradient at chosen steps."""

    def __init__(self, *steps: int, value: float = float("nan")) -> None:
        self.steps, self.value = steps, value

    def on_after_backward(self, trainer, pl_module):
        if trainer.global_step in self.steps:
            next(pl_module.parameters()).grad[0] = self.value


class Kept(L.Callback):
    """Weights after each step."""

    def __init__(self) -> None:
        self.after: dict[int, dict[str, torch.Tensor]] = {}

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.after[trainer.global_step] = runs.weights(pl_module)


def equal(one, other) -> bool:
    return all(torch.equal(one[name], other[name]) for name in other)


def fit(folder: Path, steps: int, policy: dict, spoil: L.Callback, resume: bool = False, stop: int = 0, **more):
    """A run of so many steps under a policy: the learner and its weights after each step. stop: end it there."""
    kept, learner = Kept(), runs.learner(not_finite=policy)
    trainer = runs.trainer(folder, steps, [spoil, kept, *([runs.stop_at(stop)] if stop else [])], **more)
    trainer.fit(learner, datamodule=runs.mixture(), ckpt_path="last" if resume else None)
    return learner, kept.after


def test_a_policy_is_read_from_data():
    """And a misspelt one is refused with the nearest."""
    assert type(make_policy({})) is Stop
    assert make_policy({"type": "skip", "most": 4}).most == 4
    assert make_policy({"type": "roll_back", "every": 7}).every == 7
    for bad, said in (
        ({"type": "skp"}, "Did you mean 'skip'"),
        ({"type": "skip", "mots": 3}, "Did you mean 'most'"),
        ({"type": "stop", "most": 3}, "setting of not_finite 'stop'"),
        ({"type": "skip", "most": -1}, "most=-1"),
        ({"type": "skip", "most": "3"}, "whole number"),
        ({"type": "roll_back", "every": 0}, "every=0"),
    ):
        with pytest.raises(ConfigError, match=said):
            make_policy(bad)


def test_a_skipped_update_changes_nothing_but_the_step(tmp_path):
    """Weights stay for one step, the rest of the run goes on; the checkpoint says what was skipped."""
    learner, after = fit(tmp_path, 5, {"type": "skip"}, Spoil(2))
    assert equal(after[3], after[2]) and not equal(after[4], after[3])
    assert [("step 2" in told, "words" in told) for told in learner.finite.dropped] == [(True, True)]
    state, weights = checkpoint.read_trainer(tmp_path / "last")
    assert state["not_finite"] == {"dropped": learner.finite.dropped}
    assert all(bool(tensor.isfinite().all()) for tensor in weights.values())


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("policy", [{"type": "skip"}, {"type": "roll_back", "every": 2}])
def test_a_resumed_run_drops_the_same(tmp_path, policy, accumulation):
    """Checkpoints lie before and behind what was dropped, and inside a stretch that is rolled back."""
    spoil, more = Spoil(1, 5), {"accumulate_grad_batches": accumulation}
    whole, _ = fit(tmp_path / "whole", 8, policy, spoil, **more)
    for stop in (3, 5, 6):
        folder = tmp_path / f"stopped-{stop}"
        fit(folder, 8, policy, spoil, stop=stop, **more)
        resumed, _ = fit(folder, 8, policy, spoil, resume=True, **more)
        assert equal(runs.weights(resumed), runs.weights(whole)), stop
        assert resumed.finite.dropped == whole.finite.dropped and len(whole.finite.dropped) == 2


def test_rolling_back_returns_to_the_last_kept_step(tmp_path):
    """Weights and moments are those of step 4; the step and the data go on."""
    learner, after = fit(tmp_path, 8, {"type": "roll_back", "every": 4}, Spoil(6, value=float("inf")))
    assert equal(after[7], after[4]) and not equal(after[6], after[4])
    assert not equal(after[8], after[7])
    assert "step 6" in learner.finite.dropped[0]


@pytest.mark.parametrize("policy", [{"type": "skip", "most": 2}, {"type": "roll_back", "most": 2, "every": 2}])
def test_more_than_allowed_stops_the_run(tmp_path, policy):
    with pytest.raises(NonFiniteError, match=r"step 3; the update was not applied\..* allows most=2"):
        fit(tmp_path, 6, policy, Spoil(1, 2, 3))


def test_what_a_resumed_run_has_dropped_counts(tmp_path):
    """A run that is resumed again and again does not start its count anew."""
    fit(tmp_path, 3, {"type": "skip", "most": 2}, Spoil(0, 1))
    with pytest.raises(NonFiniteError, match="most=2"):
        fit(tmp_path, 6, {"type": "skip", "most": 2}, Spoil(4), resume=True)


def test_a_spoilt_buffer_cannot_be_skipped(tmp_path):
    """A running mean that the forward pass has written into is not mended by leaving the update out."""

    class SpoilBuffer(Spoil):
        def on_after_backward(self, trainer, pl_module):
            super().on_after_backward(trainer, pl_module)
            if trainer.global_step in self.steps:
                pl_module.register_buffer("running", torch.tensor([float("nan")]))

    with pytest.raises(NonFiniteError, match=r"spoilt 'running'.*roll_back"):
        fit(tmp_path, 4, {"type": "skip"}, SpoilBuffer(2))


def test_losses_that_are_dropped_are_not_reported(tmp_path, monkeypatch):
    """The mean of a report would be NaN for all that it covers."""
    spoil_sample(monkeypatch)
    learner, _ = fit(tmp_path, 12, {"type": "skip", "most": 6}, Spoil(), log_every_n_steps=1000)
    assert learner.finite.dropped
    assert all(mean == mean for mean in learner.tally.means().values())


def spoil_sample(monkeypatch) -> None:
    """One sample of the task has a NaN that its tokenizer lets through."""
    plain = Quadrants._sample

    def sample(self, split, i, rng):
        made = plain(self, split, i, rng)
        if f"{split}-{i}" == SPOILT:
            made.values["cloud"][2, 1] = float("nan")
        return made

    monkeypatch.setattr(Quadrants, "_sample", sample)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_sample_is_named_and_no_other(tmp_path, monkeypatch, accumulation):
    spoil_sample(monkeypatch)
    with pytest.raises(NonFiniteError, match=rf"loss of quadrants .* Samples: quadrants {SPOILT}\. Lower"):
        fit(tmp_path, 12, {"type": "stop"}, Spoil(), accumulate_grad_batches=accumulation)


def test_spoilt_sequences_are_found_wherever_their_values_lie():
    """On both axes, behind other streams, in several items."""
    tokenizer, objective = Dots(), Prefix(target="answer")
    rng = torch.Generator().manual_seed(0)

    def example(bad: bool):
        cloud = torch.randn(4, 2, generator=rng).numpy()
        if bad:
            cloud[3, 0] = float("inf")
        return objective.prepare({"cloud": tokenizer.encode(cloud), "answer": tokenizer.encode(cloud[:2])}, rng)

    assert spoilt(pack([example(bad) for bad in (False, True, False, True)])) == [1, 3]
    assert spoilt(pack([example(False)])) == []


@pytest.mark.parametrize("steps", [(0,), (3,)])
def test_nothing_that_is_not_finite_is_committed(tmp_path, steps):
    """Whatever the policy, every checkpoint that the run wrote loads and is finite."""
    for policy in ({"type": "stop"}, {"type": "skip"}, {"type": "roll_back"}):
        folder = tmp_path / policy["type"]
        try:
            fit(folder, 6, policy, Spoil(*steps))
        except NonFiniteError:
            assert policy["type"] == "stop"
        for path in folder.glob("**/manifest.json"):
            state, weights = checkpoint.read_trainer(path.parent)
            moments = [t for s in state["optimizer_states"][0]["state"].values() for t in s.values()]
            assert all(bool(tensor.isfinite().all()) for tensor in [*weights.values(), *moments])


def test_policies_are_what_their_names_say():
    assert isinstance(make_policy({"type": "skip"}), Skip) and isinstance(make_policy({"type": "roll_back"}), RollBack)
