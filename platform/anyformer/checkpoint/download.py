"""A checkpoint behind a URL, as a tar file: fetched, compared with the digest that its reader gave, and unpacked. From
then on it is a directory like any other; nothing that reads tensors or JSON ever sees the URL.

    anyformer evaluate https://host/run.tar#sha256=9f86d081… --config short

The tar file is not compressed, so that it never becomes more than it is: `tar cf run.tar -C runs/quickstart last`.
"""

from __future__ import annotations

import os
import re
import tarfile
import tempfile
from hashlib import sha256
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urldefrag, urlsplit
from urllib.request import urlopen

from anyformer.errors import CheckpointError

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # a path made of one has a single slash
DIGEST = re.compile(r"sha256=([0-9a-fA-F]{64})")
MOST = 10_000  # files of an archive
PATIENCE = 60.0  # seconds without an answer
PART = 2**20  # bytes that are held at once


def downloaded(url: str) -> Path:
    """The directory of `https://host/run.tar#sha256=…`, fetched unless that archive was fetched before.

    CheckpointError without a digest or with another one, and for an archive that is cut, compressed, or holds anything
    but files and folders within it.
    """
    address, wanted = urldefrag(url)
    digest = DIGEST.fullmatch(wanted)
    if urlsplit(address).scheme not in ("http", "https") or "://" not in url or digest is None:
        raise CheckpointError(
            f"{url}: a URL is fetched as https://host/run.tar#sha256=..., whose digest says what must be behind it. "
            "Append it, or download the checkpoint and give its directory."
        )
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "anyformer"
    place = cache / digest[1].lower()
    try:
        if not place.is_dir():
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache) as folder:
                archive, unpacked = Path(folder) / "archive.tar", Path(folder) / "unpacked"
                _fetch(address, archive, digest[1].lower())
                _unpack(archive, unpacked, address)
                _settle(unpacked, place)
    except (OSError, HTTPException) as error:  # of the network or the disk
        raise CheckpointError(f"{address}: could not be fetched into {cache} ({error}). Try again.") from error
    inside = list(place.iterdir())
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else place


def _settle(unpacked: Path, place: Path) -> None:
    try:
        unpacked.rename(place)
    except OSError:
        if not place.is_dir():  # another process was first
            raise


def _fetch(address: str, archive: Path, wanted: str) -> None:
    found = sha256()
    with urlopen(address, timeout=PATIENCE) as answer, open(archive, "wb") as file:
        while part := answer.read(PART):
            found.update(part)
            file.write(part)
    if found.hexdigest() != wanted:
        raise CheckpointError(
            f"{address}: expected sha256 {wanted[:12]}…, got {found.hexdigest()[:12]}…. It was cut, or is not the file "
            "that was meant; ask who named the digest."
        )


def _unpack(archive: Path, folder: Path, address: str) -> None:
    """Plain files and folders, within `folder`; nothing of it is kept if there is anything else."""
    folder.mkdir()
    try:
        with tarfile.open(archive, "r:") as tar:
            for count, member in enumerate(tar, start=1):
                if not (member.isreg() or member.isdir()) or member.issparse() or count > MOST:
                    raise CheckpointError(
                        f"{address}: holds {member.name!r:.60}, number {count}; expected files and folders of a "
                        f"checkpoint, at most {MOST}, and no links."
                    )
                tar.extract(member, folder, filter="data")
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise CheckpointError(
            f"{address}: is no plain, whole tar file ({error}); expected one of a checkpoint."
        ) from error
