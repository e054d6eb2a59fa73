"""Plugins of other packages are named by the doctor, whatever they do at import; nothing is imported here for it."""

from __future__ import annotations

import os
import sys

import pytest

from anyformer.cli import doctor
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


def test_the_doctor_asks_for_all_that_the_distribution_asks_for(monkeypatch, capsys):
    """Read from its metadata: a package that is missing or too old is told, with what it is needed for."""
    versions = {"torch": "2.11.0", "old": "1.0", "sometimes": "3.0"}
    lines = ["torch==2.11.0", "old>=2", "gone", "elsewhere; sys_platform == 'plan9'", "torch; extra == 'x'"]
    lines += ["sometimes>=4; extra == 'x'", "rare; extra == 'y'", "rare; extra == 'z'"]

    def version(name: str) -> str:
        if name not in versions:
            raise doctor.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(doctor, "version", version)
    monkeypatch.setattr(doctor, "requires", lambda name: lines)
    assert list(doctor._packages()) == [
        "old 1.0 is installed; expected >=2; install anyformer again, with its dependencies",
        "gone is not installed; install anyformer again, with its dependencies",
        "sometimes 3.0 is installed; expected >=4 (extra x); pip install 'anyformer[x]'",
    ]
    said = capsys.readouterr().out
    assert "rare: not installed; only needed for the extra y, z: pip install 'anyformer[y]'" in said
    assert "  torch 2.11.0\n" in said and "elsewhere" not in said
