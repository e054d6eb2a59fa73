"""A checkpoint behind a URL is fetched and verified, and only then read: as a directory, within its folder."""

from __future__ import annotations

import gzip
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from toys import Letters

import anyformer as af
from anyformer import checkpoint
from anyformer.chaos.archives import HOSTILE, archived, member, served
from anyformer.checkpoint import download
from anyformer.errors import CheckpointError

pytestmark = pytest.mark.usefixtures("toys")


@pytest.fixture
def offered(tmp_path, monkeypatch):
    """A folder behind a URL, and an empty cache."""
    folder = tmp_path / "served"
    folder.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with served(folder) as address:
        yield folder, address


def model(seed: int = 0) -> af.Model:
    torch.manual_seed(seed)
    letters = Letters()
    letters.fit(["seven foxes"])
    return af.Model({"letters": letters}, {"dim": 16, "heads": 2, "depth": 1}, ["letters"])


@pytest.mark.parametrize("inside", ["last", "."])
def test_a_checkpoint_is_fetched_once_and_read_like_any_other(offered, tmp_path, inside):
    folder, address = offered
    af.save(model(), tmp_path / "last")
    url = f"{address}/" + archived(folder, "run.tar", lambda tar: tar.add(tmp_path / "last", inside))
    first = af.load(url)
    (folder / "run.tar").unlink()  # it is here now
    again = af.load(url)
    expected = model().state_dict()
    assert all(loaded.state_dict()[name].equal(of) for loaded in (first, again) for name, of in expected.items())
    place = checkpoint.resolve(url)
    weights = place / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        af.load(url)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda url: url.partition("#")[0], "whose digest says what must be behind it"),
        (lambda url: url.replace("http://", "ftp://"), "fetched as https://"),
        (lambda url: Path(url), "fetched as https://"),
        (lambda url: url.replace("#sha256=", "#sha256=00"), "fetched as https://"),
        (lambda url: url.partition("#")[0] + "#sha256=" + "0" * 64, "expected sha256 000000000000…, got"),
        (lambda url: url.replace("run.tar", "gone.tar"), r"could not be fetched into .*404"),
        (lambda url: url.replace("127.0.0.1:", "127.0.0.1:1"), "could not be fetched"),
    ],
)
def test_what_is_not_what_was_meant_is_refused(offered, tmp_path, change, said):
    """Nothing of it stays."""
    folder, address = offered
    af.save(model(), tmp_path / "last")
    url = f"{address}/" + archived(folder, "run.tar", lambda tar: tar.add(tmp_path / "last", "last"))
    with pytest.raises(CheckpointError, match=said):
        af.load(change(url))
    assert not [*(tmp_path / "cache").glob("anyformer/*")]


@pytest.mark.parametrize("kind", HOSTILE)
def test_nothing_leads_outside(offered, tmp_path, kind):
    """Nor is what precedes it in the archive kept."""
    folder, address = offered
    url = f"{address}/" + archived(folder, "run.tar", member("last/config.json"), HOSTILE[kind])
    with pytest.raises(CheckpointError, match=r"expected|no such|not a checkpoint"):
        af.load(url)
    assert {path.name for path in tmp_path.iterdir()} == {"served", "cache"}
    assert not (tmp_path.parent / "outside").exists() and not any(path.is_symlink() for path in tmp_path.rglob("*"))


def test_what_is_compressed_or_cut_or_has_too_many_files_is_refused(offered, tmp_path, monkeypatch):
    """Few bytes cannot become many."""
    folder, address = offered
    af.save(model(), tmp_path / "last")
    archived(folder, "run.tar", lambda tar: tar.add(tmp_path / "last", "last"))
    whole = (folder / "run.tar").read_bytes()
    for name, content in {"a.tar.gz": gzip.compress(whole), "cut.tar": whole[:5000], "text.tar": b"x" * 2000}.items():
        (folder / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=r"is no plain, whole tar file|not a checkpoint"):
            af.load(f"{address}/{name}#sha256={sha256(content).hexdigest()}")
    monkeypatch.setattr(download, "MOST", 3)
    with pytest.raises(CheckpointError, match="at most 3"):
        af.load(f"{address}/run.tar#sha256={sha256(whole).hexdigest()}")
