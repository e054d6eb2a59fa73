"""Pictures as values of a small vocabulary, by a model that has learned them with the objective `quantised`.

    QuantisedTokenizer(checkpoint="runs/codes/last")  →  "picture": int64[rows · columns], row by row

A learned tokenizer is a frozen model: it travels within its owner's checkpoint, and its fingerprint is the tokenizer's.
"""

from __future__ import annotations

import io
import math
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch

from anyformer.batch import Example, pack
from anyformer.contracts import Tokenizer
from anyformer.errors import AnyformerError, ConfigError, SampleError, TokenizerError
from anyformer.objectives.quantised import codebook, nearest_codes, rebuilt
from anyformer.tokens import Stream, StreamSpec, Tokens

if TYPE_CHECKING:
    from anyformer.model import Model

FILE = "model.zip"
EARLY = (1980, 1, 1, 0, 0, 0)  # the same bytes whenever they are written


@dataclass
class QuantisedTokenizer(Tokenizer):
    """A square picture ⇄ its codes, row by row, a discrete stream named after the tokenizer.

    checkpoint: of the model; it is read when the tokenizer is fitted. reader: the model's tokenizer of pictures. codes:
    its stream of codes.
    """

    name: str = "picture"
    checkpoint: str = ""
    reader: str = "image"
    codes: str = "codes"
    _packed: bytes | None = field(default=None, init=False, repr=False, compare=False)

    fidelity: ClassVar[Literal["exact", "approximate", "none"]] = "approximate"

    @property
    def streams(self) -> tuple[StreamSpec, ...]:
        return (StreamSpec.discrete(self.name, self.model.specs[self.codes].width),)

    @torch.no_grad()
    def encode(self, raw: Any) -> Tokens:
        read = self.model.tokenizers[self.reader].encode(raw)
        self._side(read.length)
        batch = pack([Example(read, {}, read.length)], self.model.rank)
        slots = read.streams[self.reader].slots
        chosen, _ = nearest_codes(self.model(batch)[slots].float(), codebook(self.model, self.codes).float())
        return Tokens.of(self.name, chosen)

    @torch.no_grad()
    def decode(self, tokens: Tokens) -> Any:
        """The picture that the model makes of these codes. TokenizerError where they fill no square."""
        values = tokens.streams[self.name].values if self.name in tokens.streams else torch.zeros(0, dtype=torch.int64)
        table = codebook(self.model, self.codes)
        if not len(values) or not bool(((values >= 0) & (values < len(table))).all()):
            raise TokenizerError(f"Tokenizer {self.name!r} decodes 1 or more codes below {len(table)}; got {values}.")
        side = self._side(len(values))
        grid = torch.cartesian_prod(torch.arange(side), torch.arange(side))
        laid = Tokens({}, len(values), grid)
        batch = pack([Example(laid, {}, len(values))], self.model.rank)
        said = rebuilt(self.model, batch, self.reader, torch.arange(len(values)), table[values])
        return self.model.tokenizers[self.reader].decode(Tokens({self.reader: Stream.whole(said)}, len(values), grid))

    def length(self, raw: Any) -> int:
        return self.model.tokenizers[self.reader].length(raw)

    def example(self, rng: np.random.Generator) -> Any:
        raw = self.model.tokenizers[self.reader].example(rng)
        side = 2 * getattr(self.model.tokenizers[self.reader], "patch", 1)
        return np.resize(raw, (side, side, raw.shape[2]))

    def render(self, raw: Any) -> dict[str, bytes | str]:
        return self.model.tokenizers[self.reader].render(raw)

    @property
    def fitted(self) -> bool:
        return self._packed is not None

    def fit(self, samples: Iterable[Any]) -> None:
        """Read the model; ConfigError where there is none, or it has no such tokenizer and codes."""
        from anyformer.checkpoint import load, save

        if not self.checkpoint:
            raise ConfigError(
                f"Tokenizer {self.name!r} needs a checkpoint: of a model trained with the objective quantised."
            )
        with tempfile.TemporaryDirectory() as folder:  # the model alone, without a trainer's state
            save(load(self.checkpoint), Path(folder) / "model")
            self.restore({FILE: _zipped(Path(folder) / "model")})

    def state(self) -> dict[str, bytes]:
        return {} if self._packed is None else {FILE: self._packed}

    def restore(self, state: Mapping[str, bytes]) -> None:
        self.__dict__.pop("model", None)
        self._packed = state.get(FILE)
        try:
            model = self.model
        except (AnyformerError, zipfile.BadZipFile, OSError) as error:
            self._packed = None
            raise TokenizerError(
                f"Tokenizer {self.name!r} cannot read {FILE!r} of the files {sorted(state)} ({error}); restore it from "
                "an undamaged checkpoint."
            ) from error
        if self.reader not in model.tokenizers or self.reader not in model.specs:
            raise ConfigError(
                f"Tokenizer {self.name!r} has reader={self.reader!r}; its model has: {', '.join(model.tokenizers)}."
            )
        codebook(model, self.codes)

    @cached_property
    def model(self) -> Model:
        from anyformer.checkpoint import load

        if self._packed is None:
            raise TokenizerError(f"Tokenizer {self.name!r} has no model yet; call fit, or restore a state.")
        with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(io.BytesIO(self._packed)) as packed:
            if sum(file.file_size for file in packed.infolist()) > len(self._packed):  # ours are not compressed
                raise TokenizerError(f"Tokenizer {self.name!r} has a model that claims to be larger than its file.")
            packed.extractall(folder)  # names that lead elsewhere are made harmless by the library
            return load(folder).requires_grad_(False)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "model"}  # workers read their own

    def _side(self, count: int) -> int:
        side = math.isqrt(count)
        if side * side != count:
            raise SampleError(
                f"Tokenizer {self.name!r} takes square pictures; {count} patches fill no square. Crop or resize them."
            )
        return side


