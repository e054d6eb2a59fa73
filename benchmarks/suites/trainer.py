"""What a trainer adds to a step, beside the model's own work."""

from __future__ import annotations

import contextlib
import io
import time
from tempfile import TemporaryDirectory
from typing import ClassVar

from anyformer.bench import Bar, Contender, Settings, Suite, Work

DIM, CLASSES = 32, 8


def mixture(s: Settings):
    """Four tasks in each batch, so that there are a dozen numbers to tell, and batches that cost little."""
    import torch

    import anyformer as af
    from anyformer.contracts import Metric, Sample, Task

    @af.register_task("bench_numbers")
    class Numbers(Task):
        fields: ClassVar = {"text": "text"}
        modality = "text"
        metrics = (Metric("none", True),)

        def default_objective(self):
            return af.NextToken()

        def examples(self, split):
            return [Sample(str(i), {"text": f"{i:04d}" * 2}) for i in range(256)]

        def score(self, model, samples):
            return iter(())

    torch.manual_seed(0)
    kinds = {name: {"type": "bench_numbers"} for name in s.tasks}
    return af.Mixture(tokenizers={"text": {"type": "characters"}}, tasks=kinds, token_budget=128)


def ours(s: Settings) -> Work:
    """Milliseconds a step that `Trainer.fit` takes longer than a loop by hand over the same batches, with losses,
    shares and speeds of each task every 50 steps, lines of progress, and clipping."""
    import lightning as L
    import torch

    import anyformer as af

    backbone = {"dim": DIM, "depth": 1, "heads": 2}

    def by_hand() -> float:
        data = mixture(s)
        data.setup()
        model = af.Model(data.tokenizers, backbone, data.heads())
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
        batches, start = iter(data.train_dataloader()), time.process_time()
        for _ in range(s.steps):
            batch = next(batches)
            forward = af.ForwardPass(model, batch)
            losses = [data.tasks[n].objective.loss(forward, t).mean(batch.counts[n]) for n, t in batch.targets.items()]
            torch.stack(losses).sum().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        return time.process_time() - start

    def by_trainer() -> float:
        with TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
            trainer = L.Trainer(
                accelerator="cpu", max_steps=s.steps, logger=L.pytorch.loggers.CSVLogger(folder), log_every_n_steps=50,
                callbacks=[Clock(), af.ProgressLines()], gradient_clip_val=1.0, enable_checkpointing=False,
                enable_model_summary=False, limit_val_batches=0, default_root_dir=folder,
            )  # fmt: skip
            trainer.fit(af.Learner(backbone), datamodule=mixture(s))
            return trainer.callbacks[0].spent

    Clock = clock()
    return Work(lambda: (by_trainer() - by_hand()) / s.steps * 1e3)


def clock() -> type:
    import lightning as L

    class Clock(L.Callback):
        """CPU seconds from the first step to the last one's end."""

        def on_train_start(self, trainer, module) -> None:
            self.start = time.process_time()

        def on_train_end(self, trainer, module) -> None:
            self.spent = time.process_time() - self.start

    return Clock


def lightning(s: Settings) -> Work:
    """The same of a plain module that logs five numbers at each step."""
    import lightning as L
    import torch
    from torch import nn

    Clock = clock()
    rows = torch.utils.data.TensorDataset(torch.randn(32 * s.steps, DIM), torch.zeros(32 * s.steps, dtype=torch.long))

    class Plain(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(DIM, 64), nn.ReLU(), nn.Linear(64, CLASSES))

        def training_step(self, batch, index):
            loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
            for n in range(5):
                self.log(f"metric_{n}", loss, prog_bar=n == 0)
            return loss

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), fused=True)

    def loader():
        return torch.utils.data.DataLoader(rows, 32)

    def by_hand() -> float:
        model = Plain()
        optimizer, start = model.configure_optimizers(), time.process_time()
        for x, y in loader():
            nn.functional.cross_entropy(model.net(x), y).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        return time.process_time() - start

    def by_trainer() -> float:
        quiet = (contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()))
        with TemporaryDirectory() as folder, quiet[0], quiet[1]:
            trainer = L.Trainer(
                accelerator="cpu", max_steps=s.steps, logger=L.pytorch.loggers.CSVLogger(folder), log_every_n_steps=50,
                callbacks=[Clock()], gradient_clip_val=1.0, enable_checkpointing=False, enable_model_summary=False,
                default_root_dir=folder,
            )  # fmt: skip
            trainer.fit(Plain(), loader())
            return trainer.callbacks[0].spent

    return Work(lambda: (by_trainer() - by_hand()) / s.steps * 1e3)


SUITE = Suite(
    title="What a trainer adds to a step, over the same loop by hand: metrics, progress and clipping.",
    unit="ms a step",
    contenders=[Contender("anyformer", ours), Contender("lightning, self.log five times", lightning)],
    cases={"five metrics or more": {}},
    full={"steps": 400, "tasks": ("first", "second", "third", "fourth")},
    toy={"steps": 3},
    amount=True,
    seconds=0.0,
    bars=[Bar("five metrics or more", at_most=1.0)],
    notes="Ours tells the loss, share and speed of each of four tasks, the tokens and the rate: fourteen numbers, "
    "every 50 steps. Preparing batches is in both loops.",
)
