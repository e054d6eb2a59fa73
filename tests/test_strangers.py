"""Plugins of other packages are named by the doctor, whatever they do at import; nothing is imported here for it."""

from __future__ import annotations

import os
import sys

import pytest

from anyformer.errors import PluginError
from anyformer.registry import Registry
from anyformer.testing import strangers

GROUP = "anyformer_tests.strangers"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """A package with one plugin, for this process and those that it starts."""

    def add(package: str, source: str, requires: str = "") -> None:
        site = tmp_path / package
        info = site / f"{package}-1.0.dist-info"
        info.mkdir(parents=True)
        needed = f"Requires-Dist: {requires}\n" if requires else ""
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n{needed}")
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n{package} = {package}:Plugin\n")
        (site / f"{package}.py").write_text(source)
        monkeypatch.syspath_prepend(str(site))
        paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))

    return add


def test_what_ends_python_and_what_changes_torch_is_named(install):
    """Neither can be caught or undone in one's own process."""
    install("leaver", "import os\nprint('bye', flush=True)\nos._exit(3)\n")
    install("meddler", "import torch\nprint('hello')\ntorch.nn.Linear = None\nclass Plugin: ...\n")
    told = sorted(strangers.complaints([Registry("plugin", GROUP)]))
    assert len(told) == 3
    assert "plugin 'leaver' of leaver (leaver:Plugin): Python exits (3) while importing it" in told[0]
    assert "it changes torch.nn.Linear at import" in told[1] and "meddler" in told[1]
    assert "it prints at import: 'hello'" in told[2]
    assert not {"leaver", "meddler"} & set(sys.modules)


def test_a_package_for_another_version_is_named(install, monkeypatch):
    install("late", "class Plugin: ...", requires="anyformer>=99")
    install("odd", "class Plugin: ...", requires="anyformer=>(1")
    install("fitting", "class Plugin: ...", requires="anyformer>=0.0.1")
    monkeypatch.setattr(strangers, "_import", lambda point, seconds: [])
    told = sorted(strangers.complaints([Registry("plugin", GROUP)]))
    assert len(told) == 2
    assert "late" in told[0] and "it requires anyformer>=99" in told[0]
    assert "odd" in told[1] and "cannot be read" in told[1]


def test_what_a_plugin_prints_is_no_answer_of_a_command(install, capsys):
    """`anyformer list --json` and others are read by programs."""
    install("chatty", "print('hello')\nclass Plugin: ...")
    found = Registry("plugin", GROUP)
    assert found.get("chatty").__name__ == "Plugin"
    out = capsys.readouterr()
    assert out.out == "" and "hello" in out.err
    with pytest.raises(PluginError):
        install("broken", "raise ValueError")
        Registry("plugin", GROUP).get("broken")
