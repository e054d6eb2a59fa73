"""Pictures and sounds written out by one stack, in one vocabulary: what one modality is told in serves the other."""

from __future__ import annotations

import corpora
import numpy as np
import pytest

import anyformer as af
from anyformer import presets
from anyformer.contracts import prepare
from anyformer.objectives import CTC, CTCAndAttention, Prefix, SequenceToSequence
from anyformer.training import Checkpoints
from anyformer.training.experiment import read
from anyformer_tasks.sound import SpeechRecognition


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """`digits-written` on tiny data, a few steps."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "data").mkdir()
    corpora.write_all(folder / "data")
    page = read(presets.root() / "experiments" / "digits-written.yaml").changed(
        {"data.data_dir": str(folder / "data"), "data.token_budget": 1024, "trainer.max_steps": 6}
    )
    mixture = page.mixture()
    page.train(mixture, folder, [Checkpoints(every_n_train_steps=10**9)], enable_progress_bar=False)
    return mixture, af.load(folder / "last").eval()


def test_both_modalities_are_told_in_one_stream(trained):
    """One table and one head of letters, seen behind patches and behind frames."""
    mixture, model = trained
    assert mixture.heads() == ["text"]
    rng = np.random.default_rng(0)
    for (name, task), field in zip(mixture.tasks.items(), ("image", "audio"), strict=True):
        sample = task.examples("train")[0]
        example = prepare(name, task, model.tokenizers, sample, rng)
        assert set(example.tokens.streams) == {field, "text"} and list(example.targets) == ["text"]
        assert example.prefix == model.tokenizers[field].length(sample.values[field])


def test_both_are_written_and_judged(trained):
    """Each says words in letters of the one alphabet; the sounds' are no path of CTC, which knows no such head."""
    mixture, model = trained
    scans, spoken = mixture.tasks.values()
    samples = spoken.examples("test")[:4]
    said = spoken.written(model, samples)
    assert said and all(isinstance(text, str) and set(text) <= set("".join(spoken.corpus("text"))) for text in said)
    assert spoken.written(model, samples[1:2]) == said[1:2], "alone as with others"
    for task, count in ((scans, 3), (spoken, 4)):
        scores = list(task.score(model, task.examples("test")[:count]))
        assert {score.metric for score in scores} == {metric.name for metric in task.metrics}
        assert all(np.isfinite(score.value) for score in scores)


@pytest.mark.parametrize(
    ("objective", "reads"),
    [
        (CTC(), False),
        (Prefix(target="text"), True),
        (SequenceToSequence(target="text"), True),
        (CTCAndAttention(), True),
    ],
)
def test_what_reads_its_own_text_writes_value_by_value(objective, reads):
    task = SpeechRecognition("fsdd")
    task.objective = objective
    assert task._reads_its_text == reads
