"""Text by the vocabulary of a published checkpoint, with the ids that its model was trained with:

    bert = PretrainedTextTokenizer.from_directory("bert-base-uncased", template="model")
    bert.encode("Seven")          →  [CLS] seven [SEP]          ids int64[3], slots 0, 1, 2
    bert.decode(tokens)           →  "seven"

The directory is one in the layout of Hugging Face's hub. It is read, never run, and nothing is downloaded.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from anyformer.errors import ConfigError, SampleError, TokenizerError
from anyformer.tokens import StreamSpec
from anyformer_tokenizers.text.directory import Files, gathered, sealed, unsealed
from anyformer_tokenizers.text.items import Items, require_items
from anyformer_tokenizers.text.laid import LaidText
from anyformer_tokenizers.text.marks import Marks
from anyformer_tokenizers.text.raw import checked, made_up
from anyformer_tokenizers.text.reading import TEXT, Reading
from anyformer_tokenizers.text.training import byte_level

Side = Literal["source", "target"]

FITTED_SIZE = 1024
"""Pieces that `fit` trains unless `vocab_size` says otherwise."""


@dataclass
class PretrainedTextTokenizer(LaidText):
    """`str` ⇄ the ids of a checkpoint's own tokenizer, one discrete stream named after this one.

    directory: where the files are; they are read once and travel in the checkpoint, so the path does not.
    template: what stands around a text: "none"; "model", the model's own template for one text; or tokens around
        `$text`, such as "<|endoftext|> $text <|endoftext|>".
    special_in_text: whether what spells a special token (`[MASK]`, `</s>`) is that token. By default it is ordinary
        text, so that nobody's text can steer the model.
    vocab_size: ids of the stream, if more than the tokenizer has: published models often pad their tables. What is
        never said decodes to nothing.
    end: the token that closes a generated run; by default the end of a text, or else the separator.
    segments, segment: with segments > 0, a second stream `<name>.segment` over the same slots that says `segment` in
        each of them (BERT's token types).
    side: "source" or "target", where a checkpoint has a vocabulary for each (Marian).
    max_chars: a longer text is a LimitError.
    items: what an item of the stream is: the whole text, or each of its words, or sentences.

    Without a directory, `fit` trains a byte-level vocabulary, for a model that is to be published.
    """

    name: str = "pretrained_text"
    directory: str | None = field(default=None, compare=False)
    template: str = "none"
    special_in_text: bool = False
    vocab_size: int = 0
    end: str | None = None
    segments: int = 0
    segment: int = 0
    side: Side = "source"
    max_chars: int = 1_000_000
    items: Items = "text"
    _files: dict[str, bytes] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self._reading: Reading | None = None
        self._marks: Marks | None = None
        self._require_settings()
        if self.directory is not None:
            self._take(gathered(self.directory))

    @classmethod
    def from_directory(cls, path: str | os.PathLike[str], **settings: Any) -> PretrainedTextTokenizer:
        """The tokenizer of the checkpoint at `path`; TokenizerError names a file that is missing or unreadable."""
        return cls(directory=os.fspath(path), **settings)

    def export(self, directory: str | os.PathLike[str]) -> None:
        """Write the files as they were read, byte for byte."""
        folder, contents = Path(directory), self._known.files.contents
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, content in contents.items():
                (folder / name).write_bytes(content)
        except OSError as error:
            raise TokenizerError(f"{folder} cannot be written ({error.strerror}); choose another directory.") from error

    def config(self) -> dict[str, Any]:
        """The settings without `directory`, which is one machine's."""
        return {name: value for name, value in super().config().items() if name != "directory"}

    @property
    def fidelity(self) -> Literal["exact", "approximate"]:  # ty: ignore[incompatible-property-override]
        """ "exact" where every text comes back as it was: a byte-level vocabulary that alters nothing."""
        return "exact" if self.fitted and self._known.exact and not self.special_in_text else "approximate"

    @property
    def streams(self) -> tuple[StreamSpec, ...]:
        known = self._known
        size = max(known.vocabulary.size, self.vocab_size)
        return self._specs(size, known.end, self._known_marks.roles)

    def example(self, rng: np.random.Generator) -> str:
        return f"the seven {made_up(rng)}"  # a text of blanks alone has no tokens in many vocabularies

    @property
    def fitted(self) -> bool:
        return bool(self._files)

    def fit(self, samples: Iterable[str]) -> None:
        """Train a byte-level vocabulary of `vocab_size` pieces; equal samples in equal order give equal bytes."""
        self._take(byte_level((checked(sample, self.name) for sample in samples), self.vocab_size or FITTED_SIZE))

    def state(self) -> dict[str, bytes]:
        return sealed(Files(self._files, "")) if self._files else {}

    def restore(self, state: Mapping[str, bytes]) -> None:
        self._take(unsealed(state, self.name))

    def _take(self, files: Files) -> None:
        """Use these files, if they can be used."""
        self._reading, self._marks = self._read(files), None
        self._files = dict(files.contents)

    def _read(self, files: Files) -> Reading:
        return Reading.of(files, self.side, self.template, self.end, self.special_in_text)

    @property
    def _known(self) -> Reading:
        if not self._files:
            raise TokenizerError(
                f"Tokenizer {self.name!r} has no vocabulary yet; give it the directory of a published checkpoint, "
                "or call fit(texts)."
            )
        if self._reading is None:  # in a data worker, where only the bytes arrived
            self._reading = self._read(Files(self._files, f"tokenizer {self.name!r}"))
        return self._reading

    @property
    def _known_marks(self) -> Marks:
        if self._marks is None:
            self._marks = Marks(self._known.vocabulary)
        return self._marks

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reading": None, "_marks": None}

    def _spelled(self, piece: int) -> bytes | None:
        return self._known_marks.spelled(piece)

    def _said(self, ids: list[int]) -> str:
        return self._known.decode(ids)

    def _ids(self, raw: str) -> list[int]:
        known = self._known
        ids = known.encode(checked(raw, self.name, self.max_chars))
        if not ids:
            raise SampleError(
                f"A text for {self.name!r} has no tokens: {raw[:40]!r}; expected at least one. "
                "Drop it, or set a template that adds some."
            )
        return ids

    def _require_settings(self) -> None:
        """ConfigError for a setting that is out of range."""
        complaint = None
        if self.template not in ("none", "model") and self.template.split().count(TEXT) != 1:
            complaint = f"template={self.template!r}; expected 'none', 'model', or tokens with {TEXT!r} once among them"
        elif self.vocab_size < 0:
            complaint = f"vocab_size={self.vocab_size}; expected 0 or more"
        elif self.segments < 0 or not 0 <= self.segment < max(1, self.segments):
            complaint = f"segment={self.segment} of segments={self.segments}; expected 0 up to the last"
        elif self.side not in get_args(Side):
            complaint = f"side={self.side!r}; expected one of {', '.join(get_args(Side))}"
        if complaint:
            raise ConfigError(f"Tokenizer {self.name!r} has {complaint}.")
        require_items(self.name, self.items)
