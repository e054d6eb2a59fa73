"""Clips that others keep: in torchaudio's data sets, whose files are read without torchaudio (which needs FFmpeg), and
in the hub's, whose audio is decoded by soundfile."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from anyformer.errors import unknown
from anyformer_tasks.language.hub import Unreachable, opened
from anyformer_tasks.packages import require
from anyformer_tasks.sound.clip import Clip


def rows(text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """The lines of a table, counted from 1. Where a comma parts its columns, quotes may hold some."""
    quoting = csv.QUOTE_MINIMAL if separator == "," else csv.QUOTE_NONE
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, quoting=quoting)
    return ((reader.line_num, row) for row in reader if row)


def torchaudio_clips(page: Mapping[str, Any], split: str, folder: Path) -> list[Clip]:
    """page: {reader, columns, splits}, see SoundSet. Its files lie in `folder`; nothing is downloaded."""
    from torchaudio import datasets

    if split not in page["splits"]:
        raise unknown("split", split, page["splits"])
    try:
        reader = getattr(datasets, page["reader"])(folder, **page["splits"][split])
        told = [reader.get_metadata(number) for number in range(len(reader))]
    except (RuntimeError, OSError, ValueError) as error:
        raise Unreachable(next(iter(str(error).splitlines()), type(error).__name__)) from error
    found = []
    for row in told:
        values = dict(zip(page["columns"], map(str, row), strict=True))
        place = values[page["columns"][0]]
        found.append(Clip(place, str(Path(reader._archive) / place), values))
    return found


def hub_clips(page: Mapping[str, Any], split: str) -> list[Clip]:
    """page: {path, config, revision, splits, fields}, see SoundSet. fields: ours → the set's columns; `audio` is the
    clip, which `datasets` hands over as a file's path or its bytes."""
    require("datasets", "hf", f"The set {page['path']!r} of the hub is read by")
    import datasets  # takes seconds

    columns = {"audio": "audio", **page.get("fields", {})}
    theirs = page.get("splits", {}).get(split, split)
    table = opened(page["path"], theirs, page.get("config"), page.get("revision"))
    for column in columns.values():
        if column not in table.column_names:
            raise unknown(f"column of {page['path']}:", column, table.column_names)
    table = table.cast_column(columns["audio"], datasets.Audio(decode=False))
    classes = {name: feature for name, feature in table.features.items() if hasattr(feature, "int2str")}
    found = []
    for number, row in enumerate(table):
        held = row[columns["audio"]]
        raw = {
            name: classes[column].int2str(row[column]) if column in classes else str(row[column])
            for name, column in columns.items()
            if name != "audio"
        }
        place = held["bytes"] if held["bytes"] is not None else held["path"]
        found.append(Clip(f"{split}-{number}", place, raw))
    return found
