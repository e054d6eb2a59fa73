"""Vocabularies of Hugging Face's `tokenizers` library: its own file, tokenizer.json, or a model built from others."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Sequence
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import TYPE_CHECKING, Any

from anyformer.errors import PluginError, TokenizerError
from anyformer_tokenizers.text.directory import Files, translated
from anyformer_tokenizers.text.special import NUMBERS, Declared, declared
from anyformer_tokenizers.text.vocabulary import Vocabulary, tidied

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FILE = "tokenizer.json"

UNTYPABLE = "\U0010fffe "
"""Put before a special token's spelling, it makes a piece that no pre-tokenizer lets through whole."""

PROBES = ("a", "e", "the", "A", "0", ".", "\u4e00", "\u3042", "\u0430", "\u0627", "\u0905")


def library() -> ModuleType:
    """The module `tokenizers`. Asked of the installed packages, because a folder of that name can be imported."""
    try:
        version("tokenizers")
    except PackageNotFoundError as error:
        raise PluginError(
            "tokenizer.json, vocab.json and vocab.txt are read by the library tokenizers, which is not installed; "
            "pip install 'anyformer[hf]'."
        ) from error
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads do not survive the forks of data workers
    import tokenizers

    return tokenizers


def from_json(files: Files, side: str) -> LibraryVocabulary:
    """tokenizer.json and the special tokens that the files beside it declare."""
    tokenizers = library()
    document = files.json(FILE)
    with files.reading(FILE, "a tokenizer of the tokenizers library"):
        tokenizer = tokenizers.Tokenizer.from_str(files.text(FILE))
        stated = {entry["content"]: entry["id"] for entry in document.get("added_tokens") or []}
    require_ids(files, FILE, tokenizer, stated)
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    return LibraryVocabulary(files, tokenizer, declared(files).completed(special))


def require_ids(files: Files, name: str, tokenizer: Tokenizer, stated: dict[str, int]) -> None:
    """The library numbers added tokens itself; what the file says must come out."""
    for content, i in stated.items():
        if tokenizer.token_to_id(content) != i:
            raise files.bad(
                name, f"gives the token {content!r} the id {i}, but its vocabulary {tokenizer.token_to_id(content)}"
            )


class LibraryVocabulary(Vocabulary):
    """A vocabulary over a tokenizer of the library, whose post-processor is the model's template."""

    def __init__(self, files: Files, tokenizer: Tokenizer, said: Declared) -> None:
        """`said`: the special tokens; those that the tokenizer lacks are added to it."""
        self._where = files.where
        with translated(self._failed):
            tokenizer.no_truncation()
            tokenizer.no_padding()
            add(tokenizer, said)
            require_ids(files, NUMBERS, tokenizer, {t.content: i for i, t in said.numbered.items()})
            added = tokenizer.get_added_tokens_decoder()
            self._tokenizer = tokenizer
            self._tidies = _tidies(tokenizer, said)
            self.special = frozenset(i for i, token in added.items() if token.special)
            self.roles = said.ids(tokenizer.token_to_id)
            self.size = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0) + 1
            self.start, self.stop = template(tokenizer)
            self._unmarked = self._without_special()

    def encode(self, text: str) -> list[int]:
        with translated(self._failed):
            self._unmarked.encode_special_tokens = True
            return self._unmarked.encode(text, add_special_tokens=False).ids

    def encode_marked(self, text: str) -> list[int]:
        with translated(self._failed):
            self._tokenizer.encode_special_tokens = False
            return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        with translated(self._failed):
            text = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return tidied(text) if self._tidies else text

    def id_of(self, token: str) -> int | None:
        return self._tokenizer.token_to_id(token)

    def token_of(self, i: int) -> str | None:
        return self._tokenizer.id_to_token(i)

    def _without_special(self) -> Tokenizer:
        """A tokenizer whose model cannot say a special token, but for an unknown one. Most cannot anyway, but a
        unigram model or a merge finds `</s>` in a text like any other piece."""
        unknown = getattr(self._tokenizer.model, "unk_token", None)
        spelled = {i: token for i in self.special if (token := self.token_of(i)) not in (None, unknown)}
        self._tokenizer.encode_special_tokens = True
        found = any(
            i in self._tokenizer.encode(text, add_special_tokens=False).ids
            for i, token in spelled.items()
            for text in (token, f"a{token}b", f"a {token} b")
        )
        return disarmed(self._tokenizer, set(spelled.values())) if found else self._tokenizer

    def _failed(self, why: str) -> TokenizerError:
        return TokenizerError(
            f"The tokenizer of {self._where} failed ({why}). Its files are damaged: fetch them again."
        )


def add(tokenizer: Tokenizer, said: Declared) -> None:
    """Numbered tokens take their flags from the declaration, others keep those they have; but what is declared
    special is special."""
    added = library().AddedToken
    present = {token.content: token for token in tokenizer.get_added_tokens_decoder().values()}
    numbered = {token.content for token in said.numbered.values()}
    for token in said.tokens:
        known = present.get(token.content)
        if known is None or token.content in numbered:
            tokenizer.add_tokens([added(**vars(token))])
        elif token.special and not known.special:
            flags = {flag: getattr(known, flag) for flag in vars(token)}
            tokenizer.add_tokens([added(**{**flags, "special": True})])


def template(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The ids that the post-processor puts before and behind a text, found by watching it."""
    for probe in (*PROBES, *list(tokenizer.get_vocab())[:100]):
        encoding = tokenizer.encode(probe)
        inner = [place for place, added in enumerate(encoding.special_tokens_mask) if not added]
        if inner:
            return encoding.ids[: inner[0]], encoding.ids[inner[-1] + 1 :]
    return [], []


def disarmed(tokenizer: Tokenizer, tokens: Collection[str]) -> Tokenizer:
    """The same tokenizer, ids included, with `tokens` spelled as no text can spell them."""
    document: dict[str, Any] = json.loads(tokenizer.to_str())
    model = document["model"]
    spelled = {token: UNTYPABLE + token for token in tokens}
    if isinstance(model["vocab"], dict):
        model["vocab"] = {spelled.get(piece, piece): i for piece, i in model["vocab"].items()}
    else:  # a unigram model's pieces and scores, in the order of their ids
        model["vocab"] = [[spelled.get(piece, piece), score] for piece, score in model["vocab"]]
    if "merges" in model:
        model["merges"] = [pair for pair in model["merges"] if not {*pair, "".join(pair)} & spelled.keys()]
    for entry in document["added_tokens"]:
        entry["content"] = spelled.get(entry["content"], entry["content"])
    return type(tokenizer).from_str(json.dumps(document))


def _tidies(tokenizer: Tokenizer, said: Declared) -> bool:
    """transformers' rule: byte-pair models keep their spaces unless the file insists."""
    insists = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
    pairs = type(tokenizer.model).__name__ == "BPE"
    return bool(said.settings.get("clean_up_tokenization_spaces")) and (not pairs or bool(said.settings.get(insists)))
