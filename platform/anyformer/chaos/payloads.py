"""What is made to run, or to write elsewhere, when it is read: pickles, class paths, and names that lead outside."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import sys
import warnings
import zipfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from anyformer import checkpoint, presets
from anyformer.architecture import read as read_model
from anyformer.chaos.archives import HOSTILE, archived, member, served
from anyformer.chaos.damage import _reseal, contents, small
from anyformer.chaos.trial import Outcome
from anyformer.errors import AnyformerError
from anyformer.evaluation.plan import read_plan
from anyformer.registry import tokenizers
from anyformer.training.experiment import read as read_experiment
from anyformer.training.safe import require_safe
from anyformer.weights.files import directory_of, read_tensors

MARK = "ran"
WATCHED = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "socket.connect", "pty.spawn")


@contextmanager
def watched(folder: Path) -> Generator[list[str], None, None]:
    """What was run, connected to, or written outside of `folder` while the block ran."""
    seen: list[str] = []
    active = True

    def hook(event: str, arguments: tuple) -> None:
        if not active:
            return
        if event in WATCHED or (event == "import" and str(arguments[0]).startswith("payload_")):
            seen.append(f"{event} {arguments[1 if event == 'socket.connect' else 0]!r:.80}")
        elif event == "open" and isinstance(arguments[0], str) and _writes(arguments):
            if not os.path.abspath(arguments[0]).startswith((str(folder), os.devnull)):
                seen.append(f"writing {arguments[0]}")

    sys.addaudithook(hook)  # for good, so it is told when to rest
    try:
        yield seen
    finally:
        active = False


def _writes(arguments: tuple) -> bool:
    mode, flags = arguments[1], arguments[2] or 0
    return bool(flags & (os.O_WRONLY | os.O_RDWR)) if mode is None else any(letter in mode for letter in "wax+")


# Pickles


class _Reduced:
    """Runs a call when it is unpickled."""

    def __init__(self, call: Callable, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple:
        return self.call, self.arguments


def pickles(index: int, folder: Path) -> Outcome:
    """One pickle at every door, under every name that the door knows."""
    warnings.simplefilter("ignore")
    mark = folder / MARK
    how, call = list(_calls(mark))[index % 10]
    wrapping = list(WRAPPINGS)[index // 10 % 4]
    content = WRAPPINGS[wrapping](_Reduced(*call))
    place = folder / "model"
    written = small(place)
    text = tokenizers.create("text", {"vocab_size": 300})
    with watched(folder) as seen:
        accepted = [door for door, read in _doors(folder, place, written, content, text) if _taken(read)]
    notes = {"payload": how, "wrapped": wrapping}
    if mark.exists() or seen:
        return Outcome(f"{how} {wrapping} was run: {seen or MARK}", notes)
    return Outcome(f"{how} {wrapping} was taken for data by {', '.join(accepted)}" if accepted else "", notes)


def _calls(mark: Path) -> Iterator[tuple[str, tuple]]:
    touch = f"touch {mark}"
    yield "os.system", (os.system, touch)
    yield "eval", (eval, f"open({str(mark)!r}, 'w').close()")
    yield "exec", (exec, f"open({str(mark)!r}, 'w').close()")
    yield "open", (open, str(mark), "w")
    yield "Path.touch", (Path.touch, mark)
    yield "os.mkdir", (os.mkdir, str(mark))
    yield "import", (__import__, "antigravity")
    yield "os.symlink", (os.symlink, "/", str(mark))
    yield "torch.save", (torch.save, {}, str(mark))
    yield "numpy.save", (np.save, str(mark), np.zeros(1))


def _zipped(payload: Any) -> bytes:
    """As torch.save writes it."""
    file = io.BytesIO()
    torch.save({"state_dict": {"w": torch.zeros(2)}, "hyper_parameters": payload}, file)
    return file.getvalue()


def _legacy(payload: Any) -> bytes:
    file = io.BytesIO()
    torch.save({"w": torch.zeros(2), "optimizer_states": [payload]}, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def _array(payload: Any) -> bytes:
    file = io.BytesIO()
    array = np.empty(1, dtype=object)
    array[0] = payload
    np.savez(file, weights=array)
    return file.getvalue()


WRAPPINGS: dict[str, Callable[[Any], bytes]] = {
    "bare": lambda payload: pickle.dumps(payload, protocol=2),
    "as torch.save": _zipped,
    "as torch.save of old": _legacy,
    "as an object array": _array,
}


def _doors(
    folder: Path, place: Path, written: dict[str, bytes], content: bytes, text: Any
) -> Iterator[tuple[str, Callable[[], Any]]]:
    for name in ("model.ckpt", "model.pt", "pytorch_model.bin", "model.safetensors", "model.npz", "page.yaml"):
        (folder / name).write_bytes(content)
        file = folder / name
        yield f"load {name}", lambda file=file: checkpoint.load(file)
        yield f"weights {name}", lambda file=file: read_tensors(file)
        yield f"settings {name}", lambda file=file: presets.read_mapping(file, "The page")
        yield f"vocabulary {name}", lambda file=file: type(text).from_file(file)
    for name in written:
        for sealed in (False, True):
            (place / name).write_bytes(content)
            if sealed:
                _reseal(place)
            yield f"checkpoint's {name}", lambda: (checkpoint.load(place), checkpoint.read_trainer(place))
            for other, data in written.items():
                (place / other).write_bytes(data)
    for name in ("tokenizer.json", "vocab.json", "spiece.model", "tokenizer_config.json"):
        published = folder / f"published-{name}"
        published.mkdir()
        (published / name).write_bytes(content)
        yield f"published {name}", lambda p=published: tokenizers.create("pretrained_text", {"directory": str(p)})
    for weights in ("pytorch_model.bin", "model.safetensors"):
        published = folder / f"weights-{weights}"
        published.mkdir()
        (published / "config.json").write_bytes(b"{}")
        (published / weights).write_bytes(content)
        yield f"published {weights}", lambda p=published: read_tensors(p)


def _taken(read: Callable[[], Any]) -> bool:
    """Whether it was read without an error of ours; another's error is a failure of the trial."""
    try:
        read()
    except AnyformerError:
        return False
    return True


