"""Vocabularies that older checkpoints spell out, built as models of the `tokenizers` library."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from anyformer_tokenizers.text.directory import Files
from anyformer_tokenizers.text.library import LibraryVocabulary, library
from anyformer_tokenizers.text.special import Added, Declared, declared

if TYPE_CHECKING:
    from tokenizers import Tokenizer

VOCAB, MERGES, WORDS = "vocab.json", "merges.txt", "vocab.txt"
WORD_END, CONTINUED = "</w>", "##"
BASIC = "basic"
SPOKEN = ["<|startoftranscript|>", "<|notimestamps|>"]
"""Before a text in a vocabulary of speech (Whisper, arXiv:2212.04356 §2.3), where no language or task is named."""
SPACE = "\u0120"
"""The byte of a space in GPT-2's spelling of bytes as letters; every byte-level vocabulary has it."""


def word_pieces(files: Files, side: str) -> LibraryVocabulary:
    """vocab.txt, one piece a line: BERT's WordPiece (arXiv:1810.04805; Schuster and Nakajima 2012).

    tokenizer_config.json may set do_lower_case (true), strip_accents (as do_lower_case) and
    tokenize_chinese_chars (true), with these defaults.
    """
    tokenizers = library()
    lines = io.StringIO(files.text(WORDS), newline=None).readlines()
    vocabulary = {line.rstrip("\n"): i for i, line in enumerate(lines)}
    said = declared(files).completed(vocabulary)
    unknown = _unknown(files, WORDS, said, vocabulary)
    settings = said.settings
    if (
        not any(piece.startswith(CONTINUED) for piece in vocabulary)
        or settings.get("word_tokenizer_type", BASIC) != BASIC
    ):
        raise files.bad(WORDS, f"is not cut as BERT cuts words (no {CONTINUED} pieces, or another word_tokenizer_type)")
    with files.reading(WORDS, "a WordPiece vocabulary"):
        tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token=unknown))
        tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(
            clean_text=True,
            handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
            strip_accents=settings.get("strip_accents"),
            lowercase=settings.get("do_lower_case", True),
        )
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = tokenizers.decoders.WordPiece(prefix=CONTINUED)
    return _wrapped(files, tokenizer, said, *_enclosing(said))


def byte_pairs(files: Files, side: str) -> LibraryVocabulary:
    """vocab.json and merges.txt: byte-pair encoding (arXiv:1508.07909) of bytes, or of words where pieces end
    in `</w>`."""
    with files.reading(VOCAB, "ids by piece"):
        vocabulary = files.json(VOCAB)
        if not all(type(i) is int and i >= 0 for i in vocabulary.values()):
            raise TypeError("an id is no int from 0 up")
    lines = [line.rstrip("\r") for line in files.text(MERGES).split("\n")]
    with files.reading(MERGES, "two pieces a line"):
        pairs = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
        if any(len(pair) != 2 for pair in pairs):
            raise ValueError(f"{' '.join(next(pair for pair in pairs if len(pair) != 2))!r} is no pair")
    words, letters = any(piece.endswith(WORD_END) for piece in vocabulary), SPACE in vocabulary
    if words == letters or (words and "<s>" in vocabulary):
        raise files.bad(
            VOCAB,
            f"is cut in a way that is not known here; expected bytes as GPT-2 spells them, or pieces ending in "
            f"{WORD_END} as GPT-1 has them",
        )
    return (_of_words if words else _of_bytes)(files, vocabulary, pairs)


def _of_bytes(files: Files, vocabulary: dict[str, int], pairs: list[tuple[str, ...]]) -> LibraryVocabulary:
    """GPT-2's (Radford et al. 2019 §2.2). A vocabulary with `<s>` and `</s>` encloses a text in them, as
    RoBERTa's and BART's do, and one of speech in the marks of a transcript."""
    tokenizers = library()
    said = declared(files)
    if {"<s>", "</s>"} <= vocabulary.keys():
        pair = {"cls_token": Added("<s>"), "sep_token": Added("</s>")}
        said = replace(said, roles={**pair, **said.roles})
    known = {*vocabulary, *(token.content for token in said.tokens)}
    said = said.completed(known)
    spoken = (
        (SPOKEN, [said.roles["eos_token"].content]) if known.issuperset(SPOKEN) and "eos_token" in said.roles else None
    )
    start, stop = said.template() or spoken or _enclosing(said)
    with files.reading(VOCAB, f"a byte-pair vocabulary with {MERGES}"):
        model = tokenizers.models.BPE(vocabulary, pairs, continuing_subword_prefix="", end_of_word_suffix="")
        tokenizer = tokenizers.Tokenizer(model)
        prefixed = bool(said.settings.get("add_prefix_space", False))
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=prefixed)
        tokenizer.decoder = tokenizers.decoders.ByteLevel()
    return _wrapped(files, tokenizer, said, start, stop)


def _of_words(files: Files, vocabulary: dict[str, int], pairs: list[tuple[str, ...]]) -> LibraryVocabulary:
    """GPT-1's: lower-cased words split as BERT splits them, each ending in `</w>`."""
    tokenizers = library()
    said = declared(files).completed(vocabulary)
    unknown = _unknown(files, VOCAB, said, vocabulary)
    with files.reading(VOCAB, f"a byte-pair vocabulary with {MERGES}"):
        model = tokenizers.models.BPE(
            vocabulary, pairs, continuing_subword_prefix="", end_of_word_suffix=WORD_END, unk_token=unknown
        )
        tokenizer = tokenizers.Tokenizer(model)
        tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = tokenizers.decoders.BPEDecoder(suffix=WORD_END)
    return _wrapped(files, tokenizer, said, *(said.template() or ([], [])))


def _unknown(files: Files, name: str, said: Declared, vocabulary: dict[str, int]) -> str:
    """The piece for what has no piece, which these models cannot do without."""
    token = said.roles.get("unk_token")
    if token is None or token.content not in vocabulary:
        raise files.bad(name, f"has no unknown token ({token.content if token else '[UNK] or <unk>'!r})")
    return token.content


def _enclosing(said: Declared) -> tuple[list[str], list[str]]:
    """A classification token before the text and a separator behind it, where the checkpoint has both."""
    if not {"cls_token", "sep_token"} <= said.roles.keys():
        return [], []
    return [said.roles["cls_token"].content], [said.roles["sep_token"].content]


def _wrapped(
    files: Files, tokenizer: Tokenizer, said: Declared, start: Sequence[str], stop: Sequence[str]
) -> LibraryVocabulary:
    """The vocabulary with its template, once the template's tokens have ids."""
    vocabulary = LibraryVocabulary(files, tokenizer, said)
    vocabulary.start, vocabulary.stop = (
        [i for token in side if (i := vocabulary.id_of(token)) is not None] for side in (start, stop)
    )
    return vocabulary
