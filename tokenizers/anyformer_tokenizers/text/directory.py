"""A tokenizer's files in the hub's layout: taken from a directory, kept as bytes, sealed into a state."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyformer.errors import AnyformerError, TokenizerError

CONFIG = "tokenizer_config.json"
NAMES = (
    *("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt"),
    *("spiece.model", "tokenizer.model", "sentencepiece.bpe.model"),
    *("source.spm", "target.spm", "target_vocab.json"),
    *(CONFIG, "special_tokens_map.json", "added_tokens.json"),
    *("normalizer.json", "chat_template.jinja"),  # not read here; they travel with the others
)
"""Every file that belongs to a tokenizer. Nothing else in the directory is touched, and no file is code."""

SEAL = "files.json"
"""In a state, the sha256 of each file: a lost or damaged one is noticed even where it could be done without."""

LARGEST = 2**28  # bytes; the largest published vocabularies take a tenth of it
ANEW = "Fetch it again, or save the tokenizer anew with transformers' save_pretrained."


@dataclass(frozen=True)
class Files:
    """Contents by name; `where` says in a sentence where they came from."""

    contents: Mapping[str, bytes]
    where: str

    def __contains__(self, name: str) -> bool:
        return name in self.contents

    def text(self, name: str) -> str:
        """The file as UTF-8."""
        with self.reading(name, "UTF-8 text"):
            return self.contents[name].decode()

    def json(self, name: str) -> dict[str, Any]:
        """The file as a JSON object."""
        with self.reading(name, "a JSON object"):
            found = json.loads(self.contents[name])
            if not isinstance(found, dict):
                raise TypeError(f"it is a {type(found).__name__}")
            return found

    @contextmanager
    def reading(self, name: str, what: str) -> Generator[None]:
        """Whatever goes wrong inside is a TokenizerError about the file."""
        with translated(lambda why: self.bad(name, f"cannot be read as {what} ({why})")):
            yield

    def bad(self, name: str, complaint: str, cure: str = ANEW) -> TokenizerError:
        return TokenizerError(f"{name} of {self.where} {complaint}. {cure}")


@contextmanager
def translated(said: Callable[[str], AnyformerError]) -> Generator[None]:
    """A foreign library's error as one of ours, its message made by `said`."""
    try:
        yield
    except AnyformerError:
        raise
    except BaseException as error:
        # A panic of a library written in Rust is a BaseException without a module to import it from.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise said(" ".join(f"{error}".split()).rstrip(".") or type(error).__name__) from error


def gathered(directory: str | os.PathLike[str]) -> Files:
    """The tokenizer's files in a directory; TokenizerError where it is none or a file cannot be read."""
    folder = Path(directory)
    if not folder.is_dir():
        raise TokenizerError(
            f"{folder} is no directory; expected one with a tokenizer's files, such as tokenizer.json. "
            "Nothing is downloaded: fetch the checkpoint first and give the path to it."
        )
    contents = {}
    for path in (folder / name for name in NAMES):
        if not path.is_file():
            continue
        size = path.stat().st_size
        if size > LARGEST:
            raise TokenizerError(f"{path} has {size} bytes; expected at most {LARGEST}. It is no tokenizer's file.")
        try:
            contents[path.name] = path.read_bytes()
        except OSError as error:
            raise TokenizerError(f"{path} cannot be read ({error.strerror}); make it readable.") from error
    return Files(contents, str(folder))


def sealed(files: Files) -> dict[str, bytes]:
    """The files and their seal, as a tokenizer's state."""
    seal = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.contents.items())}
    return {**files.contents, SEAL: json.dumps(seal, indent=1).encode()}


def unsealed(state: Mapping[str, bytes], name: str) -> Files:
    """The files of a state; TokenizerError when one is missing, strange or not as it was sealed."""
    where = f"tokenizer {name!r}"
    if SEAL not in state:
        raise TokenizerError(f"The state of {where} lacks {SEAL!r}; expected it among {sorted(state) or 'no files'}.")
    seal = Files(state, f"the state of {where}").json(SEAL)
    contents = {file: content for file, content in state.items() if file != SEAL}
    if set(seal) != set(contents) or not set(seal) <= set(NAMES):
        raise TokenizerError(
            f"The state of {where} has the files {sorted(contents)}; expected those that {SEAL} lists: "
            f"{sorted(seal)}. Use another checkpoint of the run."
        )
    for file, content in contents.items():
        if hashlib.sha256(content).hexdigest() != seal[file]:
            raise TokenizerError(f"The file {file!r} of {where} is damaged. Use another checkpoint of the run.")
    return Files(contents, f"the state of {where}")
