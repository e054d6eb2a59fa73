"""Text as byte-pair pieces: sentencepiece with byte fallback, trained or loaded, lossless for every string.

    text.encode("seven")          →  <s> s even </s>            ids int64[4], slots 0, 1, 2, 3
    text.decode(tokens)           →  "seven"

Byte-pair encoding: Sennrich et al. 2016, arXiv:1508.07909. The library: Kudo and Richardson 2018,
arXiv:1808.06226.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import sentencepiece

from anyformer.errors import ConfigError, TokenizerError
from anyformer.tokens import StreamSpec
from anyformer_tokenizers.text.items import Items
from anyformer_tokenizers.text.laid import FittedText
from anyformer_tokenizers.text.raw import checked, made_up

MODEL_FILE = "sentencepiece.model"

SPACE_MARK = "\u2581"
"""sentencepiece writes a space as this character and cannot tell the two apart again; we pass it as bytes."""

WHOLE_PIECES = ("\n\n", "\n", "\t")
"""Never merged with their neighbours, so that the trainer may see one line at a time."""

UNSEEN_BY_TRAINER = re.compile(f"[\0\t\n{SPACE_MARK}\u2585]+")
"""The trainer skips any sentence that holds one of these (NUL and its own boundary and unknown marks)."""

LINE_LIMIT = 4096
"""Characters the trainer sees at a time; it indexes the symbols of one word with 16 bits."""

TRAINER: dict[str, Any] = {
    "model_type": "bpe",
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "add_dummy_prefix": False,
    "allow_whitespace_only_pieces": True,  # indentation is one piece
    "required_chars": SPACE_MARK,  # spelled in bytes, a space would be the mark itself
    "user_defined_symbols": list(WHOLE_PIECES),
    "hard_vocab_limit": False,  # a small corpus has fewer pieces to offer
    "unk_id": 0,
    "bos_id": 1,
    "eos_id": 2,
    "pad_id": -1,  # batches are packed, nothing pads
    "max_sentence_length": 4 * LINE_LIMIT,  # in bytes
    "num_threads": 1,  # it is written into the model, which must not depend on the machine
    "minloglevel": 2,
}

RESERVED = 3 + 256 + len(WHOLE_PIECES)
"""Pieces that every vocabulary holds: <unk>, <s>, </s>, the bytes and the whole pieces."""

PROBE = "  \ufb01 \uff21\n\r\t\0e\u0301 caf\u00e9 \U0001f642 \U0010fffd  "
"""Survives only a model that neither normalises, nor touches spaces, nor has unknown characters."""


@dataclass
class TextTokenizer(FittedText):
    """`str` ⇄ `<s> pieces </s>`, one discrete stream named after the tokenizer; `</s>` ends a generated run.

    vocab_size: pieces to train for; a small corpus yields fewer, and `streams` tells the number it came to.
    character_coverage: the part of the corpus' characters that get a piece; the rest are spelled in bytes.
    max_chars: a longer text is a LimitError.
    special: roles for which a piece is reserved, such as mask, class or separator, and sentinels: how many marks of a
        gap (sentinel_0, …). No text spells them; an objective finds them by their role in the stream's spec.
    items: what an item of the stream is: the whole text, or each of its words, or sentences.
    segments: with segments > 0, a second stream `<name>.segment` over the same slots, in which an objective says which
        part of a sequence a slot belongs to (BERT's token types).
    """

    name: str = "text"
    vocab_size: int = 1024
    character_coverage: float = 0.9995
    max_chars: int = 1_000_000
    special: list[str] = field(default_factory=list)
    sentinels: int = 0
    items: Items = "text"
    segments: int = 0
    _model: bytes | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self._loaded: Pieces | None = None
        reserved = RESERVED + len(self._reserved)
        if self.vocab_size <= reserved:
            raise ConfigError(
                f"Tokenizer {self.name!r} has vocab_size={self.vocab_size}; expected more than {reserved}, "
                "which the special pieces and the 256 bytes take."
            )
        self._require_layout()
        if not 0.98 <= self.character_coverage <= 1:  # the range sentencepiece accepts
            raise ConfigError(
                f"Tokenizer {self.name!r} has character_coverage={self.character_coverage}; expected 0.98 to 1."
            )

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], **settings: Any) -> TextTokenizer:
        """A tokenizer over an existing sentencepiece `.model` file.

        A model that alters text (T5's normalises, for instance) is taken as it is; `fidelity` then says
        "approximate". Raises TokenizerError for an unreadable file.
        """
        tokenizer = cls(**settings)
        try:
            model = Path(path).read_bytes()
        except OSError as error:
            raise TokenizerError(
                f"The sentencepiece model {path} cannot be read ({error.strerror}); expected a .model file."
            ) from error
        tokenizer._load(model, str(path))
        return tokenizer

    @property
    def fidelity(self) -> Literal["exact", "approximate"]:  # ty: ignore[incompatible-property-override]
        """ "exact", but "approximate" for a loaded model that alters text."""
        return "exact" if self._model is None or self._pieces.exact else "approximate"

    @property
    def streams(self) -> tuple[StreamSpec, ...]:
        pieces = self._pieces
        return self._specs(len(pieces), pieces.end, pieces.special)

    def example(self, rng: np.random.Generator) -> str:
        return made_up(rng)

    @property
    def fitted(self) -> bool:
        return self._model is not None

    def fit(self, samples: Iterable[str]) -> None:
        """Train the vocabulary; equal samples in equal order give equal bytes.

        Raises TokenizerError when there is no text, or more characters than `vocab_size` has room for.
        """
        # Listed first: an error raised inside the trainer's own loop would come out as a RuntimeError.
        lines = list(self._lines(samples))
        if not lines:
            raise TokenizerError(f"Tokenizer {self.name!r} got no text to fit on; give at least one non-blank str.")
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(lines),
                model_writer=model,
                vocab_size=self.vocab_size,
                character_coverage=self.character_coverage,
                control_symbols=[f"<{role}>" for role in self._reserved],
                **TRAINER,
            )
        except RuntimeError as error:
            reason = str(error).rpartition("] ")[2].partition(". Increase")[0]
            raise TokenizerError(
                f"Tokenizer {self.name!r} could not be fitted ({reason or error}). "
                "Raise vocab_size, or lower character_coverage so that rare characters are spelled in bytes."
            ) from error
        self._load(model.getvalue(), "the trained model")

    def state(self) -> dict[str, bytes]:
        return {} if self._model is None else {MODEL_FILE: self._model}

    def restore(self, state: Mapping[str, bytes]) -> None:
        if set(state) != {MODEL_FILE}:
            raise TokenizerError(
                f"Tokenizer {self.name!r} expected the file {MODEL_FILE!r}; got {sorted(state) or 'none'}."
            )
        self._load(state[MODEL_FILE], MODEL_FILE)

    def _spelled(self, piece: int) -> bytes | None:
        return self._pieces.spelled(piece)

    def _said(self, ids: list[int]) -> str:
        """Bytes that are not UTF-8 (a model may emit them) become U+FFFD."""
        return self._pieces.decode(ids)

    def _load(self, model: bytes, origin: str) -> None:
        try:
            pieces = Pieces(model)
        except (RuntimeError, ValueError, IndexError) as error:
            raise TokenizerError(
                f"Tokenizer {self.name!r} cannot read {origin} as a sentencepiece model ({error}); "
                "restore it from an undamaged checkpoint or fit again."
            ) from error
        self._model, self._loaded = model, pieces

    @property
    def _pieces(self) -> Pieces:
        if self._model is None:
            raise TokenizerError(
                f"Tokenizer {self.name!r} has no vocabulary yet; "
                "call fit(texts), or load one with TextTokenizer.from_file(path)."
            )
        if self._loaded is None:  # in a data worker, where only the bytes arrived
            self._loaded = Pieces(self._model)
        return self._loaded

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": None}

    def _ids(self, raw: str) -> np.ndarray:
        pieces = self._pieces
        ids = pieces.encode(checked(raw, self.name, self.max_chars))
        return np.concatenate((pieces.start, ids, pieces.stop), dtype=np.int64)

    def _lines(self, samples: Iterable[str]) -> Iterator[str]:
        """What the trainer sees: lines without the characters it would trip over."""
        for text in self._texts(samples):
            for line in UNSEEN_BY_TRAINER.split(text):
                for start in range(0, len(line), LINE_LIMIT):
                    yield line[start : start + LINE_LIMIT]


class Pieces:
    """A sentencepiece model at work: text to piece ids and back.

    start, stop: the ids around every text (empty where a loaded model has no such piece); end: the id that
    closes a text; special: control pieces by role, as `<mask>` names it; exact: whether `decode(encode(text)) == text`
    for every text.
    """

    def __init__(self, model: bytes) -> None:
        """Raises RuntimeError, ValueError or IndexError for bytes that are no model."""
        self._processor = sentencepiece.SentencePieceProcessor()
        self._processor.LoadFromSerializedProto(model)
        bos, eos = self._processor.bos_id(), self._processor.eos_id()
        self.start = _array([bos] if bos >= 0 else [])
        self.stop = _array([eos] if eos >= 0 else [])
        self.end = eos if eos >= 0 else None
        control = [i for i in range(len(self)) if self._processor.is_control(i) and i != eos]
        self.special = {"start" if i == bos else self._processor.id_to_piece(i).strip("<>"): i for i in control}
        self._spelled = [self._spell(i) for i in range(len(self))]
        byte_ids = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in range(256)]
        self._space_mark = _array([byte_ids[byte] for byte in SPACE_MARK.encode()])
        self.exact = (
            all(self._processor.is_byte(i) for i in byte_ids) and self._joined(self._processor.encode(PROBE)) == PROBE
        )

    def __len__(self) -> int:
        return self._processor.get_piece_size()

    def spelled(self, i: int) -> bytes | None:
        """What a piece says, which may be a part of a character; None for a special piece."""
        return None if self._processor.is_control(i) else self._spelled[i]

    def encode(self, text: str) -> np.ndarray:
        """int32[pieces]: an array comes of an array far sooner than of a list."""
        if not self.exact or SPACE_MARK not in text:
            return self._numbers(text)
        first, *rest = text.split(SPACE_MARK)
        spaced = [part for text in rest for part in (self._space_mark, self._numbers(text))]
        return np.concatenate((self._numbers(first), *spaced))

    def _numbers(self, text: str) -> np.ndarray:
        return self._processor.encode(text, return_type="numpy")

    def decode(self, ids: list[int]) -> str:
        if self.end in ids:
            ids = ids[: ids.index(self.end)]
        return self._joined(ids) if self.exact else self._processor.decode(ids)

    def _joined(self, ids: list[int]) -> str:
        return b"".join([self._spelled[i] for i in ids]).decode(errors="replace")

    def _spell(self, i: int) -> bytes:
        """What a piece stands for; by bytes, because one character may be spread over several pieces."""
        if self._processor.is_control(i):
            return b""
        if self._processor.is_unknown(i):
            return "\ufffd".encode()
        piece = self._processor.id_to_piece(i)
        if self._processor.is_byte(i):
            return bytes([int(piece[3:5], 16)])  # <0x41>
        return piece.replace(SPACE_MARK, " ").encode()


def _array(ids: list[int]) -> np.ndarray:
    return np.array(ids, np.int32)
