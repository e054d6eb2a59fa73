"""Published sets of recordings as data: a page of configs/datasets/sound says where the clips are and what is said of
each of them.

    SoundSet.named("fsdd", "data/fsdd").clips("test")[0]
        →  Clip("recordings/0_george_0.wav", fields={"digit": "zero", "speaker": "george", "take": "0"})
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from anyformer.contracts import SPLITS, Split
from anyformer.errors import ConfigError, unknown
from anyformer_tasks.files import content
from anyformer_tasks.pages import HeldOut, read_page, without_held_out
from anyformer_tasks.sound import elsewhere
from anyformer_tasks.sound.clip import Clip
from anyformer_tasks.sound.pauses import trimmed, words_of


@dataclass
class SoundSet:
    """Clips of a published set, from its files, from torchaudio's readers or from the hub.

    origin: how to get it, a sentence. data_dir: the set's own folder, or one that holds it under the name `folder`
    (the set's name by default).
    files: a pattern of the clips' paths, in whose order they come. path: a regular expression of a clip's path without
    its ending, whose named groups are its fields.
    table: {file, separator, columns, clip}, instead: a file with a line for each clip. separator: a comma by default.
    columns: their names, where the first line does not say them. clip: the path, as a template over the columns.
    torchaudio: {reader, columns, splits}, instead: a class of torchaudio.datasets, what its `get_metadata` tells in
    turn, the path first, and by split what it is made with.
    hub: {path, config, revision, splits, fields}, instead: a set with a column `audio` (a directory will do).
    parted: by field, what stands between the parts of its list. names: by field, readable values for raw ones.
    splits: by split, which clips it has: by field, a regular expression of its whole value. The rest is for training.
    held_out: by split, of which one every n-th clip is taken out for it (`{validation: {of: train, every: 10}}`).
    cut: the field, a list, at the pauses between whose parts each recording is cut up: its clips are these parts. One
    in which not as many are told apart is left out.
    trim: decibels; of every clip, what is softer at both ends than so much below its loudest is cut off.
    """

    name: str
    origin: str
    data_dir: str = ""
    folder: str = ""
    files: str = ""
    path: str = ""
    table: Mapping[str, Any] = field(default_factory=dict)
    torchaudio: Mapping[str, Any] = field(default_factory=dict)
    hub: Mapping[str, Any] = field(default_factory=dict)
    parted: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, Mapping[Any, str]] = field(default_factory=dict)
    splits: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    held_out: HeldOut = field(default_factory=dict)
    cut: str = ""
    trim: float | None = None

    def __post_init__(self) -> None:
        given = [kind for kind in ("files", "table", "torchaudio", "hub") if getattr(self, kind)]
        if len(given) != 1:
            raise ConfigError(
                f"The data set {self.name!r} has {' and '.join(given) or 'no clips'}; expected one of files, table, "
                "torchaudio and hub."
            )
        for split in [*self.splits, *self.held_out]:
            if split not in SPLITS:
                raise unknown(f"split of the data set {self.name!r}:", str(split), SPLITS)
        if self.trim is not None and not 0 < self.trim < math.inf:
            raise ConfigError(f"The data set {self.name!r} has trim={self.trim}; expected more than 0 dB, or none.")
        self._all: dict[str, list[Clip]] = {}

    @classmethod
    def named(
        cls, name: str, data_dir: str = "", leave_out: Mapping[str, Any] | None = None, trim: float | None = None
    ) -> SoundSet:
        """The set of that name in configs/datasets/sound, or the one that the YAML file at that path describes.

        leave_out: if any, the test split is what has all these values, and nothing else: a speaker, a fold. trim: if
        any, instead of the page's."""
        settings = [f.name for f in fields(cls) if f.name not in ("name", "data_dir")]
        own, page = read_page("datasets/sound", name, settings, where="where its clips are")
        found = cls(own, data_dir=data_dir, **page)
        rule = {name: re.escape(str(value)) for name, value in (leave_out or {}).items()}
        found = replace(found, splits={**found.splits, "test": rule}) if rule else found
        return found if trim is None else replace(found, trim=trim)

    def clips(self, split: Split) -> list[Clip]:
        """The split's clips: the same ones in the same order at every call. ConfigError says how to get a set that is
        not there, and names the file that is not as it should be."""
        found = without_held_out(split, self.held_out, self._found)
        if self.cut:
            found = [part for clip in found for part in words_of(clip, self.cut)]
        return found if self.trim is None else [trimmed(clip, self.trim) for clip in found]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_all": {}}  # workers read their own

    def _found(self, split: str) -> list[Clip]:
        """Before any clip is held out of it."""
        if self.torchaudio or self.hub:
            chosen = self._read(split)
        else:
            rules = {name: rule for name, rule in self.splits.items() if rule}
            fits = {name: [clip for clip in self._read("") if self._fits(clip, rule)] for name, rule in rules.items()}
            taken = {clip.name for clips in fits.values() for clip in clips}
            rest = [clip for clip in self._read("") if clip.name not in taken]
            chosen = fits.get(split, rest if split == "train" else [])
        if not chosen:
            raise ConfigError(f"The split {split!r} of the data set {self.name!r} has no clips; {self.cure()}")
        return chosen

    def _fits(self, clip: Clip, rule: Mapping[str, str]) -> bool:
        for name in rule:
            if name not in clip.fields:
                raise unknown(f"field of the data set {self.name!r}:", name, clip.fields)
        return all(re.fullmatch(str(pattern), clip.raw[name]) for name, pattern in rule.items())

    def _read(self, split: str) -> list[Clip]:
        if split not in self._all:
            read: Callable[[], Sequence[Clip]] = {
                bool(self.files): self._by_name,
                bool(self.table): self._by_table,
                bool(self.torchaudio): lambda: elsewhere.torchaudio_clips(self.torchaudio, split, self._folder),
                bool(self.hub): lambda: elsewhere.hub_clips(self.hub, split),
            }[True]
            try:
                self._all[split] = [self._finished(clip) for clip in read()]
            except elsewhere.Unreachable as error:
                raise ConfigError(f"The data set {self.name!r} could not be loaded ({error}); {self.cure()}") from error
        return self._all[split]

    @property
    def _folder(self) -> Path:
        own = Path(self.data_dir) / (self.folder or self.name)
        return own if own.is_dir() else Path(self.data_dir)

    def _by_name(self) -> list[Clip]:
        found = []
        for path in sorted(self._folder.glob(self.files)) if self.data_dir else []:
            place = path.relative_to(self._folder)
            told = re.fullmatch(self.path, place.with_suffix("").as_posix())
            if told is None:
                raise ConfigError(f"{path} is not named as the clips of {self.name!r} are ({self.path}); take it out.")
            found.append(Clip(place.as_posix(), str(path), told.groupdict()))
        return found

    def _by_table(self) -> list[Clip]:
        path = self._folder / self.table["file"]
        if not path.is_file():
            raise ConfigError(f"The data set {self.name!r} has no file {path}; {self.cure()}")
        separator, found = self.table.get("separator", ","), []
        rows = elsewhere.rows(content(path, self.origin), separator)
        columns = self.table.get("columns") or next(rows, (1, []))[1]
        for number, row in rows:
            if len(row) != len(columns):
                raise ConfigError(
                    f"{path}, line {number}: expected {len(columns)} columns parted by {separator!r}, got {len(row)}. "
                    "Mend that line."
                )
            told = dict(zip(columns, row, strict=True))
            place = str(self.table["clip"]).format(**told)
            found.append(Clip(place, str(self._folder / place), told))
        return found

    def _finished(self, clip: Clip) -> Clip:
        """With readable fields."""
        told: dict[str, Any] = dict(clip.raw)
        for name, between in self.parted.items():
            told[name] = told[name].split(between)
        for name, readable in self.names.items():
            said = {str(raw): text for raw, text in readable.items()}
            parts = told[name] if isinstance(told[name], list) else [told[name]]
            for part in parts:
                if part not in said:
                    raise ConfigError(f"{clip.name}: unknown {name} {part!r:.40}; expected one of: {', '.join(said)}.")
            told[name] = [said[part] for part in parts] if isinstance(told[name], list) else said[told[name]]
        return replace(clip, fields=told)

    def cure(self) -> str:
        """How to get the set."""
        return f"get it ({self.origin.rstrip('.')}) and give its folder as --data_dir."
