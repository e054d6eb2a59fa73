"""Archives behind a URL whose names or links lead outside, and the server that offers them."""

from __future__ import annotations

import io
import tarfile
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Add = Callable[[tarfile.TarFile], None]


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", content: bytes = b"{}") -> Add:
    """Adds one entry, whatever it may be called."""

    def add(tar: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, link, len(content) if kind == tarfile.REGTYPE else 0
        tar.addfile(info, io.BytesIO(content))

    return add


HOSTILE: dict[str, Add] = {
    "a path above": member("../outside"),
    "a path far above": member("last/../../../outside"),
    "an absolute path": member("/tmp/anyformer-outside"),
    "a symbolic link": member("last", tarfile.SYMTYPE, "/etc"),
    "a hard link": member("last", tarfile.LNKTYPE, "../../outside"),
    "a device": member("last", tarfile.CHRTYPE),
    "a pipe": member("last", tarfile.FIFOTYPE),
    "a null": member("la\0st/../../outside"),
}


def archived(folder: Path, name: str, *parts: Add) -> str:
    """Writes a tar file; the end of its URL, with its digest."""
    with tarfile.open(folder / name, "w") as tar:
        for part in parts:
            part(tar)
    return f"{name}#sha256={sha256((folder / name).read_bytes()).hexdigest()}"


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing is printed for a request."""


@contextmanager
def served(folder: Path) -> Generator[str]:
    """The address at which this machine offers a folder's files."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
