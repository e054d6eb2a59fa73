"""Data files that become more than they seem: refused with the file's name, before they fill the memory."""

from __future__ import annotations

import gzip
import tracemalloc

import numpy as np
import pytest

from anyformer.errors import ConfigError
from anyformer_tasks.files import SMALL, content, json_lines
from anyformer_tasks.vision.readers import idx_array


@pytest.mark.parametrize("read", [lambda path: content(path, "a text"), idx_array])
def test_few_bytes_that_become_too_many_are_refused(tmp_path, read):
    bomb = tmp_path / "bomb.gz"
    bomb.write_bytes(gzip.compress(bytes(8 * SMALL)))
    tracemalloc.start()
    with pytest.raises(ConfigError, match=r"bomb\.gz has \d+ bytes that become more than"):
        read(bomb)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 4 * SMALL


def test_what_is_packed_well_is_read(tmp_path):
    """Blank pictures are; so are small texts of one letter."""
    blank = tmp_path / "pictures.gz"
    blank.write_bytes(
        gzip.compress(b"\0\0\x08\3" + b"".join(n.to_bytes(4, "big") for n in (100, 28, 28)) + bytes(78400))
    )
    assert idx_array(blank).shape == (100, 28, 28) and not np.any(idx_array(blank))
    text = tmp_path / "text.gz"
    text.write_bytes(gzip.compress(b"a" * 1_000_000))
    assert content(text, "a text") == "a" * 1_000_000


@pytest.mark.parametrize("line", ["[" * 100_000, '{"a": ' + "9" * 5000 + "}", '{"a": '])
def test_json_that_cannot_be_read_is_one_typed_error(line):
    with pytest.raises(ConfigError, match=r"them\.jsonl, line 1: expected JSON"):
        list(json_lines(line, "them.jsonl"))
