"""Vocabularies of sentencepiece (arXiv:1808.06226), with the ids that the hub's checkpoints give to its pieces."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sentencepiece import SentencePieceProcessor

from anyformer_tokenizers.text.directory import CONFIG, Files
from anyformer_tokenizers.text.special import NUMBERS, Declared, declared
from anyformer_tokenizers.text.vocabulary import Vocabulary, tidied

T5, LLAMA, FAIRSEQ = "spiece.model", "tokenizer.model", "sentencepiece.bpe.model"
SOURCE, TARGET, VOCAB, TARGET_VOCAB = "source.spm", "target.spm", "vocab.json", "target_vocab.json"

SPACE_MARK = "\u2581"

SENTINELS = 100
"""What T5 puts behind its pieces: `<extra_id_99>` … `<extra_id_0>` (arXiv:1910.10683 §3.1.4)."""


@dataclass(frozen=True)
class Pieces:
    """cut: a plain text's ids; join: pieces, by their spelling, as a text."""

    cut: Callable[[str], list[int]]
    join: Callable[[list[str]], str]


@dataclass
class Table:
    """ids: every token's id; special: ids that are not said; roles: ids by role."""

    ids: dict[str, int]
    special: set[int]
    roles: dict[str, int]
    tidies: bool = False
    flags: tuple[list[str], list[str]] | None = None

    def declare(self, files: Files, name: str, said: Declared) -> Table:
        """Take in what the JSON files say. Where they do not say which id a token has, another rule than this
        layout's gave it one, and guessing would shift every id behind it: TokenizerError."""
        for i, token in said.numbered.items():
            if self.ids.setdefault(token.content, i) != i:
                raise files.bad(
                    NUMBERS,
                    f"gives {token.content!r} the id {i}, but by the order of {name} it is {self.ids[token.content]}",
                )
            self.special |= {i} if token.special else set()
        pad = said.roles.get("pad_token")
        if pad is not None:  # many checkpoints were given one afterwards, behind everything else
            self.ids.setdefault(pad.content, max(self.ids.values()) + 1)
        for token in (*said.roles.values(), *said.extra):
            if token.content not in self.ids:
                raise files.bad(
                    CONFIG, f"declares the token {token.content!r} without its id, and {name} has no such piece"
                )
        self.roles |= said.ids(self.ids.get)
        self.special |= {*self.roles.values(), *(self.ids[token.content] for token in said.extra)}
        self.tidies = bool(said.settings.get("clean_up_tokenization_spaces"))
        self.flags = said.template()
        return self

    def template(self) -> tuple[list[int], list[int]]:
        """As the flags say; or between a classification token and a separator; or behind a beginning, if the model
        knows one; or before an end."""
        if self.flags is not None:
            start, stop = ([self.ids[token] for token in side] for side in self.flags)
            return start, stop
        if {"cls_token", "sep_token"} <= self.roles.keys():
            return [self.roles["cls_token"]], [self.roles["sep_token"]]
        if "bos_token" in self.roles:
            return [self.roles["bos_token"]], []
        return [], [self.roles["eos_token"]] if "eos_token" in self.roles else []


class SentencePieceVocabulary(Vocabulary):
    """`pieces` is how plain text becomes ids, and pieces text; the rest is the table of tokens."""

    def __init__(self, pieces: Pieces, table: Table) -> None:
        self._pieces, self._ids, self._tidies = pieces, table.ids, table.tidies
        self._spelled = {i: token for token, i in table.ids.items()}
        self.special, self.roles = frozenset(table.special), table.roles
        self.start, self.stop = table.template()
        self.size = max(self._spelled) + 1
        # Longer first: of two tokens that begin alike, the longer one is meant.
        marks = sorted((self._spelled[i] for i in self.special if i in self._spelled), key=len, reverse=True)
        self._marks = re.compile("(" + "|".join(map(re.escape, marks)) + ")") if marks else None

    def encode(self, text: str) -> list[int]:
        return self._pieces.cut(text)

    def encode_marked(self, text: str) -> list[int]:
        parts = self._marks.split(text) if self._marks else [text]
        ids = ([self._ids[part]] if place % 2 else self._pieces.cut(part) for place, part in enumerate(parts))
        return [i for part in ids for i in part]

    def decode(self, ids: Sequence[int]) -> str:
        text = self._pieces.join([self._spelled[i] for i in ids if i in self._spelled and i not in self.special])
        return tidied(text) if self._tidies else text

    def id_of(self, token: str) -> int | None:
        return self._ids.get(token)

    def token_of(self, i: int) -> str | None:
        return self._spelled.get(i)


def t5_numbered(files: Files, side: str) -> SentencePieceVocabulary:
    """T5's: the pieces' own numbers, then the sentinels, as many as `extra_ids` says, unless they are pieces."""
    processor, said = loaded(files, T5), declared(files)
    require_first(files, T5, processor, ["<pad>", "</s>", "<unk>"])
    table = _own(processor)
    count = said.settings.get("extra_ids", SENTINELS)
    if type(count) is not int or not 0 <= count < 2**16:
        raise files.bad(CONFIG, f"has extra_ids={count!r}; expected a number of sentinel tokens")
    if "<extra_id_0>" not in table.ids:
        sentinels = {f"<extra_id_{count - 1 - i}>": len(table.ids) + i for i in range(count)}
        table.ids |= sentinels
        table.special |= set(sentinels.values())
    return SentencePieceVocabulary(_plain(processor), table.declare(files, T5, said))


