"""`anyformer convert`, both ways and back again, and the text tokenizers that travel with weights."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from published import config_of, differing, revived, sketch, tensors_of

import anyformer as af
from anyformer.cli import main
from anyformer.errors import TokenizerError
from anyformer.weights.fixture import Facts, read
from anyformer.weights.table import table_for

transformers = pytest.importorskip("transformers", reason="the other reader; pip install 'anyformer[hf]'")
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


def convert(*arguments: object) -> int:
    """Exit status."""
    with pytest.raises(SystemExit) as end:
        main(["convert", *(str(argument) for argument in arguments)])
    return int(end.value.code or 0)


@torch.no_grad()
def hidden(model: Any, directory: Path) -> torch.Tensor:
    """Our hidden states for the reference's inputs."""
    config = config_of(directory)
    inputs = af.weights.files.read_tensors(directory / "inputs.safetensors")
    return model(read(model, inputs, Facts(config, table_for(config).check)).batch())


# There and back


@pytest.mark.parametrize("family", ["gpt2", "bert", "t5_v1_1", "marian", "whisper", "vit_timm", "conformer_torchaudio"])
def test_weights_become_a_checkpoint_and_weights_again(family, tmp_path, capsys):
    """The checkpoint says what the weights said, and nothing that a forward reads is lost."""
    source = sketch(family, tmp_path / "published")
    assert convert(source, tmp_path / "checkpoint") == 0
    assert "a checkpoint" in capsys.readouterr().out
    loaded, imported = af.load(tmp_path / "checkpoint"), af.from_pretrained(source)
    assert torch.equal(hidden(loaded, source), hidden(imported, source))
    assert loaded.architecture == imported.architecture
    assert convert(tmp_path / "checkpoint", tmp_path / "again") == 0
    assert differing(tensors_of(source), tensors_of(tmp_path / "again")) == set()
    revived(tmp_path / "again")


def test_a_layout_may_be_chosen(tmp_path, capsys):
    """Where it can say what the model is, and not where it cannot."""
    sketch("vit_timm", tmp_path / "timm")
    assert convert(tmp_path / "timm", tmp_path / "checkpoint") == 0
    assert convert(tmp_path / "checkpoint", tmp_path / "hf", "--family", "vit") == 0
    model = revived(tmp_path / "hf")
    pixels = af.weights.files.read_tensors(tmp_path / "timm" / "inputs.safetensors")["pixel_values"]
    expected = af.weights.files.read_tensors(tmp_path / "timm" / "outputs.safetensors")["logits"]
    torch.testing.assert_close(model(pixels).logits, expected, atol=1e-4, rtol=0)
    assert convert(tmp_path / "checkpoint", tmp_path / "text", "--family", "gpt2") == 1
    assert "gpt2 files cannot say this architecture" in capsys.readouterr().err


def test_what_is_no_checkpoint_is_not_replaced(tmp_path, capsys):
    source = sketch("gpt2", tmp_path / "published")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("mine")
    assert convert(source, tmp_path / "precious") == 1
    assert "exists and is not a checkpoint, so it is not replaced" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "precious").iterdir()] == ["thesis.txt"]
    assert convert(source, source) == 1
    assert convert(source, tmp_path / "checkpoint") == 0
    capsys.readouterr()
    assert convert(tmp_path / "checkpoint", tmp_path / "checkpoint") == 1
    assert "is a checkpoint, which would be spoilt" in capsys.readouterr().err
    af.load(tmp_path / "checkpoint")


def test_what_cannot_be_read_is_said_in_a_sentence(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"model_type": "gtp2"}')
    assert convert(tmp_path, tmp_path / "out") == 1
    assert "Did you mean 'gpt2'?" in capsys.readouterr().err
    assert convert(tmp_path / "nowhere", tmp_path / "out") == 1
    assert not (tmp_path / "out").exists()


# Tokenizers

CORPUS = ["the seven quick brown foxes jump over a lazy dog", "one two three four five six seven", "zebras"] * 3
TEXTS = ["the seven", "a lazy fox jumps", "Zebra & co"]


