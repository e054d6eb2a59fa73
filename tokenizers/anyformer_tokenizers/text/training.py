"""A new vocabulary in the hub's layout: GPT-2's byte-level pieces, between `<s>` and `</s>`."""

from __future__ import annotations

import json
from collections.abc import Iterable

from anyformer.errors import ConfigError, TokenizerError
from anyformer_tokenizers.text.directory import CONFIG, Files, translated
from anyformer_tokenizers.text.library import FILE, library

START, STOP = "<s>", "</s>"
RESERVED = 256 + 2
"""Pieces that every vocabulary holds: the bytes, the start and the end."""

LINE_LIMIT = 4096
"""Characters the trainer sees at a time; its time grows with the square of a word's length."""

DECLARED = {
    "bos_token": START,
    "eos_token": STOP,
    "clean_up_tokenization_spaces": False,
    "tokenizer_class": "PreTrainedTokenizerFast",
}


def byte_level(samples: Iterable[str], size: int) -> Files:
    """The files of a byte-level vocabulary (Radford et al. 2019 §2.2) of at most `size` pieces."""
    tokenizers = library()
    if size < RESERVED:
        raise ConfigError(
            f"vocab_size={size} is too small to fit; expected at least {RESERVED}: the bytes and the ends."
        )
    # Listed first: an error raised inside the trainer's own loop would come out as another one.
    texts = [text[start : start + LINE_LIMIT] for text in samples for start in range(0, len(text), LINE_LIMIT)]
    if not texts:
        raise TokenizerError("There is no text to fit on; give at least one str that is not empty.")
    with translated(lambda why: TokenizerError(f"The vocabulary could not be fitted ({why}). Give it other texts.")):
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=[START, STOP],
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        ends = [(token, tokenizer.token_to_id(token)) for token in (START, STOP)]
        tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"{START} $A {STOP}", pair=f"{START} $A {STOP} $B {STOP}", special_tokens=ends
        )
        written = {FILE: tokenizer.to_str(pretty=True).encode(), CONFIG: json.dumps(DECLARED, indent=1).encode()}
    return Files(written, "the trained vocabulary")
