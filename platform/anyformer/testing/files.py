"""Files that a data set really contains sooner or later: pictures and sounds of odd kinds, cut, empty, or claiming more
than they hold."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np


def hostile_files(folder: Path) -> list[Path]:
    """Write them into a folder; each name says what is odd."""
    paths = []
    for name, make in FILES.items():
        path = folder / name
        path.write_bytes(make())
        paths.append(path)
    (folder / "a folder.png").mkdir()
    (folder / "a link to itself.wav").symlink_to("a link to itself.wav")
    return [*paths, folder / "a folder.png", folder / "a link to itself.wav"]


def _picture(mode: str, size: tuple[int, int] = (24, 20), kind: str = "PNG", **more: object) -> bytes:
    from PIL import Image

    image = Image.effect_noise(size, 40.0).convert("I;16" if mode == "I;16" else mode)
    file = io.BytesIO()
    image.save(file, kind, **more)
    return file.getvalue()


def _turned() -> bytes:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    return _picture("RGB", kind="JPEG", exif=exif)


def _animated() -> bytes:
    from PIL import Image

    return _picture("P", kind="GIF", save_all=True, append_images=[Image.new("P", (24, 20), i) for i in range(3)])


def _png(width: int, height: int) -> bytes:
    """A header and little behind it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(1000))), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _wave(samples: int = 1600, rate: int = 16_000, channels: int = 1, claimed: int | None = None, fill: float = 0.1):
    """32-bit floats, as a header and samples."""
    content = np.full(samples * channels, fill, "<f4").tobytes()
    size = len(content) if claimed is None else claimed
    fmt = struct.pack("<HHIIHH", 3, channels, rate, (rate * channels * 4) % 2**32, channels * 4, 32)
    head = b"RIFF" + struct.pack("<I", (size + 36) % 2**32) + b"WAVEfmt " + struct.pack("<I", 16) + fmt
    return head + b"data" + struct.pack("<I", size) + content


FILES: dict[str, Callable[[], bytes]] = {
    "empty.png": bytes,
    "text.png": lambda: b"no picture at all",
    "one pixel.png": lambda: _picture("L", (1, 1)),
    "a line.png": lambda: _picture("L", (1, 10_000)),
    "16 bits.png": lambda: _picture("I;16"),
    "palette.png": lambda: _picture("P", transparency=0),
    "alpha.png": lambda: _picture("RGBA"),
    "grey and alpha.png": lambda: _picture("LA"),
    "CMYK.jpg": lambda: _picture("CMYK", kind="JPEG"),
    "floats.tif": lambda: _picture("F", kind="TIFF"),
    "turned.jpg": _turned,
    "animated.gif": _animated,
    "no pixels.png": lambda: _png(0, 0),
    "20000 x 20000.png": lambda: _png(20_000, 20_000),
    "2^31 x 1.png": lambda: _png(2**31 - 1, 1),
    "cut.png": lambda: _picture("RGB")[:-200],
    "cut.jpg": lambda: _picture("RGB", kind="JPEG")[:-100],
    "empty.wav": bytes,
    "no samples.wav": lambda: _wave(0),
    "one sample.wav": lambda: _wave(1),
    "a hundredth.wav": lambda: _wave(160),
    "ten hours.wav": lambda: _wave(claimed=10 * 3600 * 16_000 * 4),
    "4 GB.wav": lambda: _wave(claimed=2**32 - 40),
    "cut.wav": lambda: _wave()[:-1000],
    "NaN.wav": lambda: _wave(fill=float("nan")),
    "infinite.wav": lambda: _wave(fill=float("inf")),
    "loud.wav": lambda: _wave(fill=1e38),
    "clipped.wav": lambda: _wave(fill=5.0),
    "8000 Hz.wav": lambda: _wave(rate=8000),
    "44100 Hz.wav": lambda: _wave(rate=44_100),
    "0 Hz.wav": lambda: _wave(rate=0),
    "4 GHz.wav": lambda: _wave(rate=4 * 10**9),
    "9 channels.wav": lambda: _wave(channels=9),
    "no channels.wav": lambda: _wave(channels=0),
}
