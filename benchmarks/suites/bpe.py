"""Text to pieces."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from functools import cache

from anyformer.bench import Bar, Contender, Settings, Suite, Work


@cache
def corpus(bytes_: int) -> list[str]:
    """Python's own library, by file: the same on every machine with this Python."""
    import os
    from pathlib import Path

    texts, size = [], 0
    for file in sorted(Path(os.__file__).parent.glob("*.py")):
        texts.append(file.read_text(encoding="utf-8"))
        size += len(texts[-1].encode())
        if size >= bytes_:
            break
    return texts


def pieces(s: Settings):
    """Ours, trained; the others encode with the same vocabulary where they can."""
    from anyformer.registry import tokenizers

    tokenizer = tokenizers.create("text", {"name": "text", "vocab_size": s.vocab})
    tokenizer.fit(corpus(s.bytes))
    return tokenizer


def megabytes(s: Settings) -> float:
    return sum(len(text.encode()) for text in corpus(s.bytes)) / 1e6


def one_by_one(encode: Callable[[str], object], s: Settings) -> Work:
    """Text after text; with workers, each its share of them, as often as `passes` says."""
    texts, size = corpus(s.bytes), megabytes(s)

    def share(first: int, of: int) -> None:
        for text in texts[first::of] * s.passes:
            encode(text)

    def run() -> float:
        process = multiprocessing.get_context("fork").Process
        workers = [process(target=share, args=(n, s.workers)) for n in range(s.workers)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if not workers:
            share(0, 1)
        return size * s.passes

    return Work(run)


def ours(s: Settings) -> Work:
    return one_by_one(pieces(s).encode, s)


def sentencepiece(s: Settings) -> Work:
    """The model that ours has trained."""
    from sentencepiece import SentencePieceProcessor

    return one_by_one(SentencePieceProcessor(model_proto=pieces(s).state()["sentencepiece.model"]).encode, s)


def trained_bytes(s: Settings):
    """Merges of bytes, by tokenizers' trainer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=s.vocab, initial_alphabet=letters, show_progress=False)
    tokenizer.train_from_iterator(corpus(s.bytes), trainer)
    return tokenizer


def tokenizers(s: Settings) -> Work:
    tokenizer, texts, size = trained_bytes(s), corpus(s.bytes), megabytes(s)

    def run() -> float:
        tokenizer.encode_batch_fast(texts)
        return size

    return Work(run)


def tiktoken(s: Settings) -> Work:
    """The same merges, in its hands."""
    from tiktoken import Encoding
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    back = {letter: byte for byte, letter in bytes_to_unicode().items()}
    vocabulary = trained_bytes(s).get_vocab()
    ranks = {bytes(back[letter] for letter in piece): rank for piece, rank in vocabulary.items()}
    words = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
    encoding = Encoding("ours", pat_str=words, mergeable_ranks=ranks, special_tokens={})
    return one_by_one(encoding.encode_ordinary, s)


SUITE = Suite(
    title="Byte-pair encoding of Python's library, file by file, vocabulary 8192.",
    unit="MB",
    contenders=[
        Contender("anyformer", ours),
        Contender("sentencepiece", sentencepiece, ("sentencepiece",)),
        Contender("tokenizers", tokenizers, ("tokenizers",), ("files",)),
        Contender("tiktoken", tiktoken, ("tiktoken", "tokenizers", "transformers")),
    ],
    cases={"files": {}, "files, 2 workers": {"workers": 2, "threads": 2, "passes": 8}},
    full={"vocab": 8192, "bytes": 1_000_000, "workers": 0, "passes": 1},
    toy={"vocab": 400, "bytes": 20_000},
    bars=[
        Bar("files", at_least=0.95, beside="sentencepiece"),
        Bar("files, 2 workers", at_least=0.95, beside="sentencepiece"),
    ],
    notes="Ours is sentencepiece's model with what keeps every text whole; 0.95 of it counts as not below. Two workers "
    "are two processes, which encode eight times as much: what sharing costs is seen by CPU seconds, what it gains by "
    "the clock.",
)
