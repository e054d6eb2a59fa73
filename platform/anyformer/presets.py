"""Where the configurations live, beside the sources in a checkout or inside the package in a wheel, and how each of
them is read: YAML as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from anyformer.errors import ConfigError, unknown

_HERE = Path(__file__).parent
ROOTS = (_HERE / "configs", _HERE.parents[1] / "configs")

LARGEST = 2**22  # bytes of a file
MOST_VALUES = 200_000  # in a file, one that an alias repeats counted each time
PLAIN = (str, int, float, bool, type(None), list, dict)

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is ten times as fast, where it is built in


def root() -> Path:
    """The folder that holds `experiments/` and `evaluations/`."""
    return next(folder for folder in ROOTS if folder.is_dir())


def find(kind: str, name: str) -> Path:
    """The YAML file of an experiment or evaluation by name."""
    files = {file.stem: file for file in sorted((root() / kind).glob("*.yaml"))}
    if name not in files:
        raise unknown(f"file in configs/{kind}", name, files)
    return files[name]


def read_mapping(path: Path, what: str) -> dict[str, Any]:
    """A file's settings by name; ConfigError names it as `what` and says what is wrong. See `parsed`."""
    try:
        size = path.stat().st_size
        if size > LARGEST or not path.is_file():
            raise ConfigError(f"{what} {path} has {size} bytes; expected a file of at most {LARGEST}.")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{what} {path} cannot be read ({error.strerror}); expected a YAML file.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{what} {path} is not YAML: {error}; expected UTF-8.") from error
    content = parsed(text, f"{what} {path}")
    if not isinstance(content, Mapping):
        raise ConfigError(f"{what} {path} holds {_kind(content)}; expected a mapping of settings.")
    return dict(content)


def parsed(text: str, what: str) -> Any:
    """YAML as plain values: text, numbers, lists and mappings. Nothing is imported and no variable is filled in.

    ConfigError for what is no YAML, for a name written twice, and for aliases that repeat each other without end.
    """
    try:
        loader = _LOADER(text)
        try:
            node = loader.get_single_node()
            _require_small(node, what)
            content = None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
        _require_plain(content, what)
    except ConfigError:
        raise
    except (yaml.YAMLError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise ConfigError(f"{what} is not YAML: {' '.join(str(error).split())[:300]}.") from error
    return content


def _require_small(node: yaml.Node | None, what: str) -> None:
    """Before any value is made: aliases can make a page of text into more values than fit the memory."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node, above: tuple[int, ...]) -> int:
        if id(node) in above:
            raise ConfigError(f"{what} repeats itself within itself; expected aliases of what stands before them.")
        if id(node) not in sizes:
            inner = [] if isinstance(node, yaml.ScalarNode) else node.value
            if isinstance(node, yaml.MappingNode):
                _require_once(node, what)
                inner = [part for pair in node.value for part in pair]
            sizes[id(node)] = 1 + sum(size(part, (*above, id(node))) for part in inner)
        return sizes[id(node)]

    found = 0 if node is None else size(node, ())
    if found > MOST_VALUES:
        raise ConfigError(f"{what} stands for {found} values; expected at most {MOST_VALUES}. Write fewer aliases.")


def _require_once(node: yaml.MappingNode, what: str) -> None:
    """Plain loaders silently keep the second of two values of one name."""
    names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"{what}: {twice!r} is written twice; expected it once.")


def _require_plain(value: Any, what: str) -> None:
    if type(value) not in PLAIN:
        raise ConfigError(f"{what} holds {_kind(value)} {str(value)!r:.40}; expected plain values. Write it in quotes.")
    for part in [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ():
        _require_plain(part, what)


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
