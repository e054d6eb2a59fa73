"""One modality's encoder and another's decoder, joined by cross-attention: a page of configuration, and its change."""

from __future__ import annotations

import corpora
import numpy as np
import pytest

import anyformer as af
from anyformer import presets
from anyformer.contracts import prepare
from anyformer.training import Checkpoints
from anyformer.training.experiment import Experiment, read

SOUNDS = {
    "model.preset.source": ["audio"],
    "data.tokenizers": {
        "audio": {"sample_rate": 8000, "mels": 40, "window": 320, "hop": 160, "layers": 0},
        "text": {"type": "characters"},
    },
    "data.tasks": {
        "spoken": {
            "type": "speech_recognition", "dataset": "fsdd", "text": "digit",
            "objective": {"type": "sequence_to_sequence", "target": "text"},
        }
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    corpora.write_all(folder)
    return folder


@pytest.mark.parametrize(("field", "changes"), [("image", {}), ("audio", SOUNDS)])
def test_what_an_encoder_reads_decides_what_a_decoder_of_another_modality_says(field, changes, shelf, tmp_path):
    """The captions' experiment, and the same with sounds in the place of pictures: each has its own stack, the decoder
    holds nothing of the source, and what it thinks of a text depends on that."""
    page: Experiment = read(presets.root() / "experiments" / "emoji-captions.yaml").changed(
        {"data.data_dir": str(shelf), "data.token_budget": 1600, "trainer.max_steps": 2, **changes}
    )
    mixture = page.mixture()
    page.train(mixture, tmp_path, [Checkpoints(every_n_train_steps=10**9)], enable_progress_bar=False)
    model = af.load(tmp_path / "last").eval()
    assert model.encoder is not None and model.encoder is not model.backbone
    ((name, task),) = mixture.tasks.items()
    samples = task.examples("train")
    first = samples[0]
    other = next(one for one in samples if one.values["text"] != first.values["text"])
    crossed = af.Sample("crossed", {field: other.values[field], "text": first.values["text"]})
    rng = np.random.default_rng(0)
    examples = [prepare(name, task, model.tokenizers, sample, rng) for sample in (first, first, crossed)]
    assert all(list(e.tokens.streams) == ["text"] for e in examples)
    assert all(list(e.source.tokens.streams) == [field] for e in examples)
    own, again, others = (nats for nats, _ in model.log_likelihoods(examples))
    assert own == pytest.approx(again, abs=1e-5) and abs(own - others) > 1e-3
    prompt = prepare(name, task, model.tokenizers, af.Sample("bare", {field: first.values[field]}), rng)
    (said,) = model.generate([prompt], "text", 4)
    assert isinstance(model.tokenizers["text"].decode(said), str)
