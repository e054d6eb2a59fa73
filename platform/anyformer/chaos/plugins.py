"""Plugins that misbehave when they are imported, and tokenizers that are no longer what a model was trained with."""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from anyformer import checkpoint
from anyformer.chaos.damage import _reseal, contents
from anyformer.chaos.trial import Outcome, chance
from anyformer.contracts import Tokenizer
from anyformer.errors import CheckpointError, ConfigError, PluginError
from anyformer.model import Model
from anyformer.registry import Registry, tokenizers
from anyformer.testing.strangers import complaints
from anyformer.training import Learner, Mixture

PATIENCE = 8.0  # seconds for a plugin that never ends, beyond what importing torch takes on a busy machine

SOUND = "from anyformer_chaos_base import Plugin\n"
BAD: dict[str, tuple[str, str]] = {
    "raises": ("raise RuntimeError('no such luck')", "RuntimeError: no such luck"),
    "lacks a package": ("import a_module_that_nobody_has", "ModuleNotFoundError"),
    "is no Python": ("def :", "SyntaxError"),
    "lacks its class": ("Another = 1", "AttributeError"),
    "calls sys.exit": ("import sys; sys.exit(3)", "exits Python with status 3"),
    "calls os._exit": ("import os; os._exit(3)", "exits (3)"),
    "crashes": ("import os; os.abort()", "dies (SIGABRT)"),
    "hangs": ("import time; time.sleep(3600)", "does not end"),
    "prints": ("print('hello')\nclass Plugin: ...", "prints at import: 'hello'"),
    "changes torch": ("import torch; torch.nn.Linear = None\nclass Plugin: ...", "changes torch.nn.Linear"),
    "takes a name": ("class Plugin: ...", "claimed by"),
    "wants another version": ("class Plugin: ...", "requires anyformer>=99"),
}
FATAL = ("calls os._exit", "crashes", "hangs")  # not to be imported in a process that one wants to keep


def run(index: int, folder: Path) -> Outcome:
    """A package whose plugin misbehaves, installed beside one that does not."""
    kind = list(BAD)[index % len(BAD)]
    source, said = BAD[kind]
    name = "characters" if kind == "takes a name" else "bad"
    _install(folder, "chaos_bad", name, source, "anyformer>=99" if kind == "wants another version" else "")
    _install(folder, "chaos_good", "good", "class Plugin:\n    pass", "")
    found = Registry("tokenizer", "anyformer.tokenizers")
    notes = {"plugin": kind}
    if not {"good", "characters", "text", name} <= set(found.names()):
        return Outcome("not everything is listed", notes)
    if "chaos_bad" in sys.modules:
        return Outcome("listing imported it", notes)
    told = " ".join([*complaints([found], PATIENCE + _usual(kind)), *_claimed(found, name)])
    if said not in told or "chaos_bad" not in told or "chaos_good" in told.replace("chaos_good (", ""):
        return Outcome(f"the doctor says {told!r}", notes)
    if kind not in FATAL and kind != "changes torch" and (failure := _used(found, name, kind)):
        return Outcome(failure, notes)
    text = found.get("text")(vocab_size=300)
    text.fit(["seven quick foxes " * 10])
    if found.get("good").__name__ != "Plugin" or text.decode(text.encode("seven")) != "seven":
        return Outcome("the others no longer work", notes)
    return Outcome(notes=notes)


def _usual(kind: str) -> float:
    """Seconds for importing torch: a plugin that hangs is waited for as long as one that does not."""
    return 20.0 if kind == "hangs" else 80.0


def _claimed(found: Registry, name: str) -> list[str]:
    claims = found.installed()[name]
    return [f"{name} is claimed by {' and by '.join(map(str, claims))}"] if len(claims) > 1 else []


def _used(found: Registry, name: str, kind: str) -> str:
    """Whether asking for it gives an error that names it, or the class where nothing is in the way."""
    try:
        found.get(name)
    except PluginError as error:
        return "" if "chaos_bad" in str(error) and kind != "prints" else f"it was refused with {error}"
    works = ("prints", "wants another version")
    return "" if kind in works else "it was loaded as if nothing were wrong"


def _install(folder: Path, package: str, name: str, source: str, requires: str) -> None:
    site = folder / package
    info = site / f"{package}-1.0.dist-info"
    info.mkdir(parents=True)
    needed = f"Requires-Dist: {requires}\n" if requires else ""
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n{needed}")
    (info / "entry_points.txt").write_text(f"[anyformer.tokenizers]\n{name} = {package}:Plugin\n")
    (site / f"{package}.py").write_text(source)
    sys.path.insert(0, str(site))
    paths = [path for path in sys.path if path.startswith(str(folder))]
    import os

    os.environ["PYTHONPATH"] = os.pathsep.join(paths)


# Tokenizers that have changed


def _relearned(words: str, **settings: Any) -> Tokenizer:
    text = tokenizers.create("text", {"vocab_size": 300, **settings})
    text.fit([words * 8])
    return text


WORDS = "the quick brown fox jumps over the lazy dog, seven times "