def own_numbered(files: Files, side: str) -> SentencePieceVocabulary:
    """LLaMA's: the pieces' own numbers."""
    processor = loaded(files, LLAMA)
    return SentencePieceVocabulary(_plain(processor), _own(processor).declare(files, LLAMA, declared(files)))


def _own(processor: SentencePieceProcessor) -> Table:
    """The pieces as the model numbers them."""
    pieces = range(processor.get_piece_size())
    special = {i for i in pieces if processor.is_control(i) or processor.is_unknown(i)}
    ends = {"bos": processor.bos_id(), "eos": processor.eos_id(), "unk": processor.unk_id(), "pad": processor.pad_id()}
    roles = {f"{role}_token": i for role, i in ends.items() if i >= 0}
    return Table({processor.id_to_piece(i): i for i in pieces}, special, roles)


def _plain(processor: SentencePieceProcessor) -> Pieces:
    return Pieces(processor.encode, processor.decode_pieces)


def fairseq_numbered(files: Files, side: str) -> SentencePieceVocabulary:
    """XLM-R's: `<s>`, `<pad>`, `</s>`, `<unk>`, then the pieces from the model's fourth on, then `<mask>`."""
    if VOCAB in files:
        raise files.bad(FAIRSEQ, f"has {VOCAB} beside it, which numbers the pieces in a way that is not known here")
    processor = loaded(files, FAIRSEQ)
    own = ["<unk>", "<s>", "</s>"]  # the model's first three, which fairseq orders anew
    require_first(files, FAIRSEQ, processor, own)
    count = processor.get_piece_size()
    first = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
    table = {**first, **{processor.id_to_piece(i): i + 1 for i in range(len(own), count)}, "<mask>": count + 1}
    named = {"bos": "<s>", "cls": "<s>", "pad": "<pad>", "eos": "</s>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}
    roles = {f"{role}_token": table[token] for role, token in named.items()}

    def cut(text: str) -> list[int]:
        return [i + 1 if i >= len(own) else first[own[i]] for i in processor.encode(text)]

    tokens = Table(table, {*first.values(), count + 1}, roles).declare(files, FAIRSEQ, declared(files))
    return SentencePieceVocabulary(Pieces(cut, processor.decode_pieces), tokens)


def two_sided(files: Files, side: str) -> SentencePieceVocabulary:
    """Marian's: two models cut the source's and the target's text into pieces, vocab.json numbers them.

    A text may open with the language to translate into, `>>fr<<`, which is one token. Where the sides have one
    vocabulary the source's model joins the pieces of both, as transformers has it.
    """
    source, target = (loaded(files, name) for name in (SOURCE, TARGET))
    divided = side == "target" and TARGET_VOCAB in files
    table = _numbers(files, TARGET_VOCAB if divided else VOCAB)
    said = declared(files).completed(table.keys() & {"</s>", "<unk>", "<pad>"})
    roles = said.ids(table.get)
    if "unk_token" not in roles:
        raise files.bad(VOCAB, "has no unknown token; expected '<unk>'")
    unknown, special = roles["unk_token"], set(roles.values())
    sayable = {piece: i for piece, i in table.items() if i not in special}
    cutter, joiner = target if side == "target" else source, target if divided else source

    def cut(text: str) -> list[int]:
        language, close, rest = text.partition("<<")
        tagged = bool(close) and language.startswith(">>")
        pieces = cutter.encode(rest if tagged else text, out_type=str)
        tag = [language + close] if tagged else []
        return [sayable.get(piece, unknown) for piece in (*tag, *pieces)]

    def join(pieces: list[str]) -> str:
        # A piece that only the other side's model has comes out as it is spelled.
        return joiner.decode_pieces(pieces).replace(SPACE_MARK, " ").strip()

    tokens = Table(table, special, roles).declare(files, VOCAB, said)
    return SentencePieceVocabulary(Pieces(cut, join), tokens)


def loaded(files: Files, name: str) -> SentencePieceProcessor:
    with files.reading(name, "a sentencepiece model"):
        processor = SentencePieceProcessor()
        processor.LoadFromSerializedProto(files.contents[name])
        for i in range(processor.get_piece_size()):
            processor.id_to_piece(i)  # fails here, not in use, where a piece is no UTF-8
    return processor


def require_first(files: Files, name: str, processor: SentencePieceProcessor, first: list[str]) -> None:
    """Another beginning tells of another way to number the pieces."""
    found = [processor.id_to_piece(i) for i in range(min(len(first), processor.get_piece_size()))]
    if found != first:
        raise files.bad(name, f"begins with the pieces {', '.join(found)}; expected {', '.join(first)}")


def _numbers(files: Files, name: str) -> dict[str, int]:
    with files.reading(name, "ids by piece"):
        table = files.json(name)
        if not table or not all(type(i) is int and i >= 0 for i in table.values()):
            raise TypeError("an id is no int from 0 up")
    return table
