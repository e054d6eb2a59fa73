"""The house keeps its plan: who imports whom, where no `__init__.py` may be, how long files may get."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE_ROOTS = ("platform", "tokenizers", "tasks")

ROOMS = (
    *("errors", "journal", "imports", "episode", "transcript", "registry", "presets", "architecture", "tokens", "mask"),
    *("batch", "contracts", "sublayers", "backbone", "recurrent", "model", "objectives", "checkpoint", "weights"),
    *("training", "evaluation", "reproduction", "matrix", "inspection", "testing", "chaos", "bench", "cli"),
)
"""The platform's rooms from left to right; each imports only what stands to its left."""

LONGEST_FILE = 400
LONGEST_FUNCTION = 60


def sources(root: str) -> list[Path]:
    return sorted((ROOT / root).rglob("*.py"))


def room_of(module: str) -> str:
    """`anyformer.model.session` → `model`; the package itself → ``."""
    return [*module.split("."), ""][1]


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Modules that a file imports, at its top or inside functions, but not for type checking only."""
    for node in _running(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively; write the whole name."
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__"):
            if node.args and isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value), node.lineno
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "anyformer":
            yield f"anyformer.{node.attr}", node.lineno


def _running(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            child = ast.Module(child.orelse, [])
        yield child
        yield from _running(child)


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def test_imports_are_seen_wherever_they_hide(tmp_path):
    """The reader that the tests below trust."""
    path = tmp_path / "some.py"
    path.write_text(
        "import a.b\nif TYPE_CHECKING:\n    import unseen\nelse:\n    import g\n"
        "def f():\n    from c import d, e\n    import_module('h')\nanyformer.cli.main()\n"
    )
    assert sorted(name for name, _ in imports(path)) == ["a.b", "anyformer.cli", "c.d", "c.e", "g", "h"]


def test_every_room_has_its_place():
    """A new room is added to ROOMS on purpose, where its imports allow."""
    package = ROOT / "platform/anyformer"
    found = {p.stem for p in package.iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()}
    assert found - {"__init__", "__main__"} <= set(ROOMS)


@pytest.mark.parametrize("path", sources("platform"), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_what_stands_to_its_left(path):
    own = path.relative_to(ROOT / "platform/anyformer").with_suffix("").parts[0]
    if own in ("__init__", "__main__"):
        pytest.skip("the front door opens onto every room")
    for name, line in imports(path):
        where = f"{path}:{line} imports {name}"
        assert not name.startswith(("anyformer_tokenizers", "anyformer_tasks")), where
        if name.startswith("anyformer.") and not name.startswith("anyformer.__"):
            assert room_of(name) in ROOMS, f"{where}; import it from its room"
            assert ROOMS.index(room_of(name)) <= ROOMS.index(own), f"{where}, to its right"


def test_the_front_door_opens_no_room_before_it_is_asked_for():
    """`import anyformer` costs milliseconds."""
    door = ast.parse((ROOT / "platform/anyformer/__init__.py").read_text())
    outer = [node for node in door.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert {node.module if isinstance(node, ast.ImportFrom) else "import" for node in outer} <= {
        *("__future__", "importlib", "typing")
    }


@pytest.mark.parametrize("own", ["tokenizers", "tasks"])
def test_plugins_import_only_the_platform_and_never_each_other(own):
    other = {"tokenizers": "anyformer_tasks", "tasks": "anyformer_tokenizers"}[own]
    files = sources(own)
    assert len(files) > 4
    for path in files:
        for name, line in imports(path):
            assert not name.startswith(other), f"{path}:{line} imports {name}"
            private = name.startswith("anyformer.") and any(part.startswith("_") for part in name.split("."))
            assert not private, f"{path}:{line} imports {name}, which is private"


@pytest.mark.parametrize("root", SOURCE_ROOTS)
def test_source_roots_are_not_packages(root):
    """With an `__init__.py` they would hide Python's own `platform` and Hugging Face's `tokenizers`."""
    assert (ROOT / root / f"anyformer{'' if root == 'platform' else f'_{root}'}" / "__init__.py").is_file()
    assert not (ROOT / root / "__init__.py").exists()


def test_platform_is_the_standard_librarys_from_the_root():
    program = "import platform; print(platform.__file__); print(platform.python_version())"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    where, version = done.stdout.split()
    assert ROOT / "platform" not in Path(where).parents and version.startswith("3.")


@pytest.mark.parametrize("root", SOURCE_ROOTS)
def test_files_and_functions_stay_short(root):
    for path in sources(root):
        text = path.read_text(encoding="utf-8")
        count = len(text.splitlines())
        assert count <= LONGEST_FILE, f"{path} has {count} lines; make it a folder of the same name."
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                size = (node.end_lineno or node.lineno) - node.lineno + 1
                assert size <= LONGEST_FUNCTION, f"{path}:{node.lineno} {node.name} has {size} lines; split it."


def test_every_entry_point_leads_to_a_class_or_function():
    """Read from the sources: importing would show only that this machine has every optional library."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {**project["entry-points"], "console scripts": project["scripts"]}
    assert len(groups) == 5
    for group, points in groups.items():
        for name, target in points.items():
            module, _, attribute = target.partition(":")
            assert attribute in _names_in(module), f"{group}: {name} = {target} leads nowhere"


def _names_in(module: str) -> set[str]:
    """Top-level names of a module, those it re-exports included."""
    places = [ROOT / root / Path(*module.split(".")) for root in SOURCE_ROOTS]
    files = [f for place in places for f in (place.with_suffix(".py"), place / "__init__.py") if f.is_file()]
    assert len(files) == 1, f"{module} is {len(files)} files: {files}"
    names: set[str] = set()
    for node in ast.parse(files[0].read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            names.update(alias.asname or alias.name for alias in node.names)
    return names
