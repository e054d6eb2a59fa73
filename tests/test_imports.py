"""A process of ours imports of torchmetrics what Lightning takes; who asks for more finds all of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FILES = {
    "__init__.py": "runs = globals().get('runs', 0) + 1\nfrom .metric import Metric\nfrom .rest import Accuracy\n"
    "__all__ = ['Accuracy', 'Metric']\n",
    "__about__.py": "__version__ = '1.9'\n",
    "utilities.py": "from torchmetrics import _logger\n",
    "metric.py": "class Metric: pass\n",
    "collections.py": "class MetricCollection: pass\n",
    "rest.py": "from torchmetrics import Metric\nclass Accuracy(Metric): pass\n",
}
BEGIN = "from anyformer.imports import lean\nlean(); lean()\nimport torchmetrics as t\n"


def said(code: str, folder: Path | str = "") -> str:
    """What a process prints; with a torchmetrics of `folder`, of a few lines, where one is given."""
    begin = f"import sys; sys.path.insert(0, {str(folder)!r})\n" if folder else ""
    done = subprocess.run([sys.executable, "-c", begin + code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def package(folder: Path, files: dict[str, str]) -> Path:
    (folder / "torchmetrics").mkdir()
    for name, content in files.items():
        (folder / "torchmetrics" / name).write_text(content)
    return folder


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("t.Metric, t.MetricCollection, t.__version__", False),
        ("hasattr(t, '__wrapped__'), t.__path__, t.__file__", False),
        ("t.Accuracy", True),
        ("__import__('torchmetrics.rest').rest.Accuracy, t.Accuracy", True),
        ("t.__all__", True),
    ],
)
def test_the_rest_comes_when_it_is_asked_for_and_once(tmp_path, asked, found):
    code = f"{BEGIN}before = t.Metric\n{asked}\n{asked}\nassert t.Metric is before\nprint(vars(t).get('runs', 0))"
    assert said(code, package(tmp_path, FILES)) == str(int(found))


def test_what_is_nowhere_is_an_error_of_the_usual_kind(tmp_path):
    code = BEGIN + "try: t.Acuracy\nexcept AttributeError as error: print(error)"
    assert "has no attribute 'Acuracy'" in said(code, package(tmp_path, FILES))


def test_a_package_built_in_another_way_is_imported_whole(tmp_path):
    files = {"__init__.py": "here = True\n", "__about__.py": FILES["__about__.py"]}
    code = BEGIN + "print(t.here, hasattr(t, '_logger'))"
    assert said(code, package(tmp_path, files)) == "True False"


def test_without_torchmetrics_nothing_is_hidden():
    code = "import sys; from anyformer.imports import lean; lean(); sys.path.clear()\n"
    assert (
        said(code + "try: import torchmetrics\nexcept ModuleNotFoundError as error: print(error.name)")
        == "torchmetrics"
    )


def test_imports_are_not_searched_for_garbage_and_what_comes_later_is():
    code = "import gc; from anyformer.imports import without_collecting\n"
    code += "with without_collecting(): print(gc.isenabled())\nprint(gc.isenabled(), gc.get_freeze_count() > 0)"
    assert said(code).split() == ["False", "True", "True"]


def test_lightning_begins_without_scipy_torchvision_and_transformers():
    """The real ones; and a metric that is used afterwards is whole and of the class that Lightning knows."""
    code = (
        "import sys; from anyformer.imports import lean; lean()\n"
        "import lightning.pytorch as L\n"
        "print(sorted({'scipy', 'torchvision', 'transformers'} & set(sys.modules)))\n"
        "from lightning.pytorch.core.module import Metric\n"
        "from torchmetrics.classification import BinaryAccuracy\n"
        "import torchmetrics, torch\n"
        "made = torchmetrics.Accuracy(task='binary')\n"
        "assert isinstance(made, Metric) and type(made) is BinaryAccuracy and torchmetrics.Metric is Metric\n"
        "print(float(made(torch.tensor([1, 0]), torch.tensor([1, 1]))), len(torchmetrics.__all__) > 90)\n"
    )
    assert said(code).splitlines() == ["[]", "0.5 True"]


def test_data_workers_and_commands_that_do_not_train_begin_without_lightning():
    names = ("anyformer.training.preparation", "anyformer.training.workers", "anyformer.cli.evaluate")
    names += ("anyformer.cli.generate", "anyformer.cli.convert", "anyformer.cli.inspect")
    code = f"import sys, importlib\nfor name in {names}: importlib.import_module(name)\n"
    code += "print(sorted({'lightning', 'torchmetrics', 'torch._dynamo', 'sympy'} & set(sys.modules)))"
    assert said(code) == "[]"
