"""Special pieces that no text spells, and words and sentences as items, in trained and published vocabularies."""

from __future__ import annotations

import json
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anyformer.batch import counted, pack
from anyformer.errors import ConfigError
from anyformer.objectives import Denoising, Masked, SpanCorruption
from anyformer.testing import check_tokenizer
from anyformer.tokens import Tokens
from anyformer_tokenizers.text import PretrainedTextTokenizer, TextTokenizer
from anyformer_tokenizers.text.items import sizes_of

CORPUS = [*list(topics.values())[:20], "Thank you for inviting me to your party last week."] * 2
ROLES = ["mask", "class", "separator"]


@pytest.fixture(scope="module")
def trained() -> TextTokenizer:
    tokenizer = TextTokenizer(vocab_size=600, special=ROLES, sentinels=30, items="words", segments=2)
    tokenizer.fit(CORPUS)
    return tokenizer


def items(tokenizer: TextTokenizer | PretrainedTextTokenizer, raw: str) -> list[str]:
    """Each item as text."""
    stream = tokenizer.encode(raw).streams[tokenizer.name]
    parts = stream.values.split(stream.items[:, 0].tolist())
    return [tokenizer.decode(Tokens.of(tokenizer.name, part)) for part in parts]


@pytest.mark.parametrize("kind", ["text", "words", "sentences"])
def test_contract(kind):
    """The public contract with everything reserved, whatever an item is."""
    check_tokenizer(TextTokenizer(vocab_size=500, special=ROLES, sentinels=2, items=kind, segments=2))


def test_special_pieces_have_a_role_each(trained):
    """Each of its own, below the vocabulary's size, and said by nothing."""
    spec = trained.streams[0]
    assert set(spec.special) == {"start", *ROLES, *(f"sentinel_{i}" for i in range(30))}
    assert len({*spec.special.values(), spec.end}) == 35
    assert all(0 <= value < spec.width for value in spec.special.values())
    assert trained.decode(Tokens.of("text", torch.tensor([*spec.special.values()]))) == ""


@given(
    st.lists(st.sampled_from(["<mask>", "<class>", "<sentinel_0>", "<s>", "</s>", "<", ">", "mask", " "])).map("".join)
)
def test_no_text_spells_a_special_piece(trained, raw):
    """What looks like one is ordinary text, and comes back."""
    ids = trained.encode(raw).streams["text"].values[1:-1].tolist()
    assert not {*trained.streams[0].special.values(), trained.streams[0].end} & set(ids)
    assert trained.decode(trained.encode(raw)) == raw


@given(st.text(max_size=40))
def test_items_are_the_text(trained, raw):
    """Items of words divide a text without changing an id; its start and its end are items by themselves."""
    stream = trained.encode(raw).streams["text"]
    assert int(stream.items[:, 0].sum()) == len(stream.values)
    assert stream.items[0].tolist() == stream.items[-1].tolist() == [1, 1]
    assert torch.equal(stream.items[:, 0], stream.items[:, 1]) and bool((stream.items > 0).all())


def test_words_are_blanks_and_what_follows(trained):
    assert items(trained, "Thank you\n\tfor  inviting.")[1:-1] == ["Thank", " you", "\n\tfor", "  inviting."]


def test_sentences_end_at_stops(trained):
    tokenizer = TextTokenizer(vocab_size=600, items="sentences")
    tokenizer.fit(CORPUS)
    assert items(tokenizer, "One, two. Is 3.14 it? Yes!\nEnd")[1:-1] == ["One, two.", " Is 3.14 it?", " Yes!", "\nEnd"]
    assert items(tokenizer, "一。二\uff01三")[1:-1] == ["一。", "二\uff01", "三"]


def test_sizes():
    assert sizes_of([b" ", b"a", b"b", b" c", b"d ", b"e"], "words") == [3, 2, 1]
    assert sizes_of([None, b"a", b".", None, b" b"], "sentences") == [1, 2, 1, 1]
    assert sizes_of([], "words") == []


def test_settings_are_checked():
    with pytest.raises(ConfigError, match=r"items='word'; expected one of text, words, sentences"):
        TextTokenizer(items="word")  # ty: ignore[invalid-argument-type]
    with pytest.raises(ConfigError, match=r"expected each role once, without start, end"):
        TextTokenizer(special=["start"])
    with pytest.raises(ConfigError, match=r"sentinels=-1"):
        TextTokenizer(sentinels=-1)
    with pytest.raises(ConfigError, match=r"vocab_size=270; expected more than"):
        TextTokenizer(vocab_size=270, special=ROLES, sentinels=10)


def test_objectives_act_on_a_trained_vocabulary(trained):
    """From text to a packed batch, with nothing lost on the way."""
    rng = np.random.default_rng(0)
    sample = {"text": trained.encode("Thank you for inviting me to your party last week. " * 4)}
    specs = {"text": trained.streams}
    for objective in (Masked(unit="item"), SpanCorruption(), Denoising(noise=[{"type": "infill"}])):
        batch = pack([objective.ready(specs).prepare(sample, rng) for _ in range(2)])
        assert counted(batch.counts[""]) > 0
    example = Masked(unit="item", rate=0.3).ready(specs).prepare(sample, rng)
    values, target = example.tokens.streams["text"].values.clone(), example.targets["text"]
    values[target.slots] = target.values
    assert torch.equal(values, sample["text"].streams["text"].values)
    assert set(example.tokens.streams) == {"text", "text.segment"}


# ---------------------------------------------------------------- published vocabularies


def word_pieces(folder: Path) -> None:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "thank", "you", "in", "##vit", "##ing", ".", "me"]
    (folder / "vocab.txt").write_text("\n".join(pieces))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))


def byte_pairs(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.model.save(str(folder))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "RobertaTokenizer"}))


def sentence_pieces(folder: Path) -> None:
    import io

    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(" ".join(CORPUS).split("\n")), model_writer=model, vocab_size=400, pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    (folder / "spiece.model").write_bytes(model.getvalue())
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer", "extra_ids": 100}))


@pytest.mark.parametrize(
    ("write", "raw", "roles", "words"),
    [
        (word_pieces, "Thank inviting me.", {"pad", "class", "separator", "mask"}, ["thank", "inviting", "me", "."]),
        (
            byte_pairs,
            "Thank you  for it.",
            {"start", "pad", "end", "mask", "class", "separator"},
            ["Thank", " you", "  for", " it."],
        ),
        (sentence_pieces, "Thank you for it.", {"pad", "end"}, ["Thank", "you", "for", "it."]),
    ],
    ids=["bert", "roberta", "t5"],
)
def test_published_vocabularies_know_their_roles_and_words(tmp_path, write, raw, roles, words):
    """By the files alone: what the hub calls a mask is a mask, and a word is what the spelling of its pieces says."""
    pytest.importorskip("tokenizers", reason="reads them; pip install 'anyformer[hf]'")
    write(tmp_path)
    tokenizer = PretrainedTextTokenizer.from_directory(tmp_path, items="words", template="model")
    special = tokenizer.streams[0].special
    assert {role for role in special if not role.startswith("sentinel_")} == roles
    found = [word for word in items(tokenizer, raw) if word]
    assert found == words
    sentinels = [role for role in special if role.startswith("sentinel_")]
    assert len(sentinels) == (100 if write is sentence_pieces else 0)
    if sentinels:  # T5 numbers them backwards, from the end
        assert special["sentinel_0"] - special["sentinel_99"] == 99
