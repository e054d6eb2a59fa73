"""Published data sets as data: a page of configs/datasets says what a set's files are called and how they are read.

    Dataset.named("sst2", "data/sst2").records("train")[0]   →  {"sentence": "a stirring …", "label": "positive"}

A record is what the set's page makes of it: fields by name, with values that a person can read.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Self, cast

from anyformer.contracts import SPLITS, Split
from anyformer.errors import ConfigError, unknown
from anyformer_tasks.files import FORMATS, Found, Record, content
from anyformer_tasks.language import hub
from anyformer_tasks.pages import HeldOut, read_page, without_held_out


@dataclass
class Dataset:
    """Records of a published data set, from its files or from the hub.

    origin: how to get it, a sentence. data_dir: the set's own folder, or one that holds it under the name `folder`
    (the set's name by default); without one, the set is loaded from the hub.
    files: by split, its file, or one for each field where their lines are parallel (a .jsonl among them brings its own
        fields); a single one where `parts` cut it.
    format: one of FORMATS. fields: ours → the file's columns, which are counted from 0 where there is no header; by
    default they are taken as they are. names: by field, readable values for raw ones. numbers: fields to be numbers.
    parts: by split, which fractions [begin, end) of the whole it is: of a text's characters, or of the units in their
    order. unit: the field whose runs of one value are never parted (a paragraph's questions). held_out: by split, of
    which one every n-th record is taken out for it (`{validation: {of: train, every: 10}}`).
    hub: path (a directory will do), config, revision, splits (ours → theirs), fields, unit: where they differ.
    """

    name: str
    origin: str
    data_dir: str = ""
    folder: str = ""
    files: str | Mapping[str, Any] = ""
    format: str = "jsonl"
    fields: Mapping[str, str | int] = field(default_factory=dict)
    names: Mapping[str, Mapping[Any, str]] = field(default_factory=dict)
    numbers: Sequence[str] = ()
    parts: Mapping[str, Sequence[float]] = field(default_factory=dict)
    unit: str = ""
    held_out: HeldOut = field(default_factory=dict)
    hub: Mapping[str, Any] = field(default_factory=dict)

    shelf: ClassVar[str] = "datasets"
    formats: ClassVar[Mapping[str, Any]] = FORMATS

    def __post_init__(self) -> None:
        if self.format not in self.formats:
            raise unknown(f"format of the data set {self.name!r}:", self.format, self.formats)
        for setting, shape in SHAPES.items():
            if not shape(getattr(self, setting)):
                raise ConfigError(
                    f"The data set {self.name!r} has {setting}={getattr(self, setting)!r:.60}; expected what "
                    "anyformer_tasks.language.dataset says of it."
                )
        self._records: dict[str, list[Record]] = {}

    @classmethod
    def named(cls, name: str, data_dir: str = "") -> Self:
        """The set of that name on the shelf in configs, or the one that the YAML file at that path describes."""
        settings = [f.name for f in fields(cls) if f.name not in ("name", "data_dir")]
        own, page = read_page(cls.shelf, name, settings, ("files", "hub"), "`files` or `hub`")
        return cls(own, data_dir=data_dir, **page)

    def records(self, split: Split) -> list[Record]:
        """The split's records: the same ones in the same order at every call. ConfigError says how to get a set that
        is not there, and names the file and the line of what is wrong in it."""
        if split not in self._records:
            found = [self._finished(one) for one in self._split(split)]
            if not found:
                raise ConfigError(f"The split {split!r} of the data set {self.name!r} is empty; {self._cure()}")
            self._records[split] = found
        return self._records[split]

    @property
    def splits(self) -> list[Split]:
        """The splits that there are."""
        given = self._given
        known = SPLITS if isinstance(given, str) else given
        return [split for split in SPLITS if split in self.parts or split in self.held_out or split in known]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_records": {}}  # workers read their own

    @property
    def _local(self) -> bool:
        return bool(self.data_dir) or not self.hub

    @property
    def _given(self) -> str | Mapping[str, Any]:
        """Files by split, or the hub's splits by ours; one for all where parts cut it."""
        return self.files if self._local else self.hub.get("splits", {split: split for split in SPLITS})

    def _split(self, split: Split) -> list[Found]:
        if split not in self.splits:
            raise unknown(f"split of the data set {self.name!r}:", split, self.splits)
        return without_held_out(split, self.held_out, lambda part: self._source(cast(Split, part)))

    def _source(self, split: Split) -> list[Found]:
        """What the file or the hub has for a split, before any record is held out of it."""
        given = self._given if isinstance(self._given, str) else self._given[split]
        found = list(self._read(given) if self._local else self._loaded(given))
        if not found:
            return found
        if self.format == "text" and not self._local:
            found = [Found(found[0].source, 1, {"text": "".join(one.values["text"] for one in found)})]
        return self._part(found, *self.parts[split]) if split in self.parts else found

    def _part(self, found: list[Found], begin: float, end: float) -> list[Found]:
        if self.format == "text":
            (one,) = found
            text = one.values["text"]
            return [Found(one.source, 1, {"text": text[int(begin * len(text)) : int(end * len(text))]})]
        unit = self.unit if self._local else self.hub.get("unit", self.unit)
        runs = itertools.groupby(found, lambda one: one.values[unit] if unit else id(one))
        units = [list(run) for _, run in runs]
        return [one for run in units[int(begin * len(units)) : int(end * len(units))] for one in run]

    def _read(self, given: str | Mapping[str, str]) -> Iterator[Found]:
        if isinstance(given, Mapping):
            return self._parallel(given)
        headless = bool(self.fields) and all(isinstance(column, int) for column in self.fields.values())
        reader = self.formats[self.format][headless]
        return reader(self._text(given), str(self._folder / given))

    def _parallel(self, files: Mapping[str, str]) -> Iterator[Found]:
        found = {
            name: list(self._reader(file)(self._text(file), str(self._folder / file))) for name, file in files.items()
        }
        (first, rows), *others = found.items()
        for name, other in others:
            if len(other) != len(rows):
                raise ConfigError(
                    f"{self._folder / files[name]} has {len(other)} lines and {self._folder / files[first]} has "
                    f"{len(rows)}: after line {min(len(other), len(rows))} one is alone; expected parallel files. "
                    "Download both again."
                )
        for row in zip(*found.values(), strict=True):
            values: dict[str, Any] = {}
            for name, one in zip(found, row, strict=True):
                values |= {name: one.values["text"]} if list(one.values) == ["text"] else one.values
            yield Found(row[0].source, row[0].number, values)

    def _reader(self, file: str) -> Callable[[str, str], Iterator[Found]]:
        """Of one of several parallel files: by its own ending, where that is a format (records beside their labels)."""
        return self.formats.get(Path(file.removesuffix(".gz")).suffix[1:], self.formats[self.format])[0]

    @property
    def _folder(self) -> Path:
        own = Path(self.data_dir) / (self.folder or self.name)
        return own if own.is_dir() else Path(self.data_dir)

    def _text(self, file: str) -> str:
        path = self._folder / file
        if not path.is_file():
            raise ConfigError(f"The data set {self.name!r} has no file {path}; {self._cure()}")
        return content(path, self.origin)

    def _loaded(self, split: str) -> list[Found]:
        if not hub.is_installed():
            raise ConfigError(f"The data set {self.name!r} needs its files; {self._cure()}")
        settings = {key: self.hub[key] for key in ("config", "revision") if key in self.hub}
        try:
            return hub.load(self.hub["path"], split, **settings)
        except hub.Unreachable as error:
            raise ConfigError(f"The data set {self.name!r} could not be loaded ({error}); {self._cure()}") from error

    def _cure(self) -> str:
        """How to get the set."""
        way = f"get it ({self.origin.rstrip('.')}) and give its folder as --data_dir"
        if self.hub:
            way += (
                f", or leave data_dir out, with a network and pip install 'anyformer[hf]', to load {self.hub['path']}"
            )
        return f"{way}."

    def _finished(self, found: Found) -> Record:
        """Our fields with readable values."""
        chosen = self.fields if self._local else self.hub.get("fields", {})
        record = {name: self._chosen(found, str(column)) for name, column in chosen.items()} or dict(found.values)
        for name, readable in self.names.items():
            record[name] = self._readable(found, name, record, {str(raw): said for raw, said in readable.items()})
        for name in self.numbers:
            try:
                record[name] = float(record[name])
            except (KeyError, TypeError, ValueError):
                raise ConfigError(
                    f"{found.at()}: expected a number as {name!r}, got {record.get(name)!r:.40}."
                ) from None
        return record

    def _chosen(self, found: Found, column: str) -> Any:
        if column not in found.values:
            columns = ", ".join(map(repr, found.values))
            raise ConfigError(f"{found.at()}: expected a column {column!r}, got {columns}; {self._cure()}")
        return found.values[column]

    def _readable(self, found: Found, name: str, record: Record, readable: Mapping[str, str]) -> Any:
        if name not in record:
            raise unknown(f"field in `names` of the data set {self.name!r}:", name, record)
        raw = record[name]
        said = []
        for offset, value in enumerate(raw if isinstance(raw, list) else [raw]):
            if str(value) not in readable and value not in readable.values():
                raise ConfigError(
                    f"{found.at(offset)}: unknown {name} {value!r:.40}; expected one of: {', '.join(readable)}."
                )
            said.append(readable.get(str(value), value))
        return said if isinstance(raw, list) else said[0]


def _is_mapping_of(value: Any, fits: Callable[[Any], bool]) -> bool:
    return isinstance(value, Mapping) and all(map(fits, value.values()))


SHAPES: Mapping[str, Callable[[Any], bool]] = {
    "origin": lambda value: isinstance(value, str),
    "files": lambda value: (
        isinstance(value, str)
        or _is_mapping_of(
            value, lambda file: isinstance(file, str) or _is_mapping_of(file, lambda f: isinstance(f, str))
        )
    ),
    "fields": lambda value: _is_mapping_of(value, lambda column: isinstance(column, str | int)),
    "names": lambda value: _is_mapping_of(value, lambda names: isinstance(names, Mapping)),
    "numbers": lambda value: isinstance(value, Sequence) and not isinstance(value, str),
    "parts": lambda value: _is_mapping_of(value, lambda part: len(part) == 2 and 0 <= part[0] < part[1] <= 1),
    "held_out": lambda value: _is_mapping_of(value, lambda rule: {*rule} == {"of", "every"} and rule["every"] > 1),
    "hub": lambda value: isinstance(value, Mapping) and (not value or isinstance(value.get("path"), str)),
}
"""What a page's settings must look like."""
