"""Checkpoint directories: what comes back is what was written, damage is noticed, and nothing good is ever lost."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import zipfile
from pathlib import Path

import pytest
import runs
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import anyformer as af
from anyformer import checkpoint
from anyformer.errors import CheckpointError, NonFiniteError

pytestmark = pytest.mark.usefixtures("toys")

BACKBONE = {"dim": 16, "heads": 2, "depth": 2}


def new_model(seed: int = 0, **letters) -> af.Model:
    mixture = runs.mixture(tokenizers={"letters": letters, "dots": {}, "colour": {}})
    mixture.setup()
    torch.manual_seed(seed)
    return af.Model(mixture.tokenizers, BACKBONE, mixture.heads())


@pytest.fixture(scope="module")
def trained(toys, tmp_path_factory) -> Path:
    """A checkpoint of a run of four steps: do not write to it."""
    folder = tmp_path_factory.mktemp("trained")
    runs.fit(folder, 4)
    return folder / "last"


@pytest.fixture
def copy(trained, tmp_path) -> Path:
    shutil.copytree(trained, tmp_path / "copy")
    return tmp_path / "copy"


def files(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def reseal(folder: Path, *extra: str) -> None:
    """Make the manifest agree with the files again, as somebody with bad intentions would."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in {*manifest["files"], *extra}:
        data = (folder / name).read_bytes() if (folder / name).exists() else b""
        manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    manifest["sha256"] = checkpoint.content.own_digest(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def same_weights(one: af.Model, other: af.Model) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


# What comes back


def test_loading_gives_what_was_saved(tmp_path):
    """Bit-equal weights, equal settings and tokenizers, tied weights still one tensor, and eval mode."""
    model = new_model()
    af.save(model, tmp_path / "model")
    loaded = af.load(tmp_path / "model")
    assert same_weights(model, loaded)
    assert loaded.config() == model.config()
    assert {n: t.fingerprint() for n, t in loaded.tokenizers.items()} == {
        n: t.fingerprint() for n, t in model.tokenizers.items()
    }
    assert not loaded.training
    pointers = [p.data_ptr() for p in loaded.parameters()]
    assert len(pointers) == len(list(model.parameters())) == len(set(pointers))
    assert len(loaded.state_dict()) > len(pointers), "the toys tie nothing, so this test proves nothing"


def test_shared_tensors_are_stored_once(tmp_path):
    model = new_model()
    af.save(model, tmp_path / "model")
    size = (tmp_path / "model" / "model.safetensors").stat().st_size
    weights = 4 * sum(p.numel() for p in model.parameters())
    assert weights < size < weights + 8192


def test_saving_twice_writes_equal_bytes(tmp_path):
    """A checkpoint depends on nothing but the model."""
    af.save(new_model(), tmp_path / "one")
    af.save(new_model(), tmp_path / "two")
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_the_run_folder_and_here_will_do(trained, monkeypatch):
    """`load` takes the checkpoint, the run that holds it, and either of them as `.`"""
    expected = af.load(trained)
    assert same_weights(expected, af.load(trained.parent))
    for place in (trained, trained.parent):
        monkeypatch.chdir(place)
        assert same_weights(expected, af.load("."))


def test_trainer_state_comes_back_whole(tmp_path):
    """Containers, key types, scalars, special floats and tensors of a trainer's state survive."""
    state = {
        "loops": {1: [True, None, 2, 2.5], "t": (1, ("a",))},
        "inf": float("inf"),
        "tensors": [torch.arange(3), torch.tensor(2.0), torch.zeros(0, 2)],
        "bf16": torch.ones(2, dtype=torch.bfloat16),
        "$tensor": {"$items": "not a marker"},
    }
    model = new_model()
    checkpoint.write(tmp_path / "c", model.state_dict(), checkpoint.describe(model), {}, state, step=7)
    back, weights = checkpoint.read_trainer(tmp_path / "c")
    assert set(weights) == set(model.state_dict())
    assert back["loops"] == state["loops"]
    assert back["inf"] == state["inf"]
    assert back["$tensor"] == state["$tensor"]
    assert back["bf16"].dtype == torch.bfloat16
    for one, other in zip(back["tensors"], state["tensors"], strict=True):
        assert torch.equal(one, other)
        assert one.dtype == other.dtype


def test_nothing_in_it_is_a_pickle(trained):
    """No file is a pickle (protocol 2 and later begin with 0x80) or a zip, which is how torch stores pickles."""
    found = files(trained)
    assert {"trainer.json", "trainer.safetensors", "model.safetensors", "config.json", "manifest.json"} <= set(found)
    for name, content in found.items():
        assert content[:1] != b"\x80", name
        assert not zipfile.is_zipfile(trained / name), name
        if name.endswith(".json"):
            json.loads(content)


def test_no_import_path_is_written(trained):
    """Plugins are known by their registry names, so a checkpoint cannot make us import anything."""
    assert json.loads((trained / "config.json").read_text())["tokenizers"]["letters"]["type"] == "letters"
    for name in ("config.json", "manifest.json"):
        assert b"toys" not in (trained / name).read_bytes()


# Damage


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_altered_byte_is_noticed(trained, tmp_path, data):
    """One byte changed anywhere: refused with the file's name, or (spaces of the manifest) without consequence."""
    folder = tmp_path / "altered"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(trained, folder)
    name = data.draw(st.sampled_from(sorted(files(folder))))
    content = bytearray((folder / name).read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    before = (folder / name).read_bytes()
    (folder / name).write_bytes(content)
    if name == "manifest.json" and _reads_the_same(before, bytes(content)):
        return
    for read in (af.load, checkpoint.read_trainer):
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
            read(folder)


def _reads_the_same(one: bytes, other: bytes) -> bool:
    try:
        return json.loads(one) == json.loads(other)
    except ValueError:
        return False


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "trainer.json", "tokenizers/letters/alphabet.txt"]
)
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        af.load(copy)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"{}", b"[" * 100_000, b"\xff\xfe", b'{"files": 3}'])
@pytest.mark.parametrize("name", ["manifest.json", "config.json", "trainer.json"])
def test_broken_json_is_one_typed_error(copy, name, content):
    """Truncated, absurdly deep, of the wrong shape: even when the manifest vouches for it."""
    (copy / name).write_bytes(content)
    if name != "manifest.json":
        reseal(copy)
    with pytest.raises(CheckpointError):
        af.load(copy) if name == "config.json" else checkpoint.read_trainer(copy)