def words(folder: Path) -> None:
    """BERT's vocabulary, one piece a line."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "seven", *letters, *(f"##{x}" for x in letters)]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n")


def byte_pairs(folder: Path) -> None:
    """tokenizer.json, of bytes."""
    from anyformer_tokenizers.text import PretrainedTextTokenizer

    tokenizer = PretrainedTextTokenizer(vocab_size=290)
    tokenizer.fit(CORPUS)
    tokenizer.export(folder)


def sentences(file: str, **settings: Any) -> Callable[[Path], None]:
    """A model of sentencepiece."""

    def write(folder: Path) -> None:
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(CORPUS), model_writer=model, vocab_size=80, hard_vocab_limit=False, minloglevel=2,
            num_threads=1, **settings,
        )  # fmt: skip
        (folder / file).write_bytes(model.getvalue())

    return write


def beginning(folder: Path) -> None:
    """LLaMA's, whose texts begin with a token, as transformers saves it today."""
    old = folder / "old"
    old.mkdir()
    sentences("tokenizer.model", model_type="bpe", normalization_rule_name="identity")(old)
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True}
    (old / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", **named}))
    transformers.AutoTokenizer.from_pretrained(old).save_pretrained(folder)
    shutil.rmtree(old)


VOCABULARIES: dict[str, tuple[dict[str, Any], Callable[[Path], None]]] = {
    "bert": ({}, words),
    "gpt2": ({"vocab_size": 300}, byte_pairs),
    "t5_v1_0": ({"vocab_size": 200}, sentences("spiece.model", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)),
    "llama_gqa": ({}, beginning),
}
"""Family → (what its config must be, who writes its tokenizer's files)."""


def ids(model: Any, text: str) -> list[int]:
    return model.tokenizers["text"].encode(text).streams["text"].values.tolist()


@pytest.mark.parametrize("family", VOCABULARIES)
def test_the_tokenizer_beside_the_weights_comes_along(family, tmp_path):
    """With the ids of AutoTokenizer, its special tokens around the text included; through a checkpoint and out."""
    change, write = VOCABULARIES[family]
    source = sketch(family, tmp_path / "published", change)
    before = {file.name for file in source.iterdir()}
    write(source)
    files = {file.name: file.read_bytes() for file in source.iterdir() if file.name not in before}
    reference = transformers.AutoTokenizer.from_pretrained(source)
    model = af.from_pretrained(source)
    assert model.specs["text"].vocab_size == config_of(source)["vocab_size"] >= len(reference)
    for text in TEXTS:
        assert ids(model, text) == reference(text).input_ids
    af.save(model, tmp_path / "checkpoint")
    loaded = af.load(tmp_path / "checkpoint")
    assert [ids(loaded, text) for text in TEXTS] == [ids(model, text) for text in TEXTS]
    for number, one in enumerate((model, loaded)):
        out = tmp_path / str(number)
        af.to_pretrained(one, out)
        assert {file.name: file.read_bytes() for file in out.iterdir() if file.name in files} == files
        assert config_of(out)["vocab_size"] == config_of(source)["vocab_size"]
        assert differing(tensors_of(out), tensors_of(source)) == set()


def test_token_types_come_with_the_tokenizer(tmp_path):
    """BERT's second stream, over the same slots."""
    words(sketch("bert", tmp_path))
    tokens = af.from_pretrained(tmp_path).tokenizers["text"].encode("the seven")
    assert tokens.streams.keys() == {"text", "text.segment"}
    assert tokens.streams["text.segment"].values.tolist() == [0] * tokens.length


def test_a_tokenizer_may_be_given_or_left_out(tmp_path):
    words(sketch("bert", tmp_path))
    assert af.from_pretrained(tmp_path, tokenizers={}).tokenizers == {}
    given = af.from_pretrained(tmp_path).tokenizers
    assert af.from_pretrained(tmp_path, tokenizers=given).tokenizers == given


def test_a_list_of_letters_is_no_text_tokenizer(tmp_path):
    """vocab.json alone, as speech models have it; and a model without text has no use for one."""
    (sketch("conformer_w2v2_none", tmp_path / "speech") / "vocab.json").write_text('{"a": 0}')
    assert af.from_pretrained(tmp_path / "speech").tokenizers == {}
    words(sketch("vit_hf", tmp_path / "picture"))
    assert af.from_pretrained(tmp_path / "picture").tokenizers == {}


def test_a_tokenizer_that_cannot_be_read_is_an_error(tmp_path):
    """It is not left out in silence."""
    (sketch("bert", tmp_path) / "tokenizer.json").write_text("{")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        af.from_pretrained(tmp_path)
