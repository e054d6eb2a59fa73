"""Bytes as a bad disk, a bad network or a bad person leaves them."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

HUGE = (2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)


def flipped(data: bytes, rng: Random) -> bytes:
    """One bit."""
    out = bytearray(data)
    out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def replaced(data: bytes, rng: Random) -> bytes:
    """A few bytes."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        out[rng.randrange(len(out))] = rng.randrange(256)
    return bytes(out)


def truncated(data: bytes, rng: Random) -> bytes:
    return data[: rng.randrange(len(data))]


def extended(data: bytes, rng: Random) -> bytes:
    return data + rng.randbytes(rng.choice((1, 8, 4096)))


def inserted(data: bytes, rng: Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + rng.randbytes(rng.randint(1, 16)) + data[at:]


def deleted(data: bytes, rng: Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.randint(1, 64) :]


def zeroed(data: bytes, rng: Random) -> bytes:
    """A run, as of a block that was never written."""
    at, length = rng.randrange(len(data)), rng.choice((1, 16, 512, 4096))
    return data[:at] + bytes(len(data[at : at + length])) + data[at + length :]


def repeated(data: bytes, rng: Random) -> bytes:
    """A block written twice, the second time over its neighbour."""
    at, length = rng.randrange(len(data)), rng.choice((4, 64, 512))
    block = data[at : at + length]
    return data[:at] + block + block + data[at + 2 * length :]


def counted_wrongly(data: bytes, rng: Random) -> bytes:
    """A huge number near the beginning, where formats keep sizes."""
    width = rng.choice((2, 4, 8))
    number = (rng.choice(HUGE) % 2 ** (8 * width)).to_bytes(width, rng.choice(("big", "little")))
    at = rng.randrange(min(len(data), 256))
    return data[:at] + number + data[at + width :]


BYTES: dict[str, Callable[[bytes, Random], bytes]] = {
    "flipped": flipped,
    "replaced": replaced,
    "truncated": truncated,
    "extended": extended,
    "inserted": inserted,
    "deleted": deleted,
    "zeroed": zeroed,
    "repeated": repeated,
    "counted wrongly": counted_wrongly,
}

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 10**30, 1e308, float("nan"), float("inf"), "", "x", "../../x", "/etc/passwd", [], {}),
    *(["x"], {"x": {}}, {"class_path": "os.system"}, "http://localhost/x", "\x00", "é", [[[[[[]]]]]]),
)


def mutated(data: bytes, rng: Random) -> tuple[str, bytes]:
    """What was done, and the result: other bytes."""
    while True:
        change = rng.choice(list(BYTES))
        result = BYTES[change](data or b"\x00", rng)
        if result != data:
            return change, result


def edited(document: Any, rng: Random) -> Any:
    """Plain values with one of them changed, lost, renamed or moved deeper."""
    if isinstance(document, dict) and document and rng.random() < 0.85:
        key = rng.choice(list(document))
        inside = document[key]
        if isinstance(inside, (dict, list)) and inside and rng.random() < 0.7:
            return {**document, key: edited(inside, rng)}
        rest = {k: v for k, v in document.items() if k != key}
        return rng.choice(
            (rest, {**document, key: rng.choice(VALUES)}, {**rest, f"{key}x": inside}, {**document, "more": inside})
        )
    if isinstance(document, list) and document and rng.random() < 0.85:
        at = rng.randrange(len(document))
        return [*document[:at], edited(document[at], rng), *document[at + 1 :]]
    return rng.choice(VALUES)


def edited_json(data: bytes, rng: Random) -> bytes:
    """A JSON file with one value changed."""
    document = json.loads(data)
    while (other := edited(document, rng)) == document:
        continue
    return json.dumps(other).encode()
