"""Published files as records: a format is a function from a text to what stands in it, each with its place."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyformer.errors import ConfigError

Record = Mapping[str, Any]

SMALL, MOST_PACKED = 2**24, 200  # bytes that any file may become; for a larger one, how many each of its bytes may


@dataclass(frozen=True)
class Found:
    """A record and where it stands: number `number`, counted from 1, of the units (lines or records) of a source.

    values: by column; the columns of a table without a header are called "0", "1", …
    """

    source: str
    number: int
    values: Record
    unit: str = "line"

    def at(self, offset: int = 0) -> str:
        """Its place in words, `offset` units further on."""
        return f"{self.source}, {self.unit} {self.number + offset}"


Reader = Callable[[str, str], Iterator[Found]]
"""(text, name of its file) → what is found in it; ConfigError names the file and the line that is wrong."""


def content(path: Path, source: str) -> str:
    """A UTF-8 text file, unpacked where it ends in `.gz`; lines end in `\\n`. source: what is expected there."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror}); expected {source}. Download it and set data_dir."
        ) from error
    if path.suffix == ".gz":
        raw = unpacked(raw, path)
    try:
        return raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}, line {line}: expected UTF-8, got the byte {raw[error.start]:#04x}.") from error


def unpacked(packed: bytes, path: Path) -> bytes:
    """What gzip packed into the file at `path`; ConfigError where it is damaged, or few bytes become too many."""
    most = max(SMALL, MOST_PACKED * len(packed))
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(packed)) as file:
            raw = file.read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"{path} is not a whole gzip file ({error}); download it again.") from error
    if len(raw) > most:
        raise ConfigError(f"{path} has {len(packed)} bytes that become more than {most}; no data is packed like that.")
    return raw


def read(path: Path, source: str) -> list[Record]:
    """The records of a JSONL, JSON or CSV file. ConfigError says where to get a file that is not there."""
    reader = {".csv": csv_table, ".json": json_list}.get(path.suffix, json_lines)
    return [found.values for found in reader(content(path, source), str(path))]


def lines(text: str) -> list[str]:
    """What `\\n` ends; other characters that end a line somewhere are a part of it, so parallel files stay so.

    >>> lines("one\\n\\ntwo\\u2028three\\n")
    ['one', '', 'two\\u2028three']
    """
    found = text.split("\n")
    return found if found[-1] else found[:-1]


def whole(text: str, source: str) -> Iterator[Found]:
    """The file is one record, its `text`."""
    if text:
        yield Found(source, 1, {"text": text})


def each_line(text: str, source: str) -> Iterator[Found]:
    """A record a line, its `text`."""
    for number, line in enumerate(lines(text), 1):
        yield Found(source, number, {"text": line})


def tsv_table(text: str, source: str) -> Iterator[Found]:
    """Columns parted by TAB, quotes and all as they are; the first line is the header."""
    return _headed(_tabbed(text), source)


def tsv_rows(text: str, source: str) -> Iterator[Found]:
    """The same without a header."""
    return _bare(_tabbed(text), source)


def csv_table(text: str, source: str) -> Iterator[Found]:
    """Comma-separated values (RFC 4180), the first record being the header."""
    return _headed(_comma_separated(text, source), source)


def csv_rows(text: str, source: str) -> Iterator[Found]:
    """The same without a header."""
    return _bare(_comma_separated(text, source), source)


def json_lines(text: str, source: str) -> Iterator[Found]:
    """A JSON object a line; blank lines are passed over."""
    for number, line in enumerate(lines(text), 1):
        if line.strip():
            yield Found(source, number, _object(_parsed(line, source, number), f"{source}, line {number}"))


def json_list(text: str, source: str) -> Iterator[Found]:
    """A list of JSON objects, by itself or under `Data` (TriviaQA's)."""
    document = _parsed(text, source)
    listed = document.get("Data") if isinstance(document, Mapping) else document
    if not isinstance(listed, list):
        raise ConfigError(f"{source} is not a list of records; expected one, by itself or under `Data`.")
    for number, record in enumerate(listed, 1):
        yield Found(source, number, _object(record, f"{source}, record {number}"), "record")


