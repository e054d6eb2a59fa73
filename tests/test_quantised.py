"""Learned codes of pictures: the published loss, a tokenizer that is a frozen model, and pictures drawn from words."""

from __future__ import annotations

import io
import pickle
import zipfile

import corpora
import numpy as np
import pytest
import torch

import anyformer as af
from anyformer.batch import pack
from anyformer.checkpoint import save
from anyformer.contracts import Sample, prepare
from anyformer.errors import ConfigError, SampleError, TokenizerError
from anyformer.model import ForwardPass
from anyformer.objectives import Quantised
from anyformer.objectives.quantised import codebook, nearest_codes
from anyformer.testing import check_task, check_tokenizer
from anyformer_tasks.crossing import Drawing, PictureCoding
from anyformer_tokenizers.image import ImageTokenizer
from anyformer_tokenizers.quantised import FILE, CodesTokenizer, QuantisedTokenizer
from anyformer_tokenizers.text import CharacterTokenizer


@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("sets")
    corpora.emojitwo(folder, np.random.default_rng(0))
    return str(folder)


@pytest.fixture(scope="module")
def coder() -> af.Model:
    torch.manual_seed(0)
    tokenizers = {"image": ImageTokenizer(patch=8), "codes": CodesTokenizer(size=16)}
    return af.Model(tokenizers, {"dim": 16, "depth": 1, "heads": 2}, ["image"]).eval()


@pytest.fixture(scope="module")
def checkpoint(coder, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("coder") / "last"
    save(coder, path)
    return str(path)


@pytest.fixture
def tokenizer(checkpoint) -> QuantisedTokenizer:
    found = QuantisedTokenizer(checkpoint=checkpoint)
    found.fit([])
    return found


def picture(side: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)


def test_the_loss_is_the_published_one_and_its_gradients_go_where_they_should(coder):
    """The codebook moves to the states and the states to the codebook; the rest goes straight through the choice."""
    task = PictureCoding()
    task.objective = Quantised(commitment=0.5, spread=0.0)
    sample = Sample("a", {"image": picture()})
    example = prepare("codes", task, coder.tokenizers, sample, np.random.default_rng(0))
    forward = ForwardPass(coder, pack([example], coder.rank))
    loss = task.objective.loss(forward, forward.batch.targets["codes"])
    z, table = forward.hidden, codebook(coder, "codes")
    e = table[nearest_codes(z, table)[0]]
    apart = (z - e).pow(2).mean(1).sum()
    assert torch.allclose(loss.parts["codebook"], apart) and torch.allclose(loss.parts["commitment"], 0.5 * apart)
    assert torch.allclose(loss.sum, sum(loss.parts.values())) and loss.count == len(z) == 4
    weight = coder.embedders["codes"].table.weight
    (moved,) = torch.autograd.grad(loss.parts["codebook"], weight, retain_graph=True)
    assert moved.abs().sum() > 0
    (straight,) = torch.autograd.grad(loss.parts["rebuilt"], coder.embedders["image"].linear.weight, retain_graph=True)
    assert straight.abs().sum() > 0
    assert torch.autograd.grad(loss.parts["rebuilt"], weight, allow_unused=True) == (None,)


def test_the_nearest_code_is_the_nearest():
    table, rows = torch.randn(9, 4), torch.randn(20, 4)
    chosen, away = nearest_codes(rows, table)
    assert torch.equal(chosen, torch.cdist(rows, table).argmin(1))
    assert torch.allclose(away, torch.cdist(rows, table) ** 2 / 4, atol=1e-4)


def test_wrong_settings_are_refused(coder):
    with pytest.raises(ConfigError, match="commitment=-1"):
        Quantised(commitment=-1)
    with pytest.raises(ConfigError, match="codes"):
        codebook(coder, "cods")
    with pytest.raises(ConfigError, match="at least 2"):
        CodesTokenizer(size=1)
    with pytest.raises(SampleError, match="from 0 to 15"):
        CodesTokenizer(size=16).encode([16])


def test_both_tokenizers_keep_the_contract(tokenizer):
    check_tokenizer(CodesTokenizer(size=16))
    check_tokenizer(tokenizer)


def test_a_learned_tokenizer_travels_without_its_checkpoint(tokenizer, coder):
    """Into a worker, and into its owner's checkpoint, with one fingerprint."""
    raw = picture()
    codes = tokenizer.encode(raw).streams["picture"].values
    assert len(codes) == 4
    twin = QuantisedTokenizer(checkpoint="elsewhere")
    twin.restore(tokenizer.state())
    assert torch.equal(twin.encode(raw).streams["picture"].values, codes)
    assert pickle.loads(pickle.dumps(tokenizer)).fingerprint() == tokenizer.fingerprint()
    again = QuantisedTokenizer(checkpoint=tokenizer.checkpoint)
    again.fit([])
    assert again.fingerprint() == tokenizer.fingerprint()
    assert tokenizer.decode(tokenizer.encode(raw)).shape == raw.shape


def test_what_it_cannot_take_is_said(tokenizer, checkpoint):
    with pytest.raises(SampleError, match="no square"):
        tokenizer.encode(np.zeros((16, 8, 3), np.uint8))
    with pytest.raises(ConfigError, match="needs a checkpoint"):
        QuantisedTokenizer().fit([])
    with pytest.raises(TokenizerError, match="no model yet"):
        _ = QuantisedTokenizer().streams
    with pytest.raises(TokenizerError, match="cannot read"):
        QuantisedTokenizer().restore({FILE: b"none"})
    with pytest.raises(ConfigError, match="reader='picture'"):
        QuantisedTokenizer(checkpoint=checkpoint, reader="picture").fit([])


def test_the_tasks_keep_their_contract(shelf, coder, tokenizer):
    check_task(PictureCoding(data_dir=shelf, size=16), dict(coder.tokenizers))
    text = CharacterTokenizer(name="text")
    task = Drawing(data_dir=shelf, size=16)
    text.fit(task.corpus("text"))
    check_task(task, {"text": text, "picture": tokenizer})


def test_a_model_that_unpacks_to_more_than_its_file_is_refused():
    """A small file may hold gigabytes of zeros; what we write is not compressed."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("manifest.json", b"0" * 100_000)
    tokenizer = QuantisedTokenizer()
    tokenizer._packed = out.getvalue()
    with pytest.raises(TokenizerError, match="larger than its file"):
        _ = tokenizer.model