def test_deep_state_that_parses_is_one_typed_error(copy):
    """JSON that the parser still takes but that is too deep to be taken apart."""
    deep = 450
    (copy / "trainer.json").write_text('{"$list": [' * deep + "]}" * deep)
    reseal(copy)
    with pytest.raises(CheckpointError, match=r"trainer\.json"):
        checkpoint.read_trainer(copy)


@pytest.mark.parametrize("content", [b"", b"\0" * 7, b"\xff" * 64, (10**6).to_bytes(8, "little") + b"{}"])
@pytest.mark.parametrize("name", ["model.safetensors", "trainer.safetensors"])
def test_broken_tensors_are_one_typed_error(copy, name, content):
    (copy / name).write_bytes(content)
    reseal(copy)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        checkpoint.read_trainer(copy)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "tokenizers/../../secret"])
def test_a_manifest_may_not_name_files_outside(copy, name):
    (copy.parent / "secret").write_text("x")
    reseal(copy, name)
    with pytest.raises(CheckpointError, match="outside the checkpoint"):
        af.load(copy)


def test_weights_that_do_not_fit_are_refused(copy):
    config = json.loads((copy / "config.json").read_text())
    config["model"]["backbone"]["depth"] += 1
    (copy / "config.json").write_text(json.dumps(config))
    reseal(copy)
    with pytest.raises(CheckpointError, match="do not fit"):
        af.load(copy)


def test_another_format_is_refused(copy):
    manifest = json.loads((copy / "manifest.json").read_text()) | {"format": 99}
    (copy / "manifest.json").write_text(json.dumps(manifest | {"sha256": checkpoint.content.own_digest(manifest)}))
    with pytest.raises(CheckpointError, match="format 99; expected 1"):
        af.load(copy)


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: p.write_text("x")])
def test_what_is_no_checkpoint_is_named(tmp_path, make):
    make(tmp_path / "place")
    with pytest.raises(CheckpointError, match=r"place: (no such|not a) checkpoint"):
        af.load(tmp_path / "place")


def test_a_model_alone_cannot_be_resumed(tmp_path):
    af.save(new_model(), tmp_path / "model")
    with pytest.raises(CheckpointError, match="no trainer state"):
        checkpoint.read_trainer(tmp_path / "model")


# Nothing good is lost


def test_weights_that_are_not_finite_are_not_written(tmp_path):
    """The previous checkpoint stays, byte for byte, and the error names the weight."""
    af.save(new_model(), tmp_path / "model")
    before = files(tmp_path)
    spoilt = new_model(1)
    next(spoilt.parameters()).data[0] = float("inf")
    with pytest.raises(NonFiniteError, match=next(iter(spoilt.state_dict())).replace(".", r"\.")):
        af.save(spoilt, tmp_path / "model")
    assert files(tmp_path) == before


