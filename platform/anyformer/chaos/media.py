"""Damaged pictures, sounds, vocabularies and configurations: one typed error that names the file, or a usable value."""

from __future__ import annotations

import io
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np

from anyformer import presets
from anyformer.architecture import read as read_model
from anyformer.chaos.damage import MEMORY, resident
from anyformer.chaos.mutants import edited, mutated
from anyformer.chaos.trial import Outcome, chance
from anyformer.contracts import Tokenizer
from anyformer.errors import AnyformerError, ConfigError, SampleError, TokenizerError
from anyformer.evaluation.plan import read_plan
from anyformer.registry import tokenizers
from anyformer.reproduction import Reproduction
from anyformer.testing.encoding import require_well_formed
from anyformer.training.experiment import read as read_experiment

CASES = 100
PICTURES = ("PNG", "JPEG", "WEBP", "GIF", "TIFF")
SOUNDS = ("WAV", "FLAC", "OGG", "MP3")


def media(index: int, folder: Path) -> Outcome:
    """A file of each format in turn, damaged in a hundred ways."""
    kind = (*PICTURES, *SOUNDS)[index % 9]
    rng = chance("damaged-media", index)
    whole = _picture(kind, rng) if kind in PICTURES else _sound(kind, rng)
    tokenizer = tokenizers.create("image") if kind in PICTURES else _listener()
    return _tried(kind, whole, folder / f"sample.{kind.lower()}", rng, lambda file: _encoded(tokenizer, file))


def _picture(kind: str, rng: Random) -> bytes:
    from PIL import Image

    levels = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, (rng.randint(8, 40), 32, 3), np.uint8)
    image, file = Image.fromarray(levels), io.BytesIO()
    more: dict = {"save_all": True, "append_images": [image.rotate(90)]} if kind == "GIF" else {}
    if kind == "TIFF":
        more = {"compression": rng.choice([None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])}
    image.save(file, kind, **more)
    return file.getvalue()


def _sound(kind: str, rng: Random) -> bytes:
    import soundfile

    wave = np.random.default_rng(rng.randrange(2**32)).normal(0, 0.2, (rng.randint(1600, 4000), rng.randint(1, 2)))
    file = io.BytesIO()
    soundfile.write(file, wave.clip(-1, 1), 16_000, format=kind)
    return file.getvalue()


def _listener() -> Tokenizer:
    audio = tokenizers.create("audio")
    tone = np.sin(np.arange(16_000) / 8).astype(np.float32)
    audio.fit([(tone, 16_000), (tone[::-1].copy(), 16_000)])
    return audio


def _encoded(tokenizer: Tokenizer, file: Path) -> None:
    """Sound tokens, of the length that was announced, or a SampleError that names the file."""
    try:
        length = tokenizer.length(str(file))
        tokens = tokenizer.encode(str(file))
    except SampleError as error:
        if file.name not in str(error):
            raise ValueError(f"the error does not name the file: {error}") from error
        return
    require_well_formed(tokenizer.name, tokenizer.streams, tokens, file.name)
    if tokens.length != length:
        raise ValueError(f"{length} slots were announced and {tokens.length} made")


def vocabularies(index: int, folder: Path) -> Outcome:
    """A tokenizer's learned files, damaged in a hundred ways: refused, or not without another fingerprint."""
    rng = chance("damaged-vocabularies", index)
    tokenizer = LEARNED[index % len(LEARNED)]()
    state, fingerprint = tokenizer.state(), tokenizer.fingerprint()
    name = rng.choice(sorted(state))

    def read(file: Path) -> None:
        twin = type(tokenizer)(**tokenizer.config())
        try:
            twin.restore({**state, name: file.read_bytes()})
        except TokenizerError as error:
            if tokenizer.name not in str(error) and name not in str(error):
                raise ValueError(f"the error names neither tokenizer nor file: {error}") from error
            return
        if twin.fingerprint() == fingerprint and twin.state() != state:
            raise ValueError("another content has the same fingerprint")
        try:
            twin.encode(tokenizer.example(np.random.default_rng(0)))
        except AnyformerError:
            return

    return _tried(f"{type(tokenizer).__name__} {name}", state[name], folder / Path(name).name, rng, read)


def _text() -> Tokenizer:
    text = tokenizers.create("text", {"vocab_size": 300})
    text.fit(["the quick brown fox jumps over the lazy dog " * 4, "seven foxes", "naïve"])
    return text


def _characters() -> Tokenizer:
    text = tokenizers.create("characters")
    text.fit(["the quick brown fox", "naïve"])
    return text


def _published() -> Tokenizer:
    text = tokenizers.create("pretrained_text")
    text.fit(["the quick brown fox jumps over the lazy dog " * 4, "seven foxes"])
    return text


def _labels() -> Tokenizer:
    label = tokenizers.create("label")
    label.fit(["yes", "no", "perhaps"])
    return label


LEARNED: tuple[Callable[[], Tokenizer], ...] = (_text, _characters, _published, _listener, _labels)


def configurations(index: int, folder: Path) -> Outcome:
    """A page of ours, damaged in a hundred ways, read by what reads its kind."""
    rng = chance("damaged-configurations", index)
    kind = list(PAGES)[index % len(PAGES)]
    page = rng.choice(sorted((presets.root() / kind).rglob("*.yaml")))
    file = folder / page.name

    def read(file: Path) -> None:
        try:
            PAGES[kind](file)
        except ConfigError:
            return

    return _tried(f"{kind}/{page.name}", page.read_bytes(), file, rng, read, as_settings=True)


PAGES: dict[str, Callable[[Path], object]] = {
    "experiments": read_experiment,
    "models": lambda file: read_model(str(file)),
    "evaluations": read_plan,
    "reproductions": Reproduction.of,
    "studies": lambda file: presets.read_mapping(file, "The study"),
}


def _tried(
    kind: str, whole: bytes, file: Path, rng: Random, read: Callable[[Path], None], as_settings: bool = False
) -> Outcome:
    warnings.simplefilter("ignore")
    file.write_bytes(whole)
    read(file)  # undamaged it is sound, and what is loaded once is loaded
    before, done = resident(), Counter[str]()
    for case in range(CASES):
        how, content = mutated(whole, rng)
        if as_settings and case % 2:
            how, content = "edited", _rewritten(whole, rng)
        done[how] += 1
        file.write_bytes(content)
        try:
            read(file)
        except Exception as error:
            told = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            return Outcome(f"{kind}, case {case}, {how}: {told}", {"kind": kind})
    if resident() - before > MEMORY:
        return Outcome(f"{kind}: took {(resident() - before) >> 20} MB", {"kind": kind})
    return Outcome(notes={"kind": kind.partition("/")[0], **done})


def _rewritten(page: bytes, rng: Random) -> bytes:
    import yaml

    content = presets.parsed(page.decode(), "The page")
    for _ in range(rng.randint(1, 3)):
        content = edited(content, rng)
    return yaml.safe_dump(content).encode()