# Configurations

_CODE = {"class_path": "payload_module.Payload"}
CONFIGURATIONS: dict[str, Any] = {
    **{f"trainer.{key}": {"trainer": {key: _CODE}} for key in
       ("callbacks", "logger", "strategy", "plugins", "profiler", "accelerator", "precision", "max_time")},
    **{f"trainer.{key} by path": {"trainer": {key: "payload_module.Payload"}} for key in
       ("callbacks", "logger", "strategy", "plugins", "profiler", "accelerator")},
    **{f"{section} itself": {section: _CODE} for section in ("model", "data", "trainer")},
    **{f"{section} from a file": {section: "payload.yaml"} for section in ("model", "data", "trainer")},
    "a model": {"model": {"model": _CODE}},
    "a model by path": {"model": {"model": "payload_module.Payload"}},
    "popen": {"trainer": {"callbacks": [{"class_path": "subprocess.Popen", "init_args": {"args": ["touch", MARK]}}]}},
    "system": {"trainer": {"callbacks": [{"class_path": "os.system", "init_args": {"command": f"touch {MARK}"}}]}},
    "a URL": {"model": {"start": "http://127.0.0.1:9/last"}},
    "a URL to resume": {"ckpt_path": "http://127.0.0.1:9/last"},
    "a type of task": {"data": {"tasks": {"x": {"type": "payload_module:Payload"}}}},
    "a type of tokenizer": {"data": {"tokenizers": {"text": {"type": "payload_module.Payload"}}}},
    "a tag": "model: !!python/object/apply:os.system ['touch ran']\n",
    "a name's tag": "model: !!python/name:payload_module.Payload\n",
    "a module's tag": "model: !!python/module:payload_module\n",
    "a variable": "trainer: {callbacks: '${oc.env:HOME}', logger: $PATH}\n",
}  # fmt: skip