def _zipped(folder: Path) -> bytes:
    """Equal files give equal bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as packed:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            packed.writestr(zipfile.ZipInfo(path.relative_to(folder).as_posix(), EARLY), path.read_bytes())
    return out.getvalue()


@dataclass
class CodesTokenizer(Tokenizer):
    """Numbers below `size` as they are: a codebook in the making. A raw value is a list of them."""

    name: str = "codes"
    size: int = 256

    def __post_init__(self) -> None:
        if self.size < 2:
            raise ConfigError(f"Tokenizer {self.name!r} has size={self.size}; expected at least 2 codes.")

    @property
    def streams(self) -> tuple[StreamSpec, ...]:
        return (StreamSpec.discrete(self.name, self.size),)

    def encode(self, raw: Any) -> Tokens:
        try:
            values = torch.tensor(np.asarray(raw, dtype=np.int64).reshape(-1))
        except (TypeError, ValueError, OverflowError) as error:
            raise SampleError(f"Codes for {self.name!r} are {raw!r:.40}; expected whole numbers ({error}).") from error
        if not len(values) or not 0 <= int(values.min()) <= int(values.max()) < self.size:
            raise SampleError(
                f"Codes for {self.name!r} are {raw!r:.40}; expected one or more numbers from 0 to {self.size - 1}."
            )
        return Tokens.of(self.name, values)

    def decode(self, tokens: Tokens) -> list[int]:
        if self.name not in tokens.streams:
            raise TokenizerError(f"Tokenizer {self.name!r} decodes its own stream; got {sorted(tokens.streams)}.")
        values = tokens.streams[self.name].values.tolist()
        if not all(0 <= value < self.size for value in values):
            raise TokenizerError(f"Tokenizer {self.name!r} has codes from 0 to {self.size - 1}; got {values}.")
        return values

    def length(self, raw: Any) -> int:
        return self.encode(raw).length

    def example(self, rng: np.random.Generator) -> list[int]:
        return rng.integers(self.size, size=int(rng.integers(1, 9))).tolist()
