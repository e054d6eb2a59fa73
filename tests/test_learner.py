"""Training: the loss is what its counts say, every Lightning tool works, and a bad number stops the step."""

from __future__ import annotations

import csv
import math
from itertools import islice
from types import SimpleNamespace

import lightning as L
import pytest
import runs
import torch
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from toys import Dots

import anyformer as af
from anyformer.errors import ConfigError, NonFiniteError
from anyformer.model import ForwardPass
from anyformer.training.mixture import Reference
from anyformer.training.preparation import Preparation
from anyformer.training.schedules import make_schedule

pytestmark = pytest.mark.usefixtures("toys")

STILL = {"backbone": {"dim": 16, "heads": 2, "depth": 2}}  # no dropout


class Gradients(L.Callback):
    """Keeps what the optimiser was given at each step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        self.steps.append({n: p.grad.clone() for n, p in pl_module.named_parameters() if p.grad is not None})


# Loss accounting


def gradient(monkeypatch, tmp_path, windows: list[list[list[Reference]]], **tasks) -> dict[str, torch.Tensor]:
    """The gradient of one step over a given window of micro-batches."""
    window = windows[0]

    def batches(self, start=0):
        return iter(window * 2)

    monkeypatch.setattr("anyformer.training.mixture.Plan.batches", batches)
    kept = Gradients()
    run = runs.trainer(tmp_path, 1, [kept], accumulate_grad_batches=len(window))
    run.fit(runs.learner(**STILL), datamodule=runs.mixture(tasks=tasks or {"words": {}, "quadrants": {}}))
    return kept.steps[0]


def refer(task: str, *indices: int) -> list[Reference]:
    return [Reference(task, index, 0) for index in indices]


def test_accumulation_changes_nothing(monkeypatch, tmp_path):
    """Three unequal micro-batches, one without one of the tasks, give the gradient of one big batch."""
    parts = [refer("words", 0, 1, 2), refer("words", 3) + refer("quadrants", 0), refer("quadrants", 1, 2, 3, 4)]
    whole = gradient(monkeypatch, tmp_path, [[[reference for part in parts for reference in part]]])
    split = gradient(monkeypatch, tmp_path, [parts])
    assert whole.keys() == split.keys()
    for name, expected in whole.items():
        assert torch.allclose(split[name], expected, rtol=0, atol=1e-6 * max(1.0, float(expected.abs().max()))), name
    naive = [gradient(monkeypatch, tmp_path, [[part]]) for part in parts]
    some = "_model.backbone.blocks.0.layers.0.norm.weight"
    some = some if some in whole else next(n for n in whole if "backbone" in n)
    mean = torch.stack([one[some] for one in naive]).mean(0)
    assert not torch.allclose(mean, whole[some], atol=1e-4), "averaging batches would pass too"


def test_each_task_weighs_what_it_was_given(monkeypatch, tmp_path):
    """The gradient of the mixture is the sum of its tasks' mean losses' gradients, times their loss weights."""
    words, quadrants = refer("words", 0, 1, 2), refer("quadrants", 0)
    settings = {"words": {"loss_weight": 0.25}, "quadrants": {"loss_weight": 3}}
    both = gradient(monkeypatch, tmp_path, [[words + quadrants]], **settings)
    alone = [gradient(monkeypatch, tmp_path, [[part]]) for part in (words, quadrants)]
    for name, found in both.items():
        zero = torch.zeros_like(found)
        expected = 0.25 * alone[0].get(name, zero) + 3 * alone[1].get(name, zero)
        assert torch.allclose(found, expected, atol=1e-6 * max(1.0, float(expected.abs().max()))), name


def test_a_batch_without_targets_is_a_step_without_loss(monkeypatch, tmp_path):
    """A mixture may deal a batch in which nothing is predicted; it is no error and teaches nothing."""
    monkeypatch.setattr(af.NextToken, "prepare", lambda self, tokens, rng: af.Example(tokens["text"], {}))
    kept = Gradients()
    data = {"tokenizers": {"letters": {}}, "tasks": {"words": {}}}
    monkeypatch.setattr(af.NextToken, "predicts", lambda self, specs: ["letters"])
    runs.fit(tmp_path, 1, [kept], data=data)
    assert all(not bool(g.any()) for g in kept.steps[0].values())


# Lightning's own tools


def test_training_learns(tmp_path):
    """The alphabet's order is learned from nothing: far below the uniform loss."""
    run = runs.trainer(tmp_path, 100, log_every_n_steps=10)
    data = runs.mixture(token_budget=160, tasks={"words": {}, "quadrants": {}})
    run.fit(runs.learner(**STILL), datamodule=data)
    assert float(run.callback_metrics["train/words"]) < 0.6 * math.log(28)
    assert float(run.callback_metrics["train/quadrants"]) < 0.8 * math.log(3)