def configurations(index: int, folder: Path) -> Outcome:
    """One configuration that names code, read by everything that reads one; `fit` with --safe."""
    kind = list(CONFIGURATIONS)[index % len(CONFIGURATIONS)]
    content = CONFIGURATIONS[kind]
    (folder / "payload_module.py").write_text(f"open({str(folder / MARK)!r}, 'w')\nclass Payload: ...\n")
    (folder / "payload.yaml").write_text(yaml.safe_dump(_CODE))
    file = folder / "page.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    with watched(folder) as seen:
        for read in (read_experiment, read_plan, lambda f: read_model(str(f)), _fit):
            try:
                read(file)
            except AnyformerError:
                continue
            if read is _fit:
                return Outcome(f"--safe let {kind} through", {"payload": kind})
    if seen or (folder / MARK).exists() or "payload_module" in sys.modules:
        return Outcome(f"{kind} was run: {seen or MARK}", {"payload": kind})
    return Outcome(notes={"payload": kind})


def _fit(file: Path) -> None:
    """What `anyformer fit --safe` does before Lightning's parser; names of plugins are looked up behind it."""
    from anyformer.training import Mixture

    require_safe(["--safe", "--config", str(file)])
    experiment = read_experiment(file)
    settings: dict[str, Any] = {"tokenizers": {}, "tasks": {}, **experiment.data}
    Mixture(**settings)


# Paths

OUTSIDE = (
    *("../outside", "../../outside", "/tmp/anyformer-outside", "a/../../outside", "..", ".", "", "~/outside", "a/b"),
    *("C:\\outside", "..\\outside", "con\x00sole", "\u2025/outside", "a" * 300, "-rf", "http://127.0.0.1:9/x"),
)
PATHS = tuple((kind, name) for kind in ("manifest", "tokenizer", "shard") for name in OUTSIDE)[:44]
LINKS = ("model.safetensors", "config.json", "manifest.json", "tokenizers", "tokenizers/characters/characters.json")


def paths(index: int, folder: Path) -> Outcome:
    """A name that leads outside, or a link, wherever a file names one."""
    warnings.simplefilter("ignore")
    inside = folder / "inside"
    inside.mkdir()
    (folder / "outside").write_bytes(b"{}")
    before = contents(folder)
    with watched(inside) as seen:
        kind, name, taken = _led(index % (len(PATHS) + len(LINKS) + len(HOSTILE)), folder, inside)
    notes = {"payload": kind}
    if kind == "archive":
        seen = [what for what in seen if not what.startswith("socket.connect ('127.0.0.1'")]  # that was asked for
    outside = {n: c for n, c in contents(folder).items() if not n.startswith("inside/")}
    if seen or outside != {n: c for n, c in before.items() if not n.startswith("inside/")}:
        return Outcome(f"{kind} {name!r} led outside: {seen or sorted(outside)}", notes)
    return Outcome(f"{kind} {name!r} was taken" if taken else "", notes)


def _led(number: int, folder: Path, inside: Path) -> tuple[str, str, bool]:
    if number < len(PATHS):
        return _name(number, inside)
    number -= len(PATHS)
    return _link(number, folder, inside) if number < len(LINKS) else _archive(number - len(LINKS), inside)


def _name(index: int, inside: Path) -> tuple[str, str, bool]:
    kind, name = PATHS[index]
    if kind == "manifest":
        small(inside / "model")
        manifest = json.loads((inside / "model" / "manifest.json").read_text())
        manifest["files"][name] = {"sha256": checkpoint.content.sha256(b"{}"), "bytes": 2}
        manifest["sha256"] = checkpoint.content.own_digest(manifest)
        (inside / "model" / "manifest.json").write_text(json.dumps(manifest))
        return kind, name, _taken(lambda: checkpoint.load(inside / "model"))
    if kind == "tokenizer":
        from anyformer.training import Mixture

        made: dict[str, Any] = {"tokenizers": {name: {"type": "characters"}}, "tasks": {}}
        taken = _taken(lambda: Mixture(**made))
        files = {f"tokenizers/{name}/{file}": b"{}" for file in ("../../../x", "x")} if ".." in name else {}
        return kind, name, taken or (bool(files) and _taken(lambda: checkpoint.write(inside / "c", {}, {}, files)))
    published = inside / "published"
    published.mkdir()
    index_file = {"weight_map": {"w": name}}
    (published / "model.safetensors.index.json").write_text(json.dumps(index_file))
    return kind, name, _taken(lambda: read_tensors(published)) or _taken(lambda: _elsewhere(name))


