"""`anyformer check checkpoint` says whether every file is as it was written; names of tokenizers lead nowhere."""

from __future__ import annotations

import pytest

from anyformer.chaos.damage import small
from anyformer.cli import main
from anyformer.errors import ConfigError
from anyformer.training import make_tokenizers


def status(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    return int(end.value.code or 0)


def test_a_sound_checkpoint_is_told_and_a_damaged_one_named(tmp_path, capsys):
    small(tmp_path / "it")
    assert status("check", "checkpoint", str(tmp_path / "it")) == 0
    assert "5 files are as they were written, at step 3" in capsys.readouterr().out
    file = tmp_path / "it" / "trainer.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert status("check", "checkpoint", str(tmp_path / "it")) == 1
    assert "trainer.safetensors is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "a/b", "a\\b", "..", ".hidden", "", "a\0b"])
def test_a_tokenizer_has_a_name_that_a_folder_may_have(name):
    """Its files are written under that name."""
    with pytest.raises(ConfigError, match="a name that a folder may have"):
        make_tokenizers({name: {"type": "characters"}})