@pytest.mark.parametrize("kind", [CSVLogger, TensorBoardLogger])
def test_loggers_receive_each_tasks_loss(tmp_path, kind):
    """At logging steps, train/<task> is the mean over the values since the last one; val/<task> at validation."""
    logger = kind(tmp_path, name="log", version="v")
    runs.fit(
        tmp_path, 6, [LearningRateMonitor()], logger=logger, log_every_n_steps=2,
        limit_val_batches=1.0, val_check_interval=3, check_val_every_n_epoch=None,
    )  # fmt: skip
    seen = _csv(logger) if kind is CSVLogger else _events(logger)
    for name in ("train/words", "train/quadrants"):
        assert len(seen[name]) == 3
        assert all(0 < value < 20 for value in seen[name])
    for name in ("val/words", "val/quadrants"):
        assert len(seen[name]) == 2
    assert seen["lr"][0] == pytest.approx(1e-2 * 2 / 3)
    assert all(value <= 2 * 64 for value in seen["train/tokens"])


def _csv(logger: CSVLogger) -> dict[str, list[float]]:
    with open(f"{logger.log_dir}/metrics.csv") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows if row[name]] for name in rows[0]}


def _events(logger: TensorBoardLogger) -> dict[str, list[float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(logger.log_dir)
    events.Reload()
    return {name: [event.value for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_validation_is_the_mean_over_predicted_values(tmp_path):
    """val/<task> weighs each predicted value alike, however the split was cut into batches."""
    found = []
    for budget in (32, 512):
        run = runs.trainer(tmp_path, 1, limit_val_batches=1.0)
        learned = runs.learner(**STILL)
        (metrics,) = run.validate(learned, datamodule=runs.mixture(token_budget=budget), verbose=False)
        found.append(metrics)
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    mixture = run.datamodule
    samples = Preparation(mixture.tasks, mixture.tokenizers, "validation", 0)
    singly = [samples.batch(refer("words", index)) for index in range(30)]
    with torch.no_grad():
        losses = [learned.eval().losses(ForwardPass(learned.model, batch))["words"] for batch in singly]
    mean = sum(float(loss.sum) for loss in losses) / sum(loss.count for loss in losses)
    assert found[0]["val/words"] == pytest.approx(mean, rel=1e-5)


def test_test_and_predict_run(tmp_path):
    run, learned = runs.trainer(tmp_path, 2), runs.learner()
    run.fit(learned, datamodule=runs.mixture())
    (metrics,) = run.test(learned, datamodule=run.datamodule, verbose=False)
    assert set(metrics) == {"test/words", "test/quadrants"}
    told = run.predict(learned, datamodule=run.datamodule)
    assert {key for batch in told for key in batch["keys"]} == {f"test-{i}" for i in range(30)}
    assert all(isinstance(value, float) for batch in told for name, value in batch.items() if name != "keys")


def test_early_stopping_and_best_checkpoints_work(tmp_path):
    """Callbacks that monitor a held-out loss, and `save_top_k` directories that load."""
    keep = af.Checkpoints(monitor="val/words", save_top_k=2, every_n_train_steps=2, filename="{step}")
    stop = EarlyStopping("val/words", patience=1, mode="max")  # the loss falls, so "max" never improves
    run = runs.trainer(
        tmp_path, 40, limit_val_batches=2, val_check_interval=2, check_val_every_n_epoch=None,
        num_sanity_val_steps=0, callbacks=[keep, stop],
    )  # fmt: skip
    run.fit(runs.learner(), datamodule=runs.mixture())
    assert run.global_step < 40
    kept = [path.name for path in tmp_path.iterdir() if path.name.startswith("step=")]
    assert len(kept) == 2
    assert all(af.load(tmp_path / name) for name in kept)


def test_bf16_runs_and_stays_near_fp32(tmp_path):
    """Autocast changes precision, not the result: close losses, and the weights stay fp32."""
    losses = {}
    for precision in ("32-true", "bf16-mixed"):
        run, learned = runs.trainer(tmp_path, 3, precision=precision, log_every_n_steps=3), runs.learner(**STILL)
        run.fit(learned, datamodule=runs.mixture())
        assert all(p.dtype == torch.float32 for p in learned.parameters())
        losses[precision] = float(run.callback_metrics["train/words"])
    assert losses["bf16-mixed"] == pytest.approx(losses["32-true"], rel=0.02)
    assert losses["bf16-mixed"] != losses["32-true"]


def test_progress_lines_tell_step_speed_losses_and_shares(tmp_path, capsys):
    runs.fit(tmp_path, 4, [af.ProgressLines(every_seconds=0)], enable_progress_bar=True)
    said = capsys.readouterr().err
    assert "M parameters on words, quadrants" in said
    assert said.count("tokens/s") >= 4
    assert "step 4/4" in said
    line = next(line for line in said.splitlines() if "step 1/4" in line)
    shares = [int(part.split("%")[0]) for part in line.split("(")[1:]]
    assert sum(shares) == pytest.approx(100, abs=1)


def test_an_existing_model_goes_on(tmp_path):
    """`Learner(model=...)` trains what it was given rather than a new one."""
    runs.fit(tmp_path / "first", 3)
    model = af.load(tmp_path / "first")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    learned = af.Learner(model=model, lr=1e-3, schedule={"type": "constant"})
    data = runs.mixture(tokenizers=model.tokenizers)
    runs.trainer(tmp_path / "second", 1).fit(learned, datamodule=data)
    assert learned.model is model
    moved = [float((tensor - before[name]).abs().max()) for name, tensor in model.state_dict().items()]
    assert 0 < max(moved) <= 2e-3


def test_a_model_is_not_trained_on_another_vocabulary(tmp_path):
    """A mixture that fits tokenizers of its own would scramble every id without a word."""
    runs.fit(tmp_path, 1)
    model = af.load(tmp_path)
    model.tokenizers["letters"].restore({"alphabet.txt": b"zyx"})
    with pytest.raises(ConfigError, match=r"another tokenizer 'letters'.*tokenizers=model.tokenizers"):
        runs.trainer(tmp_path / "second", 1).fit(af.Learner(model=model), datamodule=runs.mixture())


def test_precisions_that_cast_the_weights_are_refused_in_a_sentence(tmp_path):
    with pytest.raises(ConfigError, match="precision='bf16-true'; expected one of 32-true, bf16-mixed"):
        runs.fit(tmp_path, 1, precision="bf16-true")


def test_two_owners_of_last_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="two Checkpoints"):
        runs.fit(tmp_path, 1, [af.Checkpoints(every_n_train_steps=n) for n in (3, 7)])


def test_accumulated_losses_are_logged_once_a_step(tmp_path):
    """The tally of a logging step covers its whole window, not the last micro-batch alone."""
    logger = CSVLogger(tmp_path / "log")
    runs.fit(tmp_path, 3, logger=logger, log_every_n_steps=1, accumulate_grad_batches=4)
    (file,) = (tmp_path / "log").rglob("metrics.csv")
    rows = list(csv.DictReader(file.open()))
    tokens = [float(row["train/tokens"]) for row in rows]
    batches = list(islice(iter(_loader(tmp_path)), 12))
    assert tokens == [sum(b.tokens for b in batches[i : i + 4]) for i in (0, 4, 8)]


def _loader(folder):
    data = runs.mixture()
    data.setup()
    return data.train_dataloader()


def test_a_learner_needs_a_mixture_and_one_source_of_its_model(tmp_path):
    with pytest.raises(ConfigError, match="either backbone settings or a preset, or an existing model"):
        af.Learner()
    with pytest.raises(ConfigError, match="trains on a Mixture"):
        runs.trainer(tmp_path, 1).fit(runs.learner(), train_dataloaders=[1])


def test_the_seed_decides_weights_and_dropout(tmp_path):
    """Equal seeds train equal models whatever the global generator was; other seeds others."""
    ends = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(noise)
        ends.append(runs.fit(tmp_path, 2, data={"seed": seed}).state_dict())
    assert all(torch.equal(ends[0][n], ends[1][n]) for n in ends[0])
    assert any(not torch.equal(ends[0][n], ends[2][n]) for n in ends[0])


# Numbers that are not finite


def spoilt_encode(self, raw):
    tokens = self.plain_encode(raw)
    tokens.streams["dots"].values[0] = float("nan")
    return tokens


@pytest.fixture
def spoilt_dots(monkeypatch):
    monkeypatch.setattr(Dots, "plain_encode", Dots.encode, raising=False)
    monkeypatch.setattr(Dots, "encode", spoilt_encode)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_loss_that_is_not_finite_stops_the_step(tmp_path, monkeypatch, spoilt_dots, accumulation):
    """The error names the task and its samples and none of the others; no weight has moved."""
    learned = runs.learner()
    monkeypatch.setattr(learned, "on_train_start", lambda: setattr(learned, "before", runs.weights(learned)))
    with pytest.raises(
        NonFiniteError, match=r"loss of quadrants is not finite at step 0; .* Samples: quadrants train-"
    ) as e:
        runs.trainer(tmp_path, 3, accumulate_grad_batches=accumulation).fit(learned, datamodule=runs.mixture())
    assert "words" not in str(e.value)
    assert all(torch.equal(tensor, learned.before[name]) for name, tensor in learned.state_dict().items())
    assert not (tmp_path / "last").exists()


@pytest.mark.parametrize("clipping", [None, 1.0, "value"])
def test_a_gradient_that_is_not_finite_stops_the_step(tmp_path, clipping):
    """A finite loss may have an infinite gradient; with or without clipping, no weight moves, and it is named."""
    learned = runs.learner()

    class Spoil(L.Callback):
        def on_after_backward(self, trainer, pl_module):
            if trainer.global_step == 1:
                pl_module.before = runs.weights(pl_module)
                dict(pl_module.named_parameters())["_model.backbone.final_norm.weight"].grad[0] = float("inf")

    more = {"gradient_clip_val": 1.0, "gradient_clip_algorithm": "value"} if clipping == "value" else {}
    more = more or {"gradient_clip_val": clipping}
    said = (
        r"gradient of _model\.backbone\.final_norm\.weight from .*words.* is not finite at step 1; .*Samples: .*train-"
    )
    with pytest.raises(NonFiniteError, match=said):
        runs.trainer(tmp_path, 3, [Spoil()], **more).fit(learned, datamodule=runs.mixture())
    assert all(torch.equal(tensor, learned.before[name]) for name, tensor in learned.state_dict().items())


def test_gradients_are_clipped(tmp_path):
    """By norm, over all parameters together."""
    kept = []

    class Keep(L.Callback):
        def on_before_zero_grad(self, trainer, pl_module, optimizer):
            grads = [p.grad.norm() for p in pl_module.parameters() if p.grad is not None]
            kept.append(float(torch.stack(grads).norm()) if grads else None)

    runs.fit(tmp_path, 3, [Keep()], gradient_clip_val=0.05)
    norms = [norm for norm in kept if norm]
    assert norms
    assert max(norms) == pytest.approx(0.05, rel=1e-3)


# Schedules and time


def test_warmup_then_cosine():
    rate = make_schedule({"type": "warmup_cosine", "warmup_steps": 10, "floor": 0.1}, 110)
    assert [rate(s) for s in range(10)] == pytest.approx([(s + 1) / 10 for s in range(10)])
    assert rate(10) == pytest.approx(1.0)
    assert rate(60) == pytest.approx(0.55)
    assert rate(35) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)
    assert rate(110) == rate(500) == pytest.approx(0.1)


def test_inverse_square_root():
    rate = make_schedule({"type": "inverse_square_root", "warmup_steps": 100}, 10**6)
    assert rate(49) == pytest.approx(0.5)
    assert max(rate(s) for s in range(1000)) == rate(99) == pytest.approx(1.0)
    assert rate(399) == pytest.approx(0.5)
    assert make_schedule({"type": "inverse_square_root", "warmup_steps": 0}, 10)(3) == pytest.approx(0.5)


def test_constant_after_warmup():
    rate = make_schedule({"type": "constant", "warmup_steps": 4}, 10)
    assert [rate(s) for s in (0, 3, 4, 10**6)] == [0.25, 1, 1, 1]


def test_wrong_schedules_are_refused_by_name():
    with pytest.raises(ConfigError, match=r"Unknown schedule 'cosin'.*Did you mean"):
        make_schedule({"type": "cosin"}, 10)
    with pytest.raises(ConfigError, match=r"'warmup'.*Did you mean 'warmup_steps'"):
        make_schedule({"warmup": 3}, 10)


@pytest.mark.parametrize("max_steps", [20, -1])
def test_the_optimiser_follows_the_schedule(tmp_path, max_steps):
    """The rate of each step is the base rate times the schedule's factor; norms and biases do not decay."""
    rates = []
    stop = runs.At(8, lambda trainer: setattr(trainer, "should_stop", True))

    class Keep(L.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            rates.append(optimizer.param_groups[0]["lr"])

    learned = runs.fit(tmp_path, max_steps, [Keep(), stop])
    expected = make_schedule({"warmup_steps": 3}, max_steps if max_steps > 0 else 10**9)
    assert rates == pytest.approx([1e-2 * expected(s) for s in range(8)])
    decayed, others = learned.trainer.optimizers[0].param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert all(p.dim() >= 2 for p in decayed["params"])
    assert all(p.dim() < 2 for p in others["params"])
    assert learned.trainer.optimizers[0].defaults["fused"]


def test_a_time_budget_stretches_the_schedule_and_stops(tmp_path, monkeypatch):
    """On a machine that makes a step in 0.1 s, 3 s are 30 steps, and the cosine ends there."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("anyformer.training.progress.time", SimpleNamespace(monotonic=lambda: clock.now))
    rates = []

    class Tick(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, *rest):
            clock.now += 0.1
            rates.append(pl_module.rate(trainer.global_step))

    learned = runs.fit(tmp_path, -1, [Tick(), af.TimeBudget(minutes=3 / 60)])
    assert learned.trainer.global_step == 30
    assert learned.rate.total_steps == 30
    expected = make_schedule({"warmup_steps": 3}, 30)
    assert rates[1:] == pytest.approx([expected(s) for s in range(1, 30)], abs=0.02)


def test_windows_are_walked_once(tmp_path):
    """The trainer sees the plan's batches in their order, none twice, with the accumulation of its own."""
    keys = []

    class Keep(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            keys.append(sorted(zip(batch.tasks, batch.keys, strict=True)))

    runs.fit(tmp_path, 4, [Keep()], accumulate_grad_batches=2)
    mixture = runs.mixture()
    mixture.setup()
    plain = [sorted(zip(b.tasks, b.keys, strict=True)) for b in islice(mixture.train_dataloader(), 8)]
    assert keys == plain