def _elsewhere(name: str) -> None:
    """A place that is no directory is none of ours, and nothing is fetched for it."""
    if name.count("/") == 1 or Path(name).exists():
        raise AnyformerError("it is a hub's name, or a folder that is there")
    directory_of(name)


def _link(index: int, folder: Path, inside: Path) -> tuple[str, str, bool]:
    """A part of a checkpoint is a link to the same content elsewhere."""
    small(inside / "model")
    name = LINKS[index]
    part, away = inside / "model" / name, folder / f"away-{index}"
    part.rename(away)
    part.symlink_to(away)
    try:
        taken = _taken(lambda: checkpoint.load(inside / "model"))
    finally:
        part.unlink()
        away.rename(part)
    return "link", name, taken


def _archive(index: int, inside: Path) -> tuple[str, str, bool]:
    """Something else than a file within it, in an archive that is fetched, behind a part of a checkpoint."""
    name, part = list(HOSTILE.items())[index]
    os.environ["XDG_CACHE_HOME"] = str(inside / "cache")
    with served(inside) as address:
        url = f"{address}/{archived(inside, 'run.tar', member('last/config.json'), part)}"
        return "archive", name, _taken(lambda: checkpoint.load(url))


def bombs(index: int, folder: Path) -> Outcome:
    """Few bytes that claim or become many: refused, in bounded memory."""
    from anyformer.chaos.damage import MEMORY, resident

    kind, make = list(BOMBS.items())[index % len(BOMBS)]
    file, before = folder / kind, resident()
    make(file)
    door = {".png": "image", ".tif": "image", ".wav": "audio"}.get(file.suffix)
    warnings.simplefilter("ignore")
    if door:
        tokenizer = tokenizers.create(door)
        taken = _taken(lambda: tokenizer.length(str(file)))
    elif file.suffix == ".yaml":
        taken = _taken(lambda: presets.read_mapping(file, "The page"))
    else:
        taken = _taken(lambda: read_tensors(file))
    if resident() - before > MEMORY:
        return Outcome(f"{kind} took {(resident() - before) >> 20} MB", {"payload": kind})
    return Outcome(f"{kind} was taken" if taken else "", {"payload": kind})


def _huge_png(file: Path) -> None:
    from PIL import Image

    Image.new("1", (20_000, 20_000)).save(file, optimize=True)


def _huge_tiff(file: Path) -> None:
    from PIL import Image

    Image.new("1", (12_000, 12_000)).save(file, compression="group4")


def _huge_wav(file: Path) -> None:
    header = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 2**32 - 1, b"WAVE", b"fmt ", 16, 1, 1, 16_000, 32_000, 2, 16,
                         b"data", 2**32 - 40)  # fmt: skip
    file.write_bytes(header + bytes(1000))


def _huge_safetensors(file: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))


def _long_header(file: Path) -> None:
    file.write_bytes((2**62).to_bytes(8, "little") + b"{}")


def _zip_bomb(file: Path) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", bytes(300 * 2**20))


def _aliases(file: Path) -> None:
    lines = ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40))]
    file.write_text("\n".join(lines))


BOMBS: dict[str, Callable[[Path], None]] = {
    "huge.png": _huge_png,
    "huge.tif": _huge_tiff,
    "huge.wav": _huge_wav,
    "huge.safetensors": _huge_safetensors,
    "long.safetensors": _long_header,
    "bomb.bin": _zip_bomb,
    "bomb.pt": _zip_bomb,
    "aliases.yaml": _aliases,
}