def conll(text: str, source: str) -> Iterator[Found]:
    """Sentences parted by blank lines, in each a word a line, its columns parted by TAB (CoNLL-2003's in shape). A
    record has a list of each column."""
    rows: list[list[str]] = []
    begin = 1
    for number, line in enumerate([*lines(text), ""], 1):
        if line.strip():
            begin = begin if rows else number
            rows.append(line.rstrip("\n").split("\t"))
            _require_columns(rows[-1], len(rows[0]), f"{source}, line {number}")
        elif rows:
            yield Found(source, begin, {str(i): list(column) for i, column in enumerate(zip(*rows, strict=True))})
            rows = []


def squad(text: str, source: str) -> Iterator[Found]:
    """Questions on paragraphs of articles (SQuAD 1.1 and 2.0, arXiv:1606.05250 and 1806.03822): id, title, context,
    question, and answers, a list of {text, answer_start}, which is empty where there is no answer."""
    document, number = _parsed(text, source), 0
    try:
        for article in document["data"]:
            for paragraph in article["paragraphs"]:
                for asked in paragraph["qas"]:
                    number += 1
                    answers = [{k: answer[k] for k in ("text", "answer_start")} for answer in asked["answers"]]
                    values = {"id": asked["id"], "title": article.get("title", ""), "context": paragraph["context"]}
                    yield Found(source, number, {**values, "question": asked["question"], "answers": answers}, "record")
    except (KeyError, TypeError) as error:
        where = f"{source}, record {number or 1}"
        raise ConfigError(
            f"{where}: expected SQuAD's layout, which it breaks at {error}; download it again."
        ) from error


FORMATS: Mapping[str, tuple[Reader, Reader]] = {
    "tsv": (tsv_table, tsv_rows),
    "csv": (csv_table, csv_rows),
    "jsonl": (json_lines, json_lines),
    "json": (json_list, json_list),
    "conll": (conll, conll),
    "squad": (squad, squad),
    "lines": (each_line, each_line),
    "text": (whole, whole),
}
"""How to read a file, with a header and without, where that makes a difference."""


def _tabbed(text: str) -> Iterator[tuple[int, list[str]]]:
    return ((number, line.split("\t")) for number, line in enumerate(lines(text), 1) if line)


def _comma_separated(text: str, source: str) -> Iterator[tuple[int, list[str]]]:
    reader, before = csv.reader(io.StringIO(text, newline=""), strict=True), 0
    try:
        for row in reader:
            if row:
                yield before + 1, row
            before = reader.line_num
    except csv.Error as error:
        raise ConfigError(f"{source}, line {before + 1}: expected CSV, got a broken record ({error}).") from error


def _headed(rows: Iterator[tuple[int, list[str]]], source: str) -> Iterator[Found]:
    _, header = next(rows, (0, []))
    if not header:
        raise ConfigError(f"{source} is empty; expected a header and a record a line.")
    for number, row in rows:
        _require_columns(row, len(header), f"{source}, line {number}")
        yield Found(source, number, dict(zip(header, row, strict=True)))


def _bare(rows: Iterator[tuple[int, list[str]]], source: str) -> Iterator[Found]:
    width = None
    for number, row in rows:
        width = width or len(row)
        _require_columns(row, width, f"{source}, line {number}")
        yield Found(source, number, {str(i): value for i, value in enumerate(row)})


def _require_columns(row: Sequence[str], width: int, where: str) -> None:
    if len(row) != width:
        shown = "\t".join(row)
        raise ConfigError(f"{where}: expected {width} columns, got {len(row)}: {shown!r:.60}. Mend that line.")


def _parsed(text: str, source: str, line: int | None = None) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{source}, line {line or error.lineno}"
        raise ConfigError(
            f"{where}: expected JSON, got {error.msg} at column {error.colno}; download it again."
        ) from error
    except (RecursionError, ValueError) as error:  # too deep, or a number of thousands of digits
        where = source if line is None else f"{source}, line {line}"
        raise ConfigError(f"{where}: expected JSON, got what cannot be read ({error}); download it again.") from error


def _object(record: Any, where: str) -> Record:
    if not isinstance(record, Mapping):
        raise ConfigError(f"{where}: expected an object with named fields, got {record!r:.60}.")
    return record
