"""Plugins by name: two ways in, refused duplicates, lazy imports, isolated failures, helpful errors."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import anyformer
from anyformer.errors import ConfigError, PluginError
from anyformer.registry import Registry, tasks, tokenizers

GROUP = "anyformer_tests.shapes"


@pytest.fixture
def shapes() -> Registry:
    return Registry("shape", GROUP)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Fake an installed package: its metadata, its entry points, its one module."""

    def add(package: str, points: dict[str, str], source: str = "", group: str = GROUP) -> Path:
        site = tmp_path / package
        info = site / f"{package}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
        (info / "entry_points.txt").write_text("\n".join(lines))
        (site / f"{package}.py").write_text(source)
        monkeypatch.delitem(sys.modules, package, raising=False)  # another test's package of this name
        monkeypatch.syspath_prepend(str(site))
        return site

    return add


@dataclass
class Square:
    side: float = 1.0
    colour: str = "red"


@dataclass
class Circle:
    radius: float


def test_a_decorated_class_is_listed_found_and_made(shapes):
    assert shapes.register("square")(Square) is Square
    assert shapes.names() == ["square"]
    assert shapes.get("square") is Square
    assert shapes.create("square", {"side": 2.0}) == Square(2.0)
    assert shapes.name_of(Square) == "square"


def test_an_installed_class_is_listed_with_its_package(shapes, install):
    install("rounds", {"round": "rounds:Round"}, "class Round: ...")
    assert shapes.names() == ["round"]
    assert shapes.origin("round") == "rounds:Round (rounds 1.0)"
    assert shapes.get("round").__name__ == "Round"
    assert shapes.name_of(shapes.get("round")) == "round"


def test_running_a_cell_again_replaces_its_class(shapes):
    def cell() -> type:
        @shapes.register("cell")
        class Cell: ...

        return Cell

    first, second = cell(), cell()
    assert first is not second and shapes.get("cell") is second


def test_two_decorated_classes_of_one_name_are_refused(shapes):
    shapes.register("one")(Square)
    with pytest.raises(PluginError, match=r"'one' is claimed by .*Square and by .*Circle"):
        shapes.register("one")(Circle)
    assert shapes.get("one") is Square


def test_a_decorated_class_may_not_take_an_installed_name(shapes, install):
    install("rounds", {"round": "rounds:Round"}, "class Round: ...")
    with pytest.raises(PluginError, match=r"'round' is claimed by rounds:Round \(rounds 1\.0\) and by .*Circle"):
        shapes.register("round")(Circle)


def test_two_packages_of_one_name_are_refused_and_both_named(shapes, install):
    install("rounds", {"round": "rounds:Round", "oval": "rounds:Round"}, "class Round: ...")
    install("globes", {"round": "globes:Globe"}, "class Globe: ...")
    assert shapes.names() == ["oval", "round"]
    with pytest.raises(PluginError, match=r"rounds 1\.0") as caught:
        shapes.get("round")
    assert "globes 1.0" in str(caught.value)
    assert shapes.get("oval").__name__ == "Round", "the other names of both packages still work"


def test_one_package_seen_on_two_paths_is_one_claim(shapes, install, tmp_path, monkeypatch):
    site = install("rounds", {"round": "rounds:Round"}, "class Round: ...")
    (tmp_path / "again").symlink_to(site)
    monkeypatch.syspath_prepend(str(tmp_path / "again"))
    assert shapes.get("round").__name__ == "Round"


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("raise RuntimeError('no such luck')", "RuntimeError: no such luck"),
        ("import a_module_that_nobody_has", "ModuleNotFoundError"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("def :", "SyntaxError"),
        ("Another = 1", "AttributeError"),
    ],
)
def test_a_broken_plugin_is_named_and_harms_nobody_else(shapes, install, source, cause):
    install("broken", {"bad": "broken:Bad"}, source)
    install("sound", {"good": "sound:Good"}, "class Good: ...")
    assert shapes.names() == ["bad", "good"]
    with pytest.raises(PluginError, match="broken:Bad") as caught:
        shapes.get("bad")
    assert cause in str(caught.value) and "broken 1.0" in str(caught.value)
    assert shapes.get("good").__name__ == "Good"


def test_an_unknown_name_gives_the_choices_and_the_nearest(shapes):
    shapes.register("square")(Square)
    shapes.register("circle")(Circle)
    with pytest.raises(ConfigError, match=r"Unknown shape 'sqare'; expected one of: circle, square\..*'square'\?"):
        shapes.get("sqare")


def test_a_misspelt_setting_gives_the_choices_and_the_nearest(shapes):
    shapes.register("square")(Square)
    with pytest.raises(ConfigError, match=r"'square' has no setting 'color'; .*side, colour\..*'colour'\?"):
        shapes.create("square", {"color": "blue"})


def test_a_missing_setting_is_a_configuration_error(shapes):
    shapes.register("circle")(Circle)
    with pytest.raises(ConfigError, match="'radius'"):
        shapes.create("circle")


def test_a_class_that_nothing_registered_has_no_name(shapes):
    with pytest.raises(PluginError, match=r"Circle is not a registered shape.*@register_shape"):
        shapes.name_of(Circle)


def test_the_built_in_plugins_come_by_entry_points():
    assert {"audio", "image", "rl", "text"} <= set(anyformer.list_tokenizers())
    assert {"cartpole", "dial_tones", "digits", "python_docs"} <= set(anyformer.list_tasks())
    assert {"next_token", "prefix", "return_conditioned"} <= set(anyformer.list_objectives())
    assert tokenizers.origin("text").startswith("anyformer_tokenizers.text:TextTokenizer (anyformer ")
    assert tasks.origin("digits").startswith("anyformer_tasks.digits:Digits (anyformer ")


def test_listing_imports_no_plugin_and_no_torch():
    """Start-up stays under a third of a second only as long as this holds."""
    program = """
import json, sys
import anyformer
names = anyformer.list_tokenizers() + anyformer.list_tasks() + anyformer.list_objectives()
heavy = [name for name in sys.modules if name.split(".")[0] in
         {"torch", "lightning", "numpy", "anyformer_tokenizers", "anyformer_tasks"}]
print(json.dumps([len(names), heavy]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    count, heavy = json.loads(done.stdout)
    assert count >= 11 and heavy == []
