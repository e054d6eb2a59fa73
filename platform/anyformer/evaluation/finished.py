"""What an evaluation has finished, kept until its report is written, so that one that was stopped goes on."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from anyformer.evaluation.report import Exhibit, Part, Result, SampleScore
from anyformer.journal import Kept

FILE = ".finished.jsonl"


@dataclass
class Outcome:
    """What one task left."""

    results: list[Result]
    samples: list[SampleScore] = field(default_factory=list)
    exhibits: list[Exhibit] = field(default_factory=list)


class Finished:
    """Outcomes by task. identity: of all that a task's rows depend on but its own settings; None keeps nothing."""

    def __init__(self, folder: Path | None, identity: str | None) -> None:
        self.kept = None if folder is None or identity is None else Kept(folder / FILE)
        self.identity = identity

    def get(self, entry: Mapping[str, Any]) -> Outcome | None:
        content = None if self.kept is None else self.kept.get(self._key(entry))
        return None if content is None else _outcome(content)

    def keep(self, entry: Mapping[str, Any], outcome: Outcome) -> None:
        """A task with an error is tried again."""
        if self.kept is None or any(result.error for result in outcome.results):
            return
        content = {
            "results": [asdict(result) for result in outcome.results],
            "samples": [asdict(sample) for sample in outcome.samples],
            "exhibits": [asdict(exhibit) for exhibit in outcome.exhibits],
        }
        self.kept.keep(self._key(entry), json.loads(json.dumps(content, default=_bytes)))

    def clear(self) -> None:
        """The report says it all."""
        if self.kept is not None:
            self.kept.journal.file.unlink(missing_ok=True)

    def _key(self, entry: Mapping[str, Any]) -> str:
        said = json.dumps([self.identity, entry], sort_keys=True, default=str)
        return sha256(said.encode()).hexdigest()[:16]


def _outcome(content: Mapping[str, Any]) -> Outcome:
    results = []
    for row in map(dict, content["results"]):
        interval = row.pop("interval")
        results.append(Result(**row, interval=tuple(interval) if interval else None))
    exhibits = [Exhibit(parts=_parts(one.pop("parts")), **one) for one in map(dict, content["exhibits"])]
    return Outcome(results, [SampleScore(**sample) for sample in content["samples"]], exhibits)


def _parts(parts: Sequence[Mapping[str, Any]]) -> list[Part]:
    contents = [part["content"] for part in parts]
    said = [one if isinstance(one, str) else base64.b64decode(one["bytes"]) for one in contents]
    return [Part(part["label"], part["mime"], content) for part, content in zip(parts, said, strict=True)]


def _bytes(value: Any) -> Any:
    return {"bytes": base64.b64encode(value).decode()} if isinstance(value, bytes) else str(value)
