"""Finished work, a line of JSON each, in a file that only grows: whoever is stopped finds there what is done."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anyformer.errors import ConfigError


class Journal:
    """entries: mappings, in the order in which they were added, by this process or by any before it."""

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            text = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
        except OSError as error:
            raise self._unusable(error) from error
        self.entries = [entry for line in text.split("\n") if (entry := _entry(line)) is not None]

    def add(self, entry: dict[str, Any]) -> None:
        """On the disk when this returns. A line goes out in one piece, so that two processes do not mix theirs, and a
        line that a crash has cut short is ended first: readers pass over it."""
        line = json.dumps(entry).encode() + b"\n"
        try:
            with open(self.file, "a+b", buffering=0) as file:
                if end := file.seek(0, os.SEEK_END):
                    file.seek(end - 1)
                    line = line if file.read(1) == b"\n" else b"\n" + line
                file.write(line)
                os.fsync(file.fileno())
        except OSError as error:
            raise self._unusable(error) from error
        self.entries.append(entry)

    def _unusable(self, error: OSError) -> ConfigError:
        return ConfigError(
            f"{self.file.parent}: {self.file.name} cannot be kept there ({error.strerror}). Name another folder."
        )


class Kept:
    """Values by key, on a journal: each is made once. Of several lines of a key the last one counts."""

    def __init__(self, file: Path) -> None:
        self.journal = Journal(file)
        self._values = {
            entry["key"]: entry["value"] for entry in self.journal.entries if {"key", "value"} <= entry.keys()
        }

    def get(self, key: str) -> Any:
        """None where there is none."""
        return self._values.get(key)

    def keep(self, key: str, value: Any) -> None:
        self.journal.add({"key": key, "value": value})
        self._values[key] = value

    def once(self, key: str, make: Callable[[], Any]) -> Any:
        """The value, made if there is none."""
        if key not in self._values:
            self.keep(key, make())
        return self._values[key]


def _entry(line: str) -> dict[str, Any] | None:
    """None for a line that was cut short."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None