CHANGES: dict[str, Callable[[Random], tuple[Tokenizer, Tokenizer, str]]] = {
    "a merge": lambda rng: (_relearned(WORDS), _relearned(WORDS[::-1] + "x" * rng.randint(1, 9)), "fitted on other"),
    "a special piece": lambda rng: (
        _relearned(WORDS, special=["mask", "class"]), _relearned(WORDS, special=["class", "mask"]), "special was"),
    "sentinels": lambda rng: (_relearned(WORDS), _relearned(WORDS, sentinels=rng.randint(1, 9)), "sentinels was 0"),
    "a sample rate": lambda rng: _audio(rng, "sample_rate", [8000, 11_025, 22_050, 44_100, 48_000]),
    "a hop": lambda rng: _audio(rng, "hop", [80, 100, 200]),
    "a patch": lambda rng: _image("patch", rng.choice([4, 8, 14, 32])),
    "channels": lambda rng: _image("channels", rng.choice([1, 4])),
    "a mean": lambda rng: _image("mean", rng.randint(1, 49) / 100),
    "a name": lambda rng: _labels(rng),
    "characters": lambda rng: _characters(rng),
}  # fmt: skip


def _audio(rng: Random, setting: str, values: list[int]) -> tuple[Tokenizer, Tokenizer, str]:
    one, other = tokenizers.create("audio"), tokenizers.create("audio", {setting: rng.choice(values)})
    sound = (np.sin(np.arange(16_000) / 8).astype(np.float32), 16_000)
    one.fit([sound])
    other.fit([sound])
    return one, other, f"{setting} was"


def _image(setting: str, value: Any) -> tuple[Tokenizer, Tokenizer, str]:
    return tokenizers.create("image"), tokenizers.create("image", {setting: value}), f"{setting} was"


def _labels(rng: Random) -> tuple[Tokenizer, Tokenizer, str]:
    names = [f"label {i}" for i in range(rng.randint(3, 9))]
    one, other = (tokenizers.create("label", {"names": given}) for given in (names, names[1:] + names[:1]))
    return one, other, "names was"


def _characters(rng: Random) -> tuple[Tokenizer, Tokenizer, str]:
    one, other = tokenizers.create("characters"), tokenizers.create("characters")
    one.fit([WORDS])
    other.fit([WORDS + "é" * rng.randint(1, 3) + "ß"])
    return one, other, "fitted on other data (characters.json differ); stream 'characters': values was"


def changed(index: int, folder: Path) -> Outcome:
    """A tokenizer that differs, at each door: resuming, beginning with weights, a model's mixture, a sealed change."""
    warnings.simplefilter("ignore")
    rng, kind = chance("changed-tokenizers", index), list(CHANGES)[index % len(CHANGES)]
    one, other, said = CHANGES[kind](rng)
    streams = [spec.name for spec in one.streams if spec.input and spec.is_discrete]
    model = Model({one.name: one}, {"dim": 16, "heads": 2, "depth": 1}, streams[:1])
    place = folder / "model"
    state, files = {"optimizer_states": []}, checkpoint.tokenizer_files(model.tokenizers)
    checkpoint.write(place, model.state_dict(), checkpoint.describe(model), files, state)
    doors: dict[str, Callable[[], Any]] = {
        "resuming": lambda: checkpoint.check_tokenizers(place, {one.name: other}),
        "beginning with its weights": lambda: checkpoint.begin_with(_like(model, other), place),
    }
    for door, use in doors.items():
        try:
            use()
        except CheckpointError as error:
            if door == "resuming" and said not in str(error):
                return Outcome(f"{door}: {kind} is not told: {error}", {"changed": kind})
            continue
        return Outcome(f"{door}: {kind} was not noticed", {"changed": kind})
    if told := _mixed(model, other):
        return Outcome(told, {"changed": kind})
    return Outcome(_sealed(place, one, other), {"changed": kind})


def _like(model: Model, other: Tokenizer) -> Model:
    streams = [spec.name for spec in other.streams if spec.input and spec.is_discrete]
    return Model({other.name: other}, copy.deepcopy(model.config()["backbone"]), streams[:1])


def _mixed(model: Model, other: Tokenizer) -> str:
    """A learner that is given the model and a mixture with the other one."""
    learner = Learner(model=model)

    class Trainer:
        datamodule = object.__new__(Mixture)

    Trainer.datamodule.tokenizers = {other.name: other}
    learner._trainer = Trainer()  # ty: ignore[invalid-assignment]
    try:
        learner._check_same_tokenizers(model)
    except ConfigError as error:
        return "" if repr(other.name) in str(error) else f"the learner says {error}"
    return "the learner took it for the model's own"


def _sealed(place: Path, one: Tokenizer, other: Tokenizer) -> str:
    """The change written into the checkpoint itself, the manifest vouching for it."""
    import json

    before = torch.get_rng_state()
    config = json.loads((place / "config.json").read_text())
    config["tokenizers"][one.name]["config"] = other.config()
    (place / "config.json").write_text(json.dumps(config))
    for file, content in other.state().items():
        (place / "tokenizers" / one.name / file).write_bytes(content)
    _reseal(place)
    torch.set_rng_state(before)
    try:
        checkpoint.load(place)
    except CheckpointError as error:
        return "" if repr(one.name) in str(error) else f"the checkpoint's error is {error}"
    return f"the sealed checkpoint was loaded ({sorted(contents(place))})"