@pytest.mark.parametrize("failing", ["open", "fsync", "first rename", "second rename"])
def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path, monkeypatch, failing):
    """Whatever write fails: the old checkpoint is there, no litter, and the error gives path, sizes and reason."""
    af.save(new_model(), tmp_path / "model")
    before = files(tmp_path)
    full = OSError(errno.ENOSPC, "No space left on device")

    def fail(*args, **kwargs):
        raise full

    rename, calls = Path.rename, []

    def fail_once(self, target):
        calls.append(self)
        if len(calls) == (1 if failing == "first rename" else 2):
            raise full
        return rename(self, target)

    if failing == "open":
        monkeypatch.setattr(checkpoint.directory, "open", fail, raising=False)
    elif failing == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        monkeypatch.setattr(Path, "rename", fail_once)
    with pytest.raises(CheckpointError, match=r"model: could not .*No space left.* \d+ bytes needed, \d+ bytes free"):
        af.save(new_model(1), tmp_path / "model")
    monkeypatch.undo()
    assert files(tmp_path) == before
    assert same_weights(af.load(tmp_path / "model"), new_model())


def test_a_crash_between_the_renames_is_survived(trained, tmp_path):
    """The old checkpoint was moved aside and the new one not yet in place: loading finds it, saving clears it."""
    shutil.copytree(trained, tmp_path / ".previous-last")
    expected = af.load(trained)
    assert same_weights(af.load(tmp_path / "last"), expected)
    assert same_weights(af.load(tmp_path), expected)
    af.save(expected, tmp_path / "last")
    assert [f.name for f in tmp_path.iterdir()] == ["last"]


def test_a_folder_that_is_no_checkpoint_is_never_replaced(tmp_path):
    """`save(model, "runs")` must not delete the runs."""
    (tmp_path / "runs" / "one").mkdir(parents=True)
    (tmp_path / "runs" / "one" / "notes.txt").write_text("dear")
    (tmp_path / "file").write_text("dear")
    before = files(tmp_path)
    for place in ("runs", "file"):
        with pytest.raises(CheckpointError, match="not a checkpoint, so it is not replaced"):
            af.save(new_model(), tmp_path / place)
    assert files(tmp_path) == before
    (tmp_path / "empty").mkdir()
    af.save(new_model(), tmp_path / "empty")
    assert af.load(tmp_path / "empty")


def test_a_value_that_is_not_plain_is_named_by_its_path(tmp_path):
    """Rather than pickling it, or losing it silently."""
    model = new_model()
    state = {"callbacks": {"mine": [1, {"when": object()}]}}
    with pytest.raises(CheckpointError, match=r"object at trainer\.callbacks\.mine\[1\]\.when"):
        checkpoint.write(tmp_path / "c", model.state_dict(), checkpoint.describe(model), {}, state)
    assert not list(tmp_path.iterdir())


# Tokenizers


def test_a_tokenizer_that_differs_is_refused_with_the_difference(trained):
    check = checkpoint.check_tokenizers
    same = af.load(trained).tokenizers
    check(trained, same)
    with pytest.raises(CheckpointError, match=r"'letters' differs.* lower was False and is True"):
        check(trained, same | new_model(lower=True).tokenizers)
    other = new_model().tokenizers["letters"]
    other._alphabet = "xyz"
    with pytest.raises(CheckpointError, match=r"'letters' differs.* same settings, but it was fitted on other data"):
        check(trained, same | {"letters": other})
    with pytest.raises(CheckpointError, match="'extra' exists only in the run"):
        check(trained, same | {"extra": other})
    with pytest.raises(CheckpointError, match="'dots' exists only in the checkpoint"):
        check(trained, {n: t for n, t in same.items() if n != "dots"})


def test_a_plugin_that_encodes_otherwise_than_before_is_refused(copy):
    """Altered learned state that the manifest vouches for does not pass the fingerprint."""
    (copy / "tokenizers" / "letters" / "alphabet.txt").write_text("zyx")
    reseal(copy)
    with pytest.raises(CheckpointError, match=r"'letters' encodes otherwise"):
        af.load(copy)


def test_a_tokenizer_without_its_state_is_named(copy):
    shutil.rmtree(copy / "tokenizers")
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"] = {n: v for n, v in manifest["files"].items() if not n.startswith("tokenizers/")}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    reseal(copy)
    with pytest.raises(CheckpointError, match=r"'letters' cannot be restored: .*alphabet.txt"):
        af.load(copy)


def test_only_what_a_crash_left_is_swept(tmp_path):
    """Others keep folders of such names too, and a run may be written where they are."""
    for name in (".tmp-last/0123abcd", ".tmp-last/old-0123abcd", ".tmp-mine/notes", ".previous-kept"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / ".tmp-file").write_text("mine")
    checkpoint.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".previous-kept", ".tmp-file", ".tmp-mine"]
