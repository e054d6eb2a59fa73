"""What a directory's JSON files say of special tokens, read as data: nothing they name is imported or run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from anyformer_tokenizers.text.directory import CONFIG, Files

ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""The roles the hub knows, in the order in which tokens that the vocabulary lacks are appended to it."""

CUSTOMARY: Mapping[str, tuple[str, ...]] = {
    "bos_token": ("<s>", "<|begin_of_text|>", "<|startoftext|>", "<bos>"),
    "eos_token": ("</s>", "<|endoftext|>", "<|end_of_text|>", "<eos>"),
    "unk_token": ("<unk>", "[UNK]"),
    "sep_token": ("[SEP]",),
    "pad_token": ("<pad>", "[PAD]"),
    "cls_token": ("[CLS]",),
    "mask_token": ("<mask>", "[MASK]"),
}
"""How a role is spelt where no file says so: many older checkpoints left it to their class."""

MAP, ADDED = "special_tokens_map.json", "added_tokens.json"
DECODER = "added_tokens_decoder"
NUMBERS = f"{CONFIG} or {ADDED}"


@dataclass(frozen=True)
class Added:
    """A token that is matched as a whole. lstrip, rstrip: it swallows the blanks before or behind it;
    single_word: not inside a word; normalized: sought in the normalised text; special: not said when decoding."""

    content: str
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False
    special: bool = True


@dataclass(frozen=True)
class Declared:
    """settings: tokenizer_config.json whole; roles: tokens by role; numbered: tokens that state their id;
    extra: further special tokens."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    roles: Mapping[str, Added] = field(default_factory=dict)
    numbered: Mapping[int, Added] = field(default_factory=dict)
    extra: tuple[Added, ...] = ()

    @property
    def tokens(self) -> list[Added]:
        """Every token once, in the order in which those that the vocabulary lacks are appended to it."""
        numbered = [token for _, token in sorted(self.numbered.items())]
        unique: dict[str, Added] = {}
        for token in (*numbered, *self.roles.values(), *self.extra):
            unique.setdefault(token.content, token)
        return list(unique.values())

    def completed(self, vocabulary: Collection[str]) -> Declared:
        """Roles that no file names get their customary token, where the vocabulary has it."""
        found = {
            role: Added(next(spelling for spelling in spellings if spelling in vocabulary))
            for role, spellings in CUSTOMARY.items()
            if role not in self.roles and any(spelling in vocabulary for spelling in spellings)
        }
        roles = {**self.roles, **found}
        known = [role for role in ROLES if role in roles]
        return replace(self, roles={role: roles[role] for role in (*known, *(r for r in roles if r not in known))})

    def ids(self, id_of: Callable[[str], int | None]) -> dict[str, int]:
        """The id of each role's token."""
        found = {role: id_of(token.content) for role, token in self.roles.items()}
        return {role: i for role, i in found.items() if i is not None}

    def template(self) -> tuple[list[str], list[str]] | None:
        """The tokens around a text by `add_bos_token` and `add_eos_token`; None when neither is set."""
        flags = [self.settings.get(flag) for flag in ("add_bos_token", "add_eos_token")]
        if flags == [None, None]:
            return None
        start, stop = (
            [self.roles[role].content] if flag and role in self.roles else []
            for flag, role in zip(flags, ("bos_token", "eos_token"), strict=True)
        )
        return start, stop


def declared(files: Files) -> Declared:
    """Read tokenizer_config.json; where it numbers no added tokens, special_tokens_map.json and
    added_tokens.json as well, as older checkpoints have them. TokenizerError names the entry that is wrong."""
    settings = files.json(CONFIG) if CONFIG in files else {}
    found = {**settings}
    if DECODER in settings:
        numbered = _numbered(files, settings[DECODER])
        old: dict[str, int] = {}
    else:
        numbered = {}
        found |= files.json(MAP) if MAP in files else {}
        old = files.json(ADDED) if ADDED in files else {}
    # A model may have roles of its own, "image_token" for one.
    own = [key for key, entry in found.items() if key.endswith("_token") and isinstance(entry, str)]
    named = dict.fromkeys((*ROLES, *own))
    roles = {role: _token(files, role, found[role]) for role in named if found.get(role) is not None}
    extra: list[Added] = []
    for key in ("additional_special_tokens", "extra_special_tokens"):
        entries = found.get(key) or []
        if isinstance(entries, dict):
            roles |= {role: _token(files, key, entry) for role, entry in entries.items()}
        else:
            extra += [_token(files, key, entry) for entry in (entries if isinstance(entries, list) else [entries])]
    special = {token.content for token in (*roles.values(), *extra)}
    for content, i in old.items():
        if type(i) is not int or i < 0:
            raise files.bad(ADDED, f"gives {content!r} the id {i!r}; expected an int from 0 up")
        numbered[i] = Added(content, normalized=content not in special, special=False)
    numbered = {i: replace(t, special=t.special or t.content in special) for i, t in numbered.items()}
    return Declared(settings, roles, numbered, tuple(extra))


def _numbered(files: Files, entries: Any) -> dict[int, Added]:
    with files.reading(CONFIG, f"ids and tokens in {DECODER!r}"):
        return {int(i): _token(files, DECODER, entry) for i, entry in entries.items()}


def _token(files: Files, key: str, entry: Any) -> Added:
    """A token given as its text or as an object with its flags."""
    given: dict[str, Any] = entry if isinstance(entry, dict) else {"content": entry, "special": True}
    content = given.get("content")
    if not isinstance(content, str) or not content:
        raise files.bad(CONFIG, f"or {MAP} has {entry!r} as {key}; expected a text or an object with 'content'")
    special = key != DECODER or bool(given.get("special", False))
    flags = {flag: bool(given.get(flag, False)) for flag in ("lstrip", "rstrip", "single_word")}
    return Added(content, **flags, normalized=bool(given.get("normalized", not special)), special=special)
