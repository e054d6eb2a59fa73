"""Packages that are an option."""

from __future__ import annotations

from importlib import metadata

from anyformer.errors import PluginError


def require(package: str, extra: str, use: str) -> None:
    """PluginError where the package is not installed. extra: of anyformer, the one that brings it. use: what asks for
    it, with a verb (`"The task 'digits' is a part of"`).

    Asked of the installed packages, before the import: what fails within a package is then told as it is.
    """
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        raise PluginError(f"{use} {package}, which is not installed; pip install 'anyformer[{extra}]'.") from None
