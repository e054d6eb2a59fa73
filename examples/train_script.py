"""Training from a script of one's own: a new task, Lightning's trainer, and the public API.

    python examples/train_script.py                 # 200 steps, about a minute on one core
    python examples/train_script.py 20 runs/short   # so many steps, into this folder

It ends with a report: how many held-out rows of digits the model sorts without a mistake (all, after 200 steps).
"""

import random
import sys
from dataclasses import dataclass
from typing import ClassVar

import lightning as L

import anyformer as af


@af.register_task("sorting")
@dataclass
class Sorting(af.Task):
    """Text to text: "5 0 3 1" in, "0 1 3 5" out."""

    fields: ClassVar = {"given": "text", "answer": "text"}  # field: tokenizer, in the order of the sequence
    modality: ClassVar = "text"
    metrics: ClassVar = (af.Metric("accuracy", higher_is_better=True),)

    def default_objective(self):
        return af.Prefix(target="answer")

    def examples(self, split):
        rng = random.Random(split)
        rows = [rng.choices("0123456789", k=4) for _ in range(4000 if split == "train" else 100)]
        return [af.Sample(str(i), {"given": " ".join(r), "answer": " ".join(sorted(r))}) for i, r in enumerate(rows)]

    def score(self, model, samples):
        for sample, said in zip(samples, model.complete("sorting", self, samples, "answer", max_new=10), strict=True):
            yield af.Score(sample.id, "accuracy", float(said == sample.values["answer"]))


steps = int(sys.argv[1]) if len(sys.argv) > 1 else 200
folder = sys.argv[2] if len(sys.argv) > 2 else "runs/sorting"

mixture = af.Mixture(tokenizers={"text": {"vocab_size": 275}}, tasks={"sorting": {}}, token_budget=1024)
learner = af.Learner(backbone={"dim": 64, "depth": 2, "heads": 4}, lr=3e-3, schedule={"warmup_steps": 30})
trainer = L.Trainer(
    accelerator="cpu",
    max_steps=steps,
    default_root_dir=folder,
    limit_val_batches=0,
    logger=False,
    enable_model_summary=False,
    plugins=[af.CheckpointDirectory()],
    callbacks=[af.Checkpoints(), af.ProgressLines()],
)
trainer.fit(learner, datamodule=mixture)

model = af.load(folder)
print(af.evaluate(model, {"tasks": {"sorting": {}}}, f"{folder}/report").table())
