"""What an evaluation has finished, kept until its report is written, so that one that was stopped goes on."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from anyformer.evaluation.report import Exhibit, Part, Result, SampleScore, write_whole

FOLDER = ".finished"


@dataclass
class Outcome:
    """What one task left."""

    results: list[Result]
    samples: list[SampleScore] = field(default_factory=list)
    exhibits: list[Exhibit] = field(default_factory=list)


class Finished:
    """Outcomes by task. identity: of all that a task's rows depend on but its own settings; None keeps nothing."""

    def __init__(self, folder: Path | None, identity: str | None) -> None:
        self.folder = None if folder is None or identity is None else folder / FOLDER
        self.identity = identity

    def get(self, entry: Mapping[str, Any]) -> Outcome | None:
        path = self._path(entry)
        try:
            content = None if path is None else json.loads(path.read_text(encoding="utf-8"))
            return None if content is None else _outcome(content)
        except (OSError, ValueError, KeyError, TypeError):  # not there, or cut short: it is scored again
            return None

    def keep(self, entry: Mapping[str, Any], outcome: Outcome) -> None:
        """A task with an error is tried again."""
        path = self._path(entry)
        if path is None or any(result.error for result in outcome.results):
            return
        content = {
            "results": [asdict(result) for result in outcome.results],
            "samples": [asdict(sample) for sample in outcome.samples],
            "exhibits": [asdict(exhibit) for exhibit in outcome.exhibits],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(content, default=_bytes))

    def clear(self) -> None:
        """The report says it all."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, entry: Mapping[str, Any]) -> Path | None:
        if self.folder is None:
            return None
        said = json.dumps([self.identity, entry], sort_keys=True, default=str)
        return self.folder / f"{sha256(said.encode()).hexdigest()[:16]}.json"


def _outcome(content: Mapping[str, Any]) -> Outcome:
    results = []
    for row in content["results"]:
        interval = row.pop("interval")
        results.append(Result(**row, interval=tuple(interval) if interval else None))
    exhibits = [Exhibit(parts=_parts(one.pop("parts")), **one) for one in content["exhibits"]]
    return Outcome(results, [SampleScore(**sample) for sample in content["samples"]], exhibits)


def _parts(parts: Sequence[Mapping[str, Any]]) -> list[Part]:
    contents = [part["content"] for part in parts]
    said = [one if isinstance(one, str) else base64.b64decode(one["bytes"]) for one in contents]
    return [Part(part["label"], part["mime"], content) for part, content in zip(parts, said, strict=True)]


def _bytes(value: Any) -> Any:
    return {"bytes": base64.b64encode(value).decode()} if isinstance(value, bytes) else str(value)
